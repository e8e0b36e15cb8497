"""The bounds of a connection, on the real protocol class with a transport that only remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from uvicorn.server import ServerState

from oarlock.api.limits import Limits
from oarlock.api.protocol import BoundedProtocol
from oarlock.api.server import configuration

LIMITS = Limits(max_head_bytes=1024, max_connections=2, head_seconds=10, body_seconds=30, stalled_write_seconds=30)


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    @property
    def status(self) -> int:
        return int(self.written.split(b" ")[1]) if self.written else 0

    @property
    def problem(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.written.partition(b"\r\n\r\n")[2])
        return parsed


@dataclass
class Port:
    """One server without sockets. The application remembers what reached it, and answers 200 with the body's size."""

    rejected: dict[str, int] = field(default_factory=dict)
    state: ServerState = field(default_factory=ServerState)
    requests: list[str] = field(default_factory=list)

    async def app(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.requests.append(scope["path"])
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        body = str(size).encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def connect(self) -> tuple[BoundedProtocol, Transport]:
        config = configuration(self.app, LIMITS, self.rejected)
        config.load()
        kind = config.http_protocol_class
        protocol = kind(config=config, server_state=self.state, app_state={}, _loop=asyncio.get_running_loop())  # type: ignore[call-arg, misc]
        assert isinstance(protocol, BoundedProtocol)
        transport = Transport()
        protocol.connection_made(transport)
        return protocol, transport

    async def settle(self) -> None:
        """Until no request is being worked on; one that was queued behind another starts when that ends."""
        while tasks := list(self.state.tasks):
            await asyncio.gather(*tasks)
            await asyncio.sleep(0)  # a task that is done already is taken off the set in a turn of the loop


GET = b"GET /v1/kv/a HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_request_within_the_bounds_is_served() -> None:
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" + GET)
    await port.settle()
    assert port.requests == ["/a", "/v1/kv/a"]
    assert transport.written.count(b"HTTP/1.1 200") == 2
    assert sum(port.rejected.values()) == 0
    assert not transport.closed


MALFORMED = {
    "garbage": b"\x00\x01\x02\x03garbage\r\n\r\n",
    "tls hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 64,
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "bad version": b"GET / HTTP/9.9\r\n\r\n",
    "two lengths": b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "length and chunks": b"PUT /a HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "length is no number": b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3x\r\n\r\nabc",
    "negative length": b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "length overflows": b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    "bad chunk": b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "space in header name": b"GET / HTTP/1.1\r\nho st: x\r\n\r\n",
    "nul in header": b"GET / HTTP/1.1\r\nhost: x\r\na: \x00\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
    "raw bytes in the path": b"GET /v1/kv/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request_is_answered_closed_and_counted(name: str) -> None:
    """Smuggling and garbage: 400 (or nothing reaches the store by it), closed, and counted."""
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(MALFORMED[name])
    protocol.data_received(GET)
    await port.settle()
    assert "/v1/kv/a" not in port.requests, "what follows a malformed request is never another request"
    assert transport.closed
    assert port.rejected["malformed"] == 1
    if not transport.written.startswith(b"HTTP/1.1 200"):
        assert transport.status == 400
        assert transport.problem["code"] == "malformed_request"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"k" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % i for i in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: " + b"v" * 2000,
    ],
    ids=["long path", "many headers", "a header without end"],
)
async def test_head_beyond_the_bound_is_431(head: bytes) -> None:
    port = Port()
    protocol, transport = port.connect()
    for start in range(0, len(head), 100):
        protocol.data_received(head[start : start + 100])
    await port.settle()
    assert transport.status == 431
    assert transport.problem["code"] == "headers_too_large"
    assert transport.closed
    assert port.requests == []
    assert port.rejected["head_too_large"] == 1


async def test_slow_head_is_ended() -> None:
    """Slowloris: a head that dribbles in, or never begins, holds a connection for ten seconds at most."""
    for first in (b"", b"GET / HT"):
        port = Port()
        protocol, transport = port.connect()
        if first:
            protocol.data_received(first)
        now = asyncio.get_running_loop().time()
        protocol.sweep(now + 9)
        assert not transport.closed
        protocol.sweep(now + 11)
        assert (transport.status, transport.closed) == (408, True)
        assert port.rejected["slow_head"] == 1


async def test_slow_body_is_ended_and_its_application_told() -> None:
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()
    protocol.sweep(now + 29)
    assert not transport.closed
    protocol.sweep(now + 31)
    assert (transport.status, transport.closed) == (408, True)
    await port.settle()
    assert transport.written.count(b"HTTP/1.1") == 1
    assert port.rejected["slow_body"] == 1


async def test_answer_that_nobody_takes_is_cut_off() -> None:
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(GET)
    await port.settle()
    protocol.pause_writing()
    now = asyncio.get_running_loop().time()
    protocol.sweep(now + 29)
    assert not transport.aborted
    protocol.sweep(now + 31)
    assert transport.aborted
    assert port.rejected["stalled_answer"] == 1


async def test_writer_that_recovers_is_left_alone() -> None:
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(GET)
    await port.settle()
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.sweep(asyncio.get_running_loop().time() + 60)
    assert not transport.aborted


async def test_an_idle_connection_is_kept_for_a_while_and_then_closed() -> None:
    """Between requests neither the head's time-out nor the body's counts; the idle one does, anew after each answer."""
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(GET)
    await port.settle()
    idle = Limits().idle_seconds
    protocol.sweep(asyncio.get_running_loop().time() + idle - 1)
    assert not transport.closed
    protocol.data_received(GET[:10])  # the next one begins: now it is the head that counts
    assert protocol.idle_since is None
    protocol.data_received(GET[10:])
    await port.settle()
    assert transport.written.count(b"HTTP/1.1 200") == 2
    protocol.sweep(asyncio.get_running_loop().time() + idle + 1)
    assert transport.closed


async def test_pipelined_requests_end_with_their_connection() -> None:
    """The one that is worked on writes nothing to a closed transport, and the ones behind it never begin."""
    port = Port()
    protocol, transport = port.connect()
    protocol.data_received(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx" + GET + GET)
    protocol.connection_lost(None)
    await port.settle()
    assert port.requests == ["/a"]
    assert transport.written == b""


async def test_connections_beyond_the_bound_are_told() -> None:
    """Rule 33: the bound is reached, answered and counted, and a place that is given back is given out."""
    port = Port()
    first, _ = port.connect()
    port.connect()
    third, transport = port.connect()
    assert (transport.status, transport.closed) == (503, True)
    assert transport.problem["code"] == "too_many_connections"
    assert port.rejected["too_many_connections"] == 1
    third.data_received(GET)
    await port.settle()
    assert port.requests == []
    third.connection_lost(None)
    first.connection_lost(None)
    _, again = port.connect()
    assert not again.closed
