"""The client port (2379): the keys as a plain ASGI application, the rest and the documentation as FastAPI's.

* What is asked for often never reaches the framework.
* `/openapi.json` describes all of it, the plain routes included (`openapi.py`).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response, StreamingResponse

from oarlock.api.asgi import Receive, Scope, Send
from oarlock.api.framework import json_response, known_parameters, make_app
from oarlock.api.guard import Guarded
from oarlock.api.http_counts import HttpCounts
from oarlock.api.kv_app import PREFIX, KvApp
from oarlock.api.limits import Limits
from oarlock.api.openapi import add_kv_paths
from oarlock.api.problems import Headers
from oarlock.api.status import client_status_answer, cluster_answer
from oarlock.api.whole import AnswerWhole
from oarlock.runtime.node import Node
from oarlock.wire.client import ClientStatusAnswer, ClusterAnswer

CHUNK_BYTES = 256 * 1024

DESCRIPTION = (
    "A durable, linearizable key-value store. Every error is a problem (RFC 9457) whose `outcome` is truthful."
)

no_parameters = Depends(known_parameters())
fresh_only = Depends(known_parameters("fresh"))


class ClientApp:
    """Everything on the client port."""

    def __init__(self, node: Node, limits: Limits, counts: HttpCounts) -> None:
        self._kv = KvApp(node, limits, counts)
        self._rest = Guarded(client_app(node, limits, self._kv.common), counts, limits.max_admin_body_bytes)

    def takes(self, scope: Scope) -> bool:
        """May `direct` serve this request, once its body is there?"""
        return _is_key(scope["raw_path"]) and self._kv.takes(scope)

    def direct(self, scope: Scope, body: bytes, answer: AnswerWhole) -> None:
        self._kv.direct_put(scope, body, answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_key(scope["raw_path"]):
            await self._kv(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


def _is_key(raw_path: bytes) -> bool:
    return raw_path.startswith(PREFIX) and raw_path[len(PREFIX) : len(PREFIX) + 1] in (b"/", b"")


def client_app(node: Node, limits: Limits, common: Callable[[], Headers]) -> FastAPI:
    app = make_app("Oarlock", DESCRIPTION, docs=True)

    @app.get("/v1/status", response_model=ClientStatusAnswer, dependencies=[no_parameters])
    async def status() -> Response:
        """What this member is and how far it has come. Local: it asks nobody."""
        return json_response(client_status_answer(node.status()), _as_text(common()))

    @app.get("/v1/cluster", response_model=ClusterAnswer, dependencies=[no_parameters])
    async def cluster() -> Response:
        """Who takes part and who leads, as this member knows it."""
        return json_response(cluster_answer(node.status()), _as_text(common()))

    @app.get(
        "/v1/snapshot",
        response_class=Response,
        dependencies=[fresh_only],
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The file"}},
    )
    async def snapshot(
        fresh: Annotated[bool, Query(description="Take one first, unless the last one is as new as the state")] = False,
    ) -> Response:
        """The last finished snapshot as a file: a consistent backup. `Repr-Digest` is its SHA-256."""
        stack = AsyncExitStack()
        meta, file = await stack.enter_async_context(node.newest_snapshot(fresh=fresh))
        digest = base64.b64encode(bytes.fromhex(meta.digest)).decode()
        headers = {
            **_as_text(common()),
            "content-length": str(meta.size_bytes),
            "repr-digest": f"sha-256=:{digest}:",
            "content-disposition": f'attachment; filename="oarlock-{meta.term}-{meta.index}.snapshot"',
            "cache-control": "no-store",
            "oarlock-snapshot-index": str(meta.index),
            "oarlock-snapshot-term": str(meta.term),
        }
        read = partial(asyncio.to_thread, file.read, CHUNK_BYTES)
        seconds = limits.snapshot_seconds + meta.size_bytes / limits.snapshot_bytes_per_second
        return _FileAnswer(_chunks(read), headers, stack, seconds)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = add_kv_paths(schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


class _FileAnswer(StreamingResponse):
    """Streams an open file, which is closed however the answer ends; after `seconds` it ends, whole or not."""

    def __init__(
        self, content: AsyncIterator[bytes], headers: dict[str, str], stack: AsyncExitStack, seconds: float
    ) -> None:
        super().__init__(content, 200, headers, "application/octet-stream")
        self._stack = stack
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            with suppress(TimeoutError):  # uvicorn closes the connection of an answer that is not whole, and says so
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)


async def _chunks(read: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while chunk := await read():
        yield chunk


def _as_text(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
