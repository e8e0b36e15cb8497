"""A default that its own format refuses makes the whole CRD invalid, and only an API server says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oarlock_operator.crd import definition


def defaults(schema: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, format, default) of each field that has both."""
    if isinstance(schema, dict):
        if isinstance(schema.get("format"), str) and "default" in schema:
            yield path, schema["format"], schema["default"]
        for key, value in schema.items():
            yield from defaults(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for n, value in enumerate(schema):
            yield from defaults(value, f"{path}/{n}")


def test_no_default_is_refused_by_its_own_format() -> None:
    found = list(defaults(definition()))
    assert {kind for _, kind, _ in found} <= {"int32", "int64", "date-time"}, "a format that this test does not know"
    assert not [path for path, kind, value in found if kind == "date-time" or not isinstance(value, int)]


def test_such_a_default_is_found() -> None:
    field = {"type": "string", "format": "date-time", "default": ""}
    assert list(defaults({"properties": {"at": field}})) == [("/properties/at", "date-time", "")]
