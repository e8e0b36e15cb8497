"""Bad input on every port of real members: a clear error, a counter that moves, nothing lost, no election."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.members import Cluster, cluster
from tests.property.test_parsers import bends, bent

GARBAGE = bytes(range(256)) * 16
HEADERS_TOO_LARGE = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n"
TWO_LENGTHS = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"


async def exchange(url: str, data: bytes, *, close: bool = False) -> bytes:
    """Sends `data` and reads what comes back until the member closes; `close`: hang up in the middle."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        writer.write(data)
        await writer.drain()
        if close:
            return b""
        return await asyncio.wait_for(reader.read(-1), 15)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def counted(running: Cluster, name: str, metric: str) -> float:
    """The sum of all samples of a metric."""
    text = (await running.http.get(f"{running.members[name].ops_url}/metrics")).text
    return sum(float(v) for v in re.findall(rf"^{metric}(?:\{{[^}}]*\}})? ([0-9.e+]+)$", text, re.MULTILINE))


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("bad-input"), "a", "b", "c") as made:
        for n in range(20):
            answer = await made.http.put(f"{made.members['a'].client_url}/v1/kv/kept/{n}", content=b"%d" % n)
            assert answer.status_code == 201
        term = (await made.status("a"))["term"]
        yield made
        for name in "abc":
            listed = await made.http.get(f"{made.members[name].client_url}/v1/kv?prefix=kept/&count_only=true")
            assert listed.json()["count"] == 20, "nothing is lost, whatever was sent"
            assert (await made.status(name))["term"] == term, "bad input on a port never costs a leader"
        assert made.complaints() == []


async def test_what_is_no_http_is_answered_and_counted_on_every_port(running: Cluster) -> None:
    member = running.members[await running.leader()]
    for url in (member.client_url, member.peer_url, member.ops_url):
        before = await counted(running, member.name, "oarlock_http_connections_rejected_total")
        for data in (GARBAGE, TWO_LENGTHS, HEADERS_TOO_LARGE):
            answer = await exchange(url, data)
            assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), answer[:200]
        for part in (1, 20, 60):
            await exchange(url, TWO_LENGTHS[:part], close=True)
        after = await counted(running, member.name, "oarlock_http_connections_rejected_total")
        assert after >= before + 3, url


