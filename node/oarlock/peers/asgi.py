"""What a member answers on /raft/*: streams, hellos, snapshot files. A plain ASGI app; the API mounts it on port 2380.

Rules of this module:
* The token comes first, compared in constant time: without it nothing is parsed, nothing changes, nobody is told.
* Then the hello (rule 31): its format, its identity, and only then what the runtime thinks of the opener.
* A request has no body, and none is read.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec

from oarlock.peers.hello import (
    HEADER_NAME,
    STATUS,
    BadHello,
    Hello,
    HelloKind,
    LocalIdentity,
    Verdict,
    decode_hello,
    encode_hello,
    judge_identity,
)
from oarlock.peers.messages import StreamKind
from oarlock.peers.options import PeerCounters, PeerOptions
from oarlock.peers.outgoing import Outbox
from oarlock.peers.snapshot_serve import send_file
from oarlock.raft.types import NodeId

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_SNAPSHOT = re.compile(r"/raft/snapshot/([0-9a-f]{64})\Z")

_WHY = {
    Verdict.WRONG_CLUSTER: "this member belongs to another cluster, or the opener to none",
    Verdict.WRONG_TARGET: "this is another member than the one that was meant; its own hello tells which",
    Verdict.WRONG_SENDER: "the opener has this member's id; two processes must not run on copies of one data directory",
    Verdict.REMOVED: "the opener was removed from this cluster; its id never returns",
    Verdict.TOO_MANY: "too many members that no configuration names are connected; try again later",
    Verdict.NOT_READY: "this member cannot take part yet; try again later",
}


class Served(Protocol):
    """What the app asks of the transport that it speaks for."""

    options: PeerOptions
    counters: PeerCounters

    def local_identity(self) -> LocalIdentity: ...
    def hello_for(self, peer: NodeId, kind: HelloKind) -> Hello: ...
    async def judge(self, hello: Hello) -> Verdict: ...
    def is_removed(self, node_id: NodeId) -> bool: ...
    def open_outbox(self, hello: Hello, kind: StreamKind) -> Outbox: ...
    def close_outbox(self, outbox: Outbox) -> None: ...
    def register_pump(self, outbox: Outbox, timeout: asyncio.Timeout) -> None: ...
    def snapshot_path(self, digest: str) -> Path | None: ...
    def snapshot_progress(self, peer: NodeId, digest: str) -> None: ...


class PeerApp:
    def __init__(self, served: Served, token: str) -> None:
        self._served = served
        self._expected = f"Bearer {token}".encode()
        self._snapshot_streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            await self._refuse(send, 401, "unauthorized", "the cluster's bearer token is needed", hello=None)
            return
        if scope["method"] != "GET":
            await self._refuse(send, 405, "method_not_allowed", "only GET", extra=[(b"allow", b"GET")])
            return
        path: str = scope["path"]
        if path == "/raft/stream":
            kind = _stream_kind(scope["query_string"])
            if kind is None:
                await self._refuse(send, 400, "bad_request", "kind must be control or data")
                return
            hello = await self._admit(headers, HelloKind(kind.value), send)
            if hello is not None:
                await self._stream(hello, kind, receive, send)
        elif path == "/raft/hello":
            hello = await self._admit(headers, HelloKind.HELLO, send)
            if hello is not None:
                await send(_start(200, [*self._own_hello(hello.node_id), (b"content-length", b"0")]))
                await send({"type": "http.response.body", "body": b""})
        elif match := _SNAPSHOT.match(path):
            hello = await self._admit(headers, HelloKind.SNAPSHOT, send)
            if hello is not None:
                await self._snapshot(hello, match[1], headers, receive, send)
        else:
            await self._refuse(send, 404, "not_found", "no such path")

    async def _admit(self, headers: dict[bytes, bytes], kind: HelloKind, send: Send) -> Hello | None:
        """The opener's hello, or None after it was refused."""
        try:
            hello = decode_hello(headers.get(HEADER_NAME.encode(), b""))
            if hello.kind is not kind:
                raise BadHello(Verdict.BAD_HELLO, f"the hello is for {hello.kind}, the request for {kind}")
        except BadHello as error:
            self._served.counters.rejected[error.verdict.value] += 1
            await self._refuse(send, STATUS[error.verdict], error.verdict.value, str(error))
            return None
        verdict = judge_identity(self._served.local_identity(), hello)
        if verdict is Verdict.OK:
            verdict = await self._served.judge(hello)
        elif verdict is Verdict.WRONG_TARGET and self._served.is_removed(hello.node_id):
            verdict = Verdict.REMOVED  # or it would never hear it: all that it knew may have been replaced
        if verdict is Verdict.OK:
            return hello
        self._served.counters.rejected[verdict.value] += 1
        await self._refuse(send, STATUS[verdict], verdict.value, _WHY[verdict], hello=hello)
        return None

    async def _stream(self, hello: Hello, kind: StreamKind, receive: Receive, send: Send) -> None:
        headers = [
            *self._own_hello(hello.node_id),
            (b"content-type", b"application/octet-stream"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        await send(_start(200, headers))
        outbox = self._served.open_outbox(hello, kind)
        watcher = asyncio.create_task(_until_gone(receive), name=f"watch-{kind}-{hello.node_id}")
        watcher.add_done_callback(lambda _: outbox.abandon())
        try:
            async with asyncio.timeout(None) as timeout:
                self._served.register_pump(outbox, timeout)
                await outbox.pump(send)
        except TimeoutError:
            # The peer takes nothing. Returning without the response's end makes the server close the connection.
            self._served.counters.streams_stalled += 1
        finally:
            self._served.close_outbox(outbox)
            watcher.cancel()

    async def _snapshot(
        self, hello: Hello, digest: str, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        served = self._served
        path = served.snapshot_path(digest)
        if path is None:
            await self._refuse(send, 404, "not_found", "no such snapshot; a newer one was offered", hello=hello)
            return
        if self._snapshot_streams >= served.options.max_snapshot_streams:
            served.counters.rejected[Verdict.TOO_MANY.value] += 1
            await self._refuse(send, 503, Verdict.TOO_MANY.value, "too many snapshots are being fetched", hello=hello)
            return

        def on_chunk(size: int) -> None:
            served.counters.snapshot_bytes_sent += size
            served.snapshot_progress(hello.node_id, digest)

        self._snapshot_streams += 1
        watcher = asyncio.create_task(_until_gone(receive), name=f"watch-snapshot-{hello.node_id}")
        try:
            await send_file(
                path,
                digest,
                _text(headers.get(b"if-match")),
                _text(headers.get(b"range")),
                self._own_hello(hello.node_id),
                send,
                watcher,
                served.options.chunk_bytes,
                on_chunk,
            )
        except FileNotFoundError:
            await self._refuse(send, 404, "not_found", "the snapshot has just been deleted", hello=hello)
        finally:
            self._snapshot_streams -= 1
            watcher.cancel()

    def _own_hello(self, opener: NodeId) -> list[tuple[bytes, bytes]]:
        hello = self._served.hello_for(opener, HelloKind.HELLO)
        return [(HEADER_NAME.encode(), encode_hello(hello))]

    async def _refuse(
        self,
        send: Send,
        status: int,
        code: str,
        why: str,
        *,
        hello: Hello | None = None,
        extra: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """A problem (RFC 9457). Our own hello goes with it where the opener has shown one."""
        if status == 401:
            self._served.counters.rejected["unauthorized"] += 1
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": why,
            "code": code,
            "retryable": status == 503,
            "outcome": "not_applied",
        }
        body = msgspec.json.encode(problem)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            *(extra or []),
            *(self._own_hello(hello.node_id) if hello is not None else []),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send(_start(status, headers))
        await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> MutableMapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _stream_kind(query: bytes) -> StreamKind | None:
    try:
        return StreamKind(parse_qs(query.decode("ascii", "replace"), max_num_fields=4)["kind"][0])
    except (KeyError, ValueError):
        return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _until_gone(receive: Receive) -> None:
    """Returns when the opener has closed its connection; what it sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
