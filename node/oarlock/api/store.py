"""Between HTTP and the store: commands out of requests, answers out of results. Pure but for the reading.

A read opens a transaction and closes it in the same turn of the loop (rule 25).
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec

from oarlock import kv
from oarlock.api.problems import ApiError
from oarlock.kv import KeyValue, Page, encode_delete, encode_put, result_number
from oarlock.machine import Environment, Result, Status

__all__ = ["count", "encode_delete", "encode_put", "envelope", "get", "json_key", "page", "refusal"]

_REFUSALS: dict[int, tuple[int, str, bool, str]] = {
    Status.NOT_FOUND: (404, "key_not_found", False, "there is no such key"),
    Status.KEY_REUSED: (
        422,
        "idempotency_key_reused",
        False,
        "this Idempotency-Key was used for another request: use a new key for a new request",
    ),
    Status.KEYS_FULL: (
        429,
        "idempotency_full",
        True,
        "too many idempotency keys are remembered: try again in some seconds, or write without a key",
    ),
    Status.INVALID: (400, "invalid_argument", False, "the store does not accept this command"),
}


def get(environment: Environment, key: bytes, revision: int | None) -> KeyValue | None:
    """The key now, or as it was at `revision`. Raises ApiError (400, 410) for a revision that cannot be read."""
    with environment.reader() as trees:
        try:
            return kv.get(trees, key, revision)
        except kv.RevisionUnavailable as e:
            raise _unavailable(e) from None


def page(
    environment: Environment,
    prefix: bytes,
    after: bytes,
    limit: int,
    *,
    keys_only: bool = False,
    count_only: bool = False,
    revision: int | None = None,
) -> Page:
    """One page of a list, at most as long as one turn of the loop may take. Raises as `get`."""
    with environment.reader() as trees:
        try:
            return kv.list_page(trees, prefix, after, limit, keys_only, count_only, revision)
        except kv.RevisionUnavailable as e:
            raise _unavailable(e) from None


async def count(environment: Environment, prefix: bytes, after: bytes, revision: int | None) -> tuple[int, int]:
    """(number of keys, revision they were counted at), a part a turn."""
    total = 0
    while True:
        part = page(environment, prefix, after, 1, count_only=True, revision=revision)
        total += part.count
        if not part.more:
            return total, part.revision
        after, revision = part.after, part.revision
        await asyncio.sleep(0)


def refusal(result: Result) -> ApiError:
    """The problem that a command's result is, where it is none of the results that a call expects."""
    status = result.status
    if status == Status.PRECONDITION:
        current = result_number(result.body)
        detail = f"the key is at revision {current}" if current else "there is no such key"
        return ApiError(
            412,
            "precondition_failed",
            f"the condition does not hold: {detail}",
            extra={"current_mod_revision": current},
        )
    if status == Status.KEY_EXPIRED:
        detail = "this Idempotency-Key is older than its record is kept: whether it was applied then is not known"
        return ApiError(409, "idempotency_expired", detail, outcome="unknown")
    if status in _REFUSALS:
        http_status, code, retryable, detail = _REFUSALS[status]
        headers = [(b"retry-after", b"5")] if http_status == 429 else None
        return ApiError(http_status, code, detail, retryable=retryable, headers=headers)
    detail = f"the store answered with a status that this member does not know ({status}): upgrade it"
    return ApiError(500, "unknown_status", detail, outcome="unknown")


def json_key(key: bytes) -> bytes:
    """`"key":"…"`, or `"key_b64":"…"` for a key that is not UTF-8: a member of a JSON object."""
    name, text = _text("key", key)
    return b'"%s":%s' % (name.encode(), msgspec.json.encode(text))


def _text(name: str, value: bytes) -> tuple[str, str]:
    try:
        return name, value.decode("utf-8")
    except UnicodeDecodeError:
        return f"{name}_b64", base64.b64encode(value).decode()


def envelope(item: KeyValue, *, with_value: bool = True) -> dict[str, Any]:
    """A key as JSON: `key` and `value` as text if they are UTF-8, else `key_b64` and `value_b64`."""
    name, text = _text("key", item.key)
    body: dict[str, Any] = {name: text}
    if with_value:
        name, text = _text("value", item.value)
        body[name] = text
    body["create_revision"] = item.create_revision
    body["mod_revision"] = item.mod_revision
    body["version"] = item.version
    return body


def _unavailable(error: kv.RevisionUnavailable) -> ApiError:
    if isinstance(error, kv.Compacted):
        return ApiError(410, "compacted", str(error), extra={"compact_revision": error.floor})
    current = error.current if isinstance(error, kv.FutureRevision) else 0
    return ApiError(400, "future_revision", str(error), extra={"current_revision": current})
