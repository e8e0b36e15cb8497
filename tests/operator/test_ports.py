"""The edges: the client of members, and the port for metrics and liveness."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from tests.operator.worlds import answer

import oarlock_operator
from oarlock.wire.admin import NotesRequest, TransferRequest
from oarlock_operator.members import MemberError, Members
from oarlock_operator.metrics import Metrics
from oarlock_operator.serving import serve


def members(handler: object) -> Members:
    return Members(httpx.AsyncClient(transport=httpx.MockTransport(handler)))  # type: ignore[arg-type]  # any callable


async def test_a_member_is_asked_at_its_address_with_the_token() -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text=answer(0, None, None).model_dump_json())

    found = await members(handler).status("10.0.0.7", "secret")
    assert found.name == "demo-0"
    assert str(asked[0].url) == "http://10.0.0.7:2380/admin/status"
    assert asked[0].headers["authorization"] == "Bearer secret"
    await members(handler).status("fd00::7", "secret")
    assert str(asked[1].url) == "http://[fd00::7]:2380/admin/status"


async def test_only_what_is_set_is_sent() -> None:
    """An absent note leaves the member's own alone; null would erase it."""
    sent: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(204)

    await members(handler).notes("10.0.0.7", "secret", NotesRequest(volume_uid="v"))
    assert json.loads(sent[0]) == {"volume_uid": "v"}


async def test_a_refusal_keeps_the_members_own_sentence() -> None:
    problem = {
        "title": "Not the leader",
        "status": 421,
        "detail": "demo-1 leads",
        "code": "not_leader",
        "retryable": True,
        "outcome": "not_applied",
        "leader": "demo-1",
    }
    request, client = (
        TransferRequest(target="demo-1-0123456789abcdef"),
        members(lambda _: httpx.Response(421, json=problem)),
    )
    with pytest.raises(MemberError, match="demo-1 leads") as refused:
        await client.transfer("10.0.0.7", "secret", request)
    assert (refused.value.code, refused.value.status) == ("not_leader", 421)


@pytest.mark.parametrize("body", ["<html>", "{}", '{"state": "Dancing"}', "[" * 10_000, ""])
async def test_an_answer_that_is_none_is_an_error_and_nothing_else(body: str) -> None:
    with pytest.raises(MemberError):
        await members(lambda _: httpx.Response(200, text=body)).status("10.0.0.7", "secret")
    with pytest.raises(MemberError, match="answered 502"):
        await members(lambda _: httpx.Response(502, text=body)).status("10.0.0.7", "secret")


async def test_silence_is_an_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("nobody")

    with pytest.raises(MemberError, match="ConnectTimeout: nobody"):
        await members(handler).status("10.0.0.7", "secret")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_liveness_fails_when_something_is_sick_and_metrics_are_served() -> None:
    metrics, why = Metrics(CollectorRegistry()), [""]
    metrics.introduce("default", "demo")
    port, stop = serve("127.0.0.1", 0, metrics.registry, lambda: why[0])
    try:
        assert get(port, "/healthz") == (200, "ok\n")
        why[0] = "no pass finished for too long: default/demo"
        assert get(port, "/healthz") == (503, "no pass finished for too long: default/demo\n")
        status, body = get(port, "/metrics")
        assert status == 200
        for name in (
            'oarlock_operator_reconciles_total{cluster="demo",namespace="default",result="ok"} 0.0',
            'oarlock_operator_reconcile_failures_total{cluster="demo",namespace="default"} 0.0',
            'oarlock_operator_reconcile_duration_seconds_count{cluster="demo",namespace="default"} 0.0',
            'oarlock_operator_membership_changes_total{cluster="demo",kind="promoted",namespace="default"} 0.0',
        ):
            assert name in body
        assert get(port, "/other")[0] == 404
    finally:
        stop()


def test_one_file_imports_kopf() -> None:
    """It supplies watches; everything else must be testable without it."""
    root = Path(oarlock_operator.__file__).parent
    importers = [
        f.name for f in root.rglob("*.py") if re.search(r"^\s*(import|from) kopf", f.read_text(), re.MULTILINE)
    ]
    assert importers == ["handlers.py"]
