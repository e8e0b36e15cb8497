"""`/openapi.json` describes what is served: the plain routes too, with the parameters that they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.member import running_member

from oarlock.api.kv_app import DELETE_PARAMETERS, GET_PARAMETERS, PUT_PARAMETERS
from oarlock.api.kv_list import PARAMETERS as LIST_PARAMETERS


def _query_names(operation: dict[str, Any]) -> set[str]:
    return {p["name"] for p in operation["parameters"] if p["in"] == "query"}


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*[_references(v) for v in node.values()])
    if isinstance(node, list):
        return set().union(*[_references(v) for v in node])
    return set()


async def test_openapi_describes_every_route_of_the_client_port(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        schema = (await member.client.get("/openapi.json")).json()
        assert set(schema["paths"]) == {"/v1/kv/{key}", "/v1/kv", "/v1/status", "/v1/cluster", "/v1/snapshot"}
        key = schema["paths"]["/v1/kv/{key}"]
        assert _query_names(key["put"]) == PUT_PARAMETERS
        assert _query_names(key["get"]) == _query_names(key["head"]) == GET_PARAMETERS
        assert _query_names(key["delete"]) == DELETE_PARAMETERS
        assert _query_names(schema["paths"]["/v1/kv"]["get"]) == LIST_PARAMETERS
        for reference in _references(schema):
            assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]
        page = await member.client.get("/docs")
        assert page.status_code == 200
        assert "/openapi.json" in page.text


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_admin_port_has_no_documentation_of_its_own(tmp_path: Path, path: str) -> None:
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        assert (await member.peer.get(path)).status_code == 404
