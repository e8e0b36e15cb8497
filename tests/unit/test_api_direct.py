"""A PUT without a task says, byte for byte, what the usual way says; and it never holds up who stands below it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.member import RunningMember, running_member
from tests.unit.test_api_protocol import Port, Transport

from oarlock.api.client import ClientApp
from oarlock.api.direct import MAX_BODY_BYTES
from oarlock.api.http_counts import HttpCounts
from oarlock.api.limits import Limits
from oarlock.runtime.errors import stopping

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def member(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMember]:
    async with running_member(tmp_path_factory.mktemp("member") / "data") as running:
        yield running


class Counting(ClientApp):
    """The client port's application, and how many requests it served directly."""

    def __init__(self, member: RunningMember, limits: Limits | None = None) -> None:
        super().__init__(member.node, limits or member.limits, HttpCounts())
        self.served = 0

    def direct(self, scope: Any, body: bytes, answer: Any) -> None:
        self.served += 1
        super().direct(scope, body, answer)


async def exchange(app: Any, *chunks: bytes, answers: int = 1) -> Transport:
    port = Port()
    port.app = app  # type: ignore[method-assign]
    protocol, transport = port.connect()
    for chunk in chunks:
        protocol.data_received(chunk)
    async with asyncio.timeout(10):
        while transport.written.count(b"HTTP/1.1 ") < answers:  # noqa: ASYNC110  # the transport tells nobody
            await asyncio.sleep(0.001)
    await port.settle()
    protocol.connection_lost(None)
    return transport


def put(path: bytes, body: bytes = b"v", headers: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return b"PUT " + path + b" HTTP/1.1\r\nhost: x\r\nx-request-id: r\r\n" + length + headers + b"\r\n" + body


REQUESTS = {
    "create": [put(b"/v1/kv/K")],
    "replace": [put(b"/v1/kv/K"), put(b"/v1/kv/K", b"w")],
    "empty value": [put(b"/v1/kv/K", b"")],
    "create only, taken": [put(b"/v1/kv/K"), put(b"/v1/kv/K", headers=b"if-none-match: *\r\n")],
    "wrong revision": [put(b"/v1/kv/K", headers=b"if-match: 987654321\r\n")],
    "bad condition": [put(b"/v1/kv/K", headers=b"if-match: x\r\n")],
    "conditions that exclude each other": [put(b"/v1/kv/K", headers=b"if-match: 1\r\nif-none-match: *\r\n")],
    "header twice": [put(b"/v1/kv/K", headers=b"if-match: 1\r\nif-match: 2\r\n")],
    "no key": [put(b"/v1/kv/")],
    "bad escape": [put(b"/v1/kv/%zz")],
    "unknown parameter": [put(b"/v1/kv/K?consistensy=stale")],
    "idempotent": [put(b"/v1/kv/K", headers=b"idempotency-key: K-1\r\n")] * 2,
    "key reused": [put(b"/v1/kv/K", b, b"idempotency-key: K-2\r\n") for b in (b"v", b"w")],
    "bad idempotency key": [put(b"/v1/kv/K", headers=b"idempotency-key: a b\r\n")],
    "closes": [put(b"/v1/kv/K", headers=b"connection: close\r\n")],
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_say_the_same(member: RunningMember, name: str) -> None:
    app = Counting(member)

    async def usual(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    said = []
    for way, key in ((app, b"direct-"), (usual, b"usually")):
        for number, request in enumerate(REQUESTS[name]):
            prefix = name.encode().replace(b" ", b"-") + key
            transport = await exchange(way, request.replace(b"K", prefix))
            numberless = re.sub(rb"[0-9]+", b"N", transport.written.replace(prefix, b"K").replace(key, b""))
            said.append((number, numberless, transport.closed))
    half = len(said) // 2
    assert said[:half] == said[half:]
    assert app.served == half


@pytest.mark.parametrize("path", [b"/v1/kv/%ff%00", b"/v1/kv?key_b64=/wAB"])
async def test_binary_keys(member: RunningMember, path: bytes) -> None:
    app = Counting(member)
    transport = await exchange(app, put(path, path))
    assert transport.written.startswith(b"HTTP/1.1 201")
    assert b'"key_b64":"/w' in transport.written
    assert (await member.client.get(path.decode())).content == path
    assert app.served == 1


async def test_a_body_in_pieces_is_gathered(member: RunningMember) -> None:
    app = Counting(member)
    request = put(b"/v1/kv/pieces", b"x" * 3000)
    transport = await exchange(app, request[:20], request[20:200], request[200:-1], request[-1:])
    assert transport.written.startswith(b"HTTP/1.1 201")
    assert app.served == 1
    assert (await member.client.get("/v1/kv/pieces")).content == b"x" * 3000


@pytest.mark.parametrize(
    "request_",
    [
        put(b"/v1/kv/usual", b"x" * (MAX_BODY_BYTES + 1)),
        put(b"/v1/kv/usual", headers=b"expect: 100-continue\r\n"),
        b"PUT /v1/kv/usual HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"DELETE /v1/kv/usual?idempotent HTTP/1.1\r\nhost: x\r\n\r\n",
        put(b"/v1/kvx"),
    ],
)
async def test_what_is_not_small_and_whole_goes_the_usual_way(member: RunningMember, request_: bytes) -> None:
    app = Counting(member)
    transport = await exchange(app, request_, answers=2 if b"expect" in request_ else 1)
    assert transport.written
    assert app.served == 0


async def test_pipelined_puts_are_answered_in_order(member: RunningMember) -> None:
    requests = b"".join(put(b"/v1/kv/pipelined-%d" % n) for n in range(20))
    transport = await exchange(Counting(member), requests, answers=20)
    assert re.findall(rb'"key":"pipelined-([0-9]+)"', transport.written) == [b"%d" % n for n in range(20)]


async def test_one_without_an_answer_in_time_is_told_that_it_may_have_happened(
    member: RunningMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member.node, "submit", lambda *_, **__: None)  # nobody will ever answer
    app = Counting(member, Limits(request_seconds=0.1))
    transport = await exchange(app, put(b"/v1/kv/slow"))
    assert transport.written.startswith(b"HTTP/1.1 504")
    assert b'"outcome":"unknown"' in transport.written


@pytest.mark.parametrize(("error", "status"), [(stopping(), 503), (RuntimeError("a bug"), 500)])
async def test_what_goes_wrong_is_an_answer_and_nothing_else(
    member: RunningMember, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def submit(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(member.node, "submit", submit)
    transport = await exchange(Counting(member), put(b"/v1/kv/wrong"))
    assert transport.written.startswith(b"HTTP/1.1 %d" % status)


async def test_a_client_that_leaves_is_not_answered(member: RunningMember) -> None:
    port = Port()
    port.app = Counting(member)  # type: ignore[method-assign, assignment]
    protocol, transport = port.connect()
    protocol.data_received(put(b"/v1/kv/left"))
    protocol.connection_lost(None)
    async with asyncio.timeout(10):
        while (await member.client.get("/v1/kv/left")).status_code == 404:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert not transport.written
