"""A whole answer in one write is byte for byte what uvicorn writes for the same answer, and ends the request alike."""

from __future__ import annotations

import pytest
from tests.unit.test_api_protocol import Port, Transport

from oarlock.api.asgi import Receive, Scope, Send, respond
from oarlock.api.whole import SCOPE_KEY

HEADERS = [(b"etag", b'"7"'), (b"content-type", b"application/json")]


class Answering(Port):
    """Answers every request with `status` and `body`, in one write or through ASGI."""

    def __init__(self, status: int, body: bytes, *, whole: bool) -> None:
        super().__init__()
        self.status, self.body, self.whole = status, body, whole
        self.state.default_headers = [(b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        await receive()
        head = scope["method"] == "HEAD"
        if self.whole:
            assert scope[SCOPE_KEY](self.status, list(HEADERS), self.body, head)
        else:
            await respond(send, self.status, list(HEADERS), self.body, head=head)

    async def exchange(self, request: bytes) -> Transport:
        protocol, transport = self.connect()
        protocol.data_received(request)
        await self.settle()
        protocol.connection_lost(None)
        return transport


@pytest.mark.parametrize(("status", "body"), [(200, b"value"), (200, b""), (201, b"{}"), (204, b""), (304, b"")])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("connection", [b"", b"connection: close\r\n", b"connection: keep-alive\r\n"])
async def test_whole_answer_is_the_same_bytes(
    status: int, body: bytes, method: bytes, version: bytes, connection: bytes
) -> None:
    request = method + b" /a HTTP/" + version + b"\r\nhost: x\r\n" + connection + b"\r\n"
    whole = await Answering(status, body, whole=True).exchange(request)
    usual = await Answering(status, body, whole=False).exchange(request)
    assert whole.written == usual.written
    assert whole.closed == usual.closed


async def test_pipelined_whole_answers_follow_each_other() -> None:
    transport = await Answering(200, b"v", whole=True).exchange(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
    assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == 3


async def test_whole_answer_is_refused_while_the_client_takes_nothing() -> None:
    """Back-pressure is ASGI's: the usual way waits, this one must not buffer."""
    port = Answering(200, b"v", whole=True)
    protocol, transport = port.connect()
    protocol.data_received(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n")
    protocol.pause_writing()
    assert protocol.active is not None
    answer = protocol.active.scope[SCOPE_KEY]  # type: ignore[literal-required]
    assert not answer(200, [], b"v", False)
    assert transport.written == b""
    protocol.resume_writing()
    protocol.data_received(b"x")
    await port.settle()
    assert transport.status == 200


async def test_whole_answer_to_nobody_is_dropped() -> None:
    port = Answering(200, b"v", whole=True)
    protocol, transport = port.connect()
    protocol.data_received(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
    protocol.connection_lost(None)
    await port.settle()
    assert transport.written == b""
