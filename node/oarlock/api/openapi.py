"""The OpenAPI description of the plain-ASGI routes (`kv_app.py`, `kv_list.py`), merged into FastAPI's."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from oarlock.wire.client import CountAnswer, KeyAnswer, ListAnswer, PutAnswer
from oarlock.wire.problem import Problem

REF = "#/components/schemas/{model}"

Schema = dict[str, Any]


def add_kv_paths(schema: Schema) -> Schema:
    """`schema` with the key routes and their models. In place, and returned."""
    models = [(model, "serialization") for model in (PutAnswer, KeyAnswer, ListAnswer, CountAnswer, Problem)]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]  # the literal mode
    schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    schema["paths"]["/v1/kv/{key}"] = {"parameters": [_KEY], **_key_operations()}
    schema["paths"]["/v1/kv"] = {"get": _list_operation()}
    return schema


def _query(name: str, kind: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": kind, "description": text}


def _header(name: str, text: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": text}


def _json(model: str) -> Schema:
    return {"application/json": {"schema": {"$ref": REF.format(model=model)}}}


_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "Up to 1,536 bytes, percent-encoded; slashes may stand as they are. For binary keys leave it out"
    " and give `key_b64`.",
}
_KEY_B64 = _query("key_b64", {"type": "string"}, "The key as base64, instead of the path's")
_REDIRECT = _query("redirect", {"type": "boolean"}, "307 to the leader instead of forwarding")
_CONSISTENCY = _query(
    "consistency",
    {"type": "string", "enum": ["linearizable", "stale"], "default": "linearizable"},
    "`stale` is answered from this member's own state, however old that is",
)
_REVISION = _query("revision", {"type": "integer", "minimum": 1}, "Read the store as it was at this revision")
_IF_MATCH = _header("If-Match", 'Only if the key is at this revision: `"42"`; else 412')
_IDEMPOTENCY = _header("Idempotency-Key", "A retry with the same key returns the first result; kept for five minutes")
_PROBLEM = {"description": "A problem", "content": {"application/problem+json": _json("Problem")["application/json"]}}


def _responses(**named: Schema) -> Schema:
    return {**{name.removeprefix("r"): value for name, value in named.items()}, "default": _PROBLEM}


def _key_operations() -> Schema:
    etag = {"ETag": {"schema": {"type": "string"}, "description": "The key's mod_revision in quotes"}}
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    found = {"description": "The value", "headers": etag, "content": {**octets, **_json("KeyAnswer")}}
    written = {"headers": etag, "content": _json("PutAnswer")}
    none_match = _header("If-None-Match", "`*`: create the key, do not replace it; else 412")
    unchanged = _header("If-None-Match", "ETags the caller has; 304 if the key is at one of them")
    reads = [_KEY_B64, _CONSISTENCY, _REVISION, _REDIRECT, unchanged]
    return {
        "put": {
            "summary": "Write a key",
            "operationId": "put_key",
            "parameters": [_KEY_B64, _REDIRECT, _IF_MATCH, none_match, _IDEMPOTENCY],
            "requestBody": {"required": True, "content": octets},
            "responses": _responses(
                r200={"description": "Replaced", **written}, r201={"description": "Created", **written}
            ),
        },
        "get": {
            "summary": "Read a key",
            "operationId": "get_key",
            "parameters": reads,
            "responses": _responses(r200=found, r304={"description": "Not modified"}),
        },
        "head": {
            "summary": "A key's headers",
            "operationId": "head_key",
            "parameters": reads,
            "responses": _responses(r200={"description": "It exists", "headers": etag}),
        },
        "delete": {
            "summary": "Delete a key",
            "operationId": "delete_key",
            "parameters": [
                _KEY_B64,
                _REDIRECT,
                _query("idempotent", {"type": "boolean"}, "204 also if there is no such key"),
                _IF_MATCH,
                _IDEMPOTENCY,
            ],
            "responses": _responses(r204={"description": "Deleted"}),
        },
    }


def _list_operation() -> Schema:
    either: Schema = {"oneOf": [{"$ref": REF.format(model=name)} for name in ("ListAnswer", "CountAnswer")]}
    page = {"application/json": {"schema": either}}
    lines = {"application/x-ndjson": {"schema": {"$ref": REF.format(model="KeyAnswer")}}}
    return {
        "summary": "List keys by prefix",
        "operationId": "list_keys",
        "parameters": [
            _query("prefix", {"type": "string"}, "Keys that begin with it; without it, all"),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Keys on a page; 1,000 by default"),
            _query("after", {"type": "string"}, "Begin after this key"),
            _query("keys_only", {"type": "boolean"}, "Leave the values out"),
            _query("count_only", {"type": "boolean"}, "Only how many there are"),
            _REVISION,
            _CONSISTENCY,
        ],
        "responses": _responses(
            r200={
                "description": "A page, or with `Accept: application/x-ndjson` all, a line each",
                "content": page | lines,
            }
        ),
    }
