"""The few lines of ASGI that every application here shares: reading a bounded body, sending an answer.

No framework, no objects but the tuples that ASGI asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from oarlock.api.http_counts import HttpCounts
from oarlock.api.problems import CONTENT_TYPE, ApiError, BodyRefused, Headers, body_of, too_large

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED = 499
"""The status that the counters show for a client that went away in the middle of its request."""

LINGER_BYTES = 16 << 20
LINGER_SECONDS = 2.0
"""How much, and for how long, of a body that was refused is thrown away before the connection closes."""

NO_STORE = (b"cache-control", b"no-store")


class Disconnected(Exception):
    """The client went away before its request was complete; nobody waits for an answer."""


class Bodies:
    """Bounds the bytes of bodies that are kept and not whole yet, those of all connections together (rule 33)."""

    def __init__(self, most_bytes: int, counts: HttpCounts) -> None:
        self._most_bytes = most_bytes
        self._counts = counts

    def take(self, size: int) -> None:
        """Raises 429, and has taken nothing."""
        held = self._counts.reading_bytes
        if held + size > self._most_bytes:
            why = f"{held >> 20} MiB of requests are being read at this member: slow down, or use another"
            raise BodyRefused(429, "overloaded", why, retryable=True, wait=True)
        self._counts.reading_bytes += size

    def give(self, size: int) -> None:
        self._counts.reading_bytes -= size


async def read_body(receive: Receive, limit: int, bodies: Bodies) -> bytes:
    """The whole body. Raises 413 as soon as more than `limit` bytes have come, whatever was announced; 429 when too
    much is being read from others."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise body_too_large(limit)
        return body
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            bodies.take(len(body))
            size += len(body)
            chunks.append(body)
            if size > limit:
                raise body_too_large(limit)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            body = message.get("body", b"")
    finally:
        bodies.give(size)


def body_too_large(limit: int) -> BodyRefused:
    return too_large(f"the request's body has more than {limit} bytes")


async def respond(send: Send, status: int, headers: Headers, body: bytes, *, head: bool = False) -> None:
    """One answer with its Content-Length. `headers` is extended in place; `head`: the body itself stays away."""
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def respond_problem(send: Send, error: ApiError, headers: Headers) -> None:
    await respond(send, error.status, [*headers, CONTENT_TYPE, NO_STORE, *error.headers], body_of(error))


async def refuse_body(scope: Scope, receive: Receive, send: Send, error: ApiError, headers: Headers) -> None:
    """Answers with a problem while the request's body is still coming, so that the client sees the answer.

    Closing a connection on unread bytes resets it, and the reset overtakes the answer. So the answer goes out at once,
    what comes is thrown away for a moment, within bounds, and only then the connection closes. A client that waits for
    `100 Continue` sends nothing any more.
    """
    body = body_of(error)
    length = (b"content-length", b"%d" % len(body))
    head = [*headers, CONTENT_TYPE, NO_STORE, length, *error.headers]
    await send({"type": "http.response.start", "status": error.status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not any(name == b"expect" for name, _ in scope["headers"]):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await _discard(receive, LINGER_BYTES)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive, left: int) -> None:
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
