"""Query strings to a real member: whatever they say, the answer is a value or a refusal that docs/api.md names.

The whole applications are asked, with the bytes as they are: which reader gets which parameter is theirs to know, and a
client library would mend what is sent. The readers alone are in test_parsers.py, with a bound on their memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.member import TOKEN, RunningMember, running_member
from tests.property.test_parsers import bends, bent

from oarlock.api import kv_app, kv_list
from oarlock.api.admin import PeerApp
from oarlock.api.asgi import Message
from oarlock.api.client import ClientApp


class Call(NamedTuple):
    port: str
    method: str
    path: str
    parameters: frozenset[str]
    before: bytes = b""  # of every query string of this call
    headers: tuple[tuple[bytes, bytes], ...] = ()


BEARER = ((b"authorization", f"Bearer {TOKEN}".encode()),)
GET = kv_app.GET_PARAMETERS - {"key_b64"}
PUT = kv_app.PUT_PARAMETERS - {"key_b64"}
DELETE = kv_app.DELETE_PARAMETERS - {"key_b64"}
CALLS = {
    "get": Call("client", "GET", "/v1/kv/a", GET),
    "get by key_b64": Call("client", "GET", "/v1/kv", GET, b"key_b64=YQ&"),
    "head": Call("client", "HEAD", "/v1/kv/a", GET),
    "put": Call("client", "PUT", "/v1/kv/put", PUT),
    "put by key_b64": Call("client", "PUT", "/v1/kv", PUT, b"key_b64=YQ&"),
    "put without a path": Call("client", "PUT", "/v1/kv", frozenset({"key_b64"})),
    "direct put": Call("client", "PUT", "/v1/kv/put", PUT, headers=((b"content-length", b"1"),)),
    "delete": Call("client", "DELETE", "/v1/kv/put", DELETE),
    "list": Call("client", "GET", "/v1/kv", kv_list.PARAMETERS),
    "stream": Call("client", "GET", "/v1/kv", kv_list.PARAMETERS, headers=((b"accept", kv_list.NDJSON),)),
    "status": Call("client", "GET", "/v1/status", frozenset()),
    "snapshot": Call("client", "GET", "/v1/snapshot", frozenset({"fresh"})),
    "barrier": Call("peer", "GET", "/admin/barrier", frozenset({"timeout_seconds"}), headers=BEARER),
}
NAMES = sorted(frozenset[str]().union(*(call.parameters for call in CALLS.values())))

VALUES = [b"", b"1", b"2", b"true", b"false", b"linearizable", b"stale", b"YQ", b"YQ==", b"a", b"a/b", b"600"]
VALUES += [b"0", b"-1", b"01", b"1e9", b"0x1", b" 1", b"1_0", b"1.5", b"nan", b"inf", b"TRUE", b"yes", b"None", b"a,b"]
VALUES += [b"9" * 19, b"%d" % (2**63 - 1), b"%d" % 2**63, b"9" * 5000, b"k" * 1537, b"A" * 2052, b"Y", b"\0", b"\xff"]
VALUES += ["\u0661".encode(), "\u00b2".encode(), "\ud800".encode("utf-8", "surrogatepass"), b"{}", b"[]"]

names = st.sampled_from(NAMES) | st.sampled_from(NAMES) | st.sampled_from(["", "ttl", "Limit", "limit ", "lim\u0131t"])
written = st.one_of(st.sampled_from(VALUES), st.binary(max_size=40)).flatmap(
    lambda value: st.sampled_from([value, quote_from_bytes(value, "").encode()])
)
parts = st.tuples(names, st.sampled_from([b"=", b"=", b"=", b""]), written).map(lambda p: p[0].encode() + p[1] + p[2])
strings = st.one_of(
    st.lists(parts, max_size=4).map(b"&".join),
    st.tuples(st.lists(parts, min_size=1, max_size=4).map(b"&".join), bends).map(lambda both: bent(*both)),
    st.binary(max_size=100),
)

ANSWERED = {(200, ""), (201, ""), (204, ""), (404, "key_not_found")}
REFUSED = {(400, code) for code in ("invalid_argument", "empty_key", "unknown_parameter", "future_revision")}
REFUSED |= {(413, "request_too_large")}


class World(NamedTuple):
    runner: asyncio.Runner
    member: RunningMember
    client: ClientApp
    peer: PeerApp

    def ask(self, name: str, query: bytes) -> tuple[int, str]:
        """Status, and the code if the answer is a problem."""
        status, body = self.runner.run(self._answer(CALLS[name], query))
        return status, json.loads(body)["code"] if status >= 400 and body else ""

    async def described(self) -> str:
        return (await self.member.client.get("/openapi.json")).text

    async def _answer(self, call: Call, query: bytes) -> tuple[int, bytes]:
        scope = {"type": "http", "http_version": "1.1", "method": call.method, "scheme": "http", "root_path": ""}
        scope |= {"path": call.path, "raw_path": call.path.encode(), "query_string": call.before + query}
        scope |= {"headers": list(call.headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
        if self.client.takes(scope):  # as the server asks, and does
            whole: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
            self.client.direct(scope, b"x", lambda status, _, body, __: whole.set_result((status, body)) or True)
            return await whole

        told: list[Message] = []
        request = [{"type": "http.request", "body": b"x" if call.method == "PUT" else b"", "more_body": False}]

        async def receive() -> Message:
            return request.pop() if request else await asyncio.get_running_loop().create_future()  # nobody hangs up

        async def send(message: Message) -> None:
            told.append(message)

        await (self.client if call.port == "client" else self.peer)(scope, receive, send)
        return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    context = running_member(tmp_path_factory.mktemp("member") / "data")
    with asyncio.Runner() as runner:
        member = runner.run(context.__aenter__())
        try:
            client = ClientApp(member.node, member.limits, member.counts)
            peer = PeerApp(member.node, member.limits, member.counts, TOKEN)
            made = World(runner, member, client, peer)
            assert made.ask("put by key_b64", b"") == (201, "")
            yield made
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=200, deadline=None)
@given(query=strings)
def test_a_query_string_is_answered_or_refused(world: World, name: str, query: bytes) -> None:
    """Rule 31: 400 with a code, never a 500, nor an exception that leaves the application."""
    assert world.ask(name, query) in ANSWERED | REFUSED


@pytest.mark.parametrize("name", CALLS)
def test_each_parameter_is_read_where_it_is_known(world: World, name: str) -> None:
    """Else the property above would hold of a call that refuses all of them, or ignores them."""
    for parameter in NAMES:
        queries = [parameter.encode() + b"=" + quote_from_bytes(value, "").encode() for value in VALUES]
        found = {world.ask(name, query) for query in queries}
        assert found <= ANSWERED | REFUSED, parameter
        if parameter in CALLS[name].parameters:
            assert found & ANSWERED, parameter
            assert found & REFUSED, parameter
        elif parameter != "key_b64":  # which makes another call of a list
            assert found <= REFUSED, parameter


def test_a_parameter_of_the_documentation_is_asked_for(world: World) -> None:
    """A new one is not forgotten here."""
    told = {"timeout_seconds"}  # the admin port does not describe itself

    def look(found: dict[str, object]) -> dict[str, object]:
        if found.get("in") == "query":
            told.add(str(found["name"]))
        return found

    json.loads(world.runner.run(world.described()), object_hook=look)
    assert told == set(NAMES)