HEAD = b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
SIZED = HEAD + b"Content-Length: SIZE\r\n"
ADMIN = SIZED + b"Authorization: Bearer TOKEN\r\nContent-Type: application/json\r\n\r\n"
REQUESTS = {  # of each port: head and body, of which none that is sound changes what the tests beside this one look at
    "client": (
        (b"PUT /v1/kv/bent/1?redirect=true " + SIZED + b'If-Match: "3"\r\n\r\n', b"value"),
        (b"PUT /v1/kv/bent/2 " + HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nvalue\r\n0\r\n\r\n"),
        (b"GET /v1/kv?prefix=bent/&limit=5 " + HEAD + b"Accept: application/json\r\n\r\n", b""),
    ),
    "peer": (
        (b"POST /admin/bootstrap " + ADMIN, b'{"request_id": "r", "cluster_id": "c"}'),
        (b"POST /admin/transfer " + ADMIN, b'{"target": "d-00000000000000ff"}'),
    ),
}
PATIENCE_SECONDS = 0.1  # for the answer: of half a request the member awaits the rest


async def answered(url: str, data: bytes) -> bytes:
    """What the member says until it closes, or has said nothing more for a while."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    answer = b""
    try:
        writer.write(data)
        while chunk := await asyncio.wait_for(reader.read(65536), PATIENCE_SECONDS):
            answer += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize("port", REQUESTS)
async def test_bent_requests_are_counted_and_the_member_answers_on(running: Cluster, port: str) -> None:
    """Rule 33. What is told to be malformed is counted by that reason; more may be, behind an answer under way."""
    member = running.members[await running.leader()]
    url = {"client": member.client_url, "peer": member.peer_url}[port]
    counter = rf'oarlock_http_connections_rejected_total\{{port="{port}",reason="malformed"\}}'
    loop, told = asyncio.get_running_loop(), Counter[bytes]()
    before = await counted(running, member.name, counter)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(request=st.sampled_from(REQUESTS[port]), whole=st.booleans(), how=bends)
    def send(request: tuple[bytes, bytes], whole: bool, how: list[tuple[str, int, int]]) -> None:
        head, body = request
        body = body if whole else bent(body, how)
        data = head.replace(b"SIZE", b"%d" % len(body)).replace(b"TOKEN", running.token.encode()) + body
        answer = asyncio.run_coroutine_threadsafe(answered(url, bent(data, how) if whole else data), loop)
        told.update(re.findall(rb'HTTP/1.1 |"malformed_request"', answer.result(10)))
        kept = asyncio.run_coroutine_threadsafe(running.http.get(f"{member.client_url}/v1/kv/kept/1"), loop)
        assert kept.result(10).content == b"1"

    await asyncio.to_thread(send)
    malformed = told[b'"malformed_request"']
    assert malformed > 20, told
    assert told[b"HTTP/1.1 "] > malformed + 20, f"little got past the parser: {told}"
    assert await counted(running, member.name, counter) >= before + malformed


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/v1/kv/", b"x", 400),
        ("PUT", "/v1/kv/" + "k" * 1537, b"x", 413),
        ("PUT", "/v1/kv/big", b"x" * (1_572_864 + 1), 413),
        ("PUT", "/v1/kv/a?nonsense=1", b"x", 400),
        ("GET", "/v1/kv/kept/1?revision=minus", b"", 400),
        ("GET", "/v1/kv?limit=many", b"", 400),
        ("GET", "/v1/nowhere", b"", 404),
        ("PATCH", "/v1/kv/a", b"x", 405),
    ],
)
async def test_client_port_says_what_is_wrong(
    running: Cluster, method: str, path: str, body: bytes, status: int
) -> None:
    name = await running.leader()
    before = await counted(running, name, "oarlock_http_requests_total")
    answer = await running.http.request(method, running.members[name].client_url + path, content=body)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["outcome"] == "not_applied"
    assert problem["code"]
    assert len(problem["detail"]) > 10
    assert await counted(running, name, "oarlock_http_requests_total") > before


async def test_peer_port_refuses_without_its_token_and_wrong_shapes_with_it(running: Cluster) -> None:
    name = await running.leader()
    url = running.members[name].peer_url
    for path in ("/admin/status", "/raft/stream?kind=control", "/raft/hello", "/raft/snapshot/abc"):
        for token in ("", "Bearer wrong", "Basic abc"):
            answer = await running.http.get(url + path, headers={"Authorization": token})
            assert answer.status_code == 401, (path, token)
    for path in ("/raft/stream?kind=control", "/raft/hello"):
        for hello in ("", "garbage", '{"format_version": 99}', '{"format_version": 1}', "{" * 5000):
            answer = await running.http.get(url + path, headers={"oarlock-hello": hello})
            assert answer.status_code in (400, 426, 431), (path, hello[:30], answer.status_code)
    for body in (
        {},
        {"voters": []},
        {"voters": "x", "if_config": "1.1"},
        {"voters": [], "learners": [], "if_config": "", "x": 1},
    ):
        answer = await running.http.put(f"{url}/admin/configuration", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["detail"]
    for size, status in ((10_000, 400), (100_000, 413)):
        answer = await running.http.post(f"{url}/admin/bootstrap", content=b"[" * size)
        assert answer.status_code == status, answer.text
    assert await counted(running, name, "oarlock_peer_rejected_total") >= 5


async def test_ops_port_is_read_only(running: Cluster) -> None:
    url = running.members["b"].ops_url
    for method in ("POST", "PUT", "DELETE"):
        assert (await running.http.request(method, f"{url}/metrics", content=b"x" * 4096)).status_code == 405
    assert (await running.http.get(f"{url}/healthz/nowhere")).status_code == 404
