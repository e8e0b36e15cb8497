"""Bad input on every port (issue: a clear error, a counter, nothing lost), in tables, against a real member."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.member import TOKEN, RunningMember, running_member

from oarlock.api.asgi import LINGER_BYTES
from oarlock.wire.problem import Problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEEP = b"[" * 100_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def member(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMember]:
    async with running_member(tmp_path_factory.mktemp("member") / "data") as running:
        await running.client.put("/v1/kv/kept", content=b"kept")
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_changes(member: RunningMember) -> AsyncIterator[None]:
    """Whatever is sent: the state is what it was, the member answers, and the request was counted."""
    before = member.node.status()
    counted = sum(member.counts.requests.values())
    yield
    after = member.node.status()
    assert after.state_hash == before.state_hash
    assert (after.state, after.placed, after.cluster_id) == (before.state, before.placed, before.cluster_id)
    assert sum(member.counts.requests.values()) > counted
    assert (await member.client.get("/v1/kv/kept")).content == b"kept"


def problem(answer: httpx.Response, status: int, code: str) -> Problem:
    """The answer is this problem, in a sentence, and certainly without effect."""
    assert answer.headers["content-type"] == "application/problem+json"
    parsed = Problem.model_validate_json(answer.content)
    assert (answer.status_code, parsed.status, parsed.code) == (status, status, code)
    assert parsed.outcome == "not_applied"
    assert len(parsed.detail) > 10
    assert "Traceback" not in answer.text
    return parsed


CLIENT = [
    ("GET", "/v1/kv/", {}, b"", 400, "empty_key"),
    ("PUT", "/v1/kv", {}, b"", 400, "empty_key"),
    ("DELETE", "/v1/kv?prefix=a", {}, b"", 400, "unknown_parameter"),
    ("PUT", "/v1/kv/a?ttl=5", {}, b"", 400, "unknown_parameter"),
    ("PUT", "/v1/kv/a?prev=true", {}, b"", 400, "unknown_parameter"),
    ("PUT", "/v1/kv/a?consistency=stale", {}, b"", 400, "unknown_parameter"),
    ("GET", "/v1/kv/a?consistency=eventual", {}, b"", 400, "invalid_argument"),
    ("GET", "/v1/kv/a?revision=-1", {}, b"", 400, "invalid_argument"),
    ("GET", "/v1/kv/a?revision=1e999", {}, b"", 400, "invalid_argument"),
    ("GET", "/v1/kv/a?revision=99999999999999999999", {}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv?key_b64=%25%25", {}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv/a", {"if-match": "banana"}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv/a", {"if-match": '"1"', "if-none-match": "*"}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv/a", {"if-none-match": '"1"'}, b"", 400, "invalid_argument"),
    ("DELETE", "/v1/kv/a", {"if-none-match": "*"}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv/a", {"idempotency-key": "a b"}, b"", 400, "invalid_argument"),
    ("PUT", "/v1/kv/a", {"content-length": "1572865"}, b"", 413, "request_too_large"),
    ("PUT", "/v1/kv/a", {}, b"x" * (1536 * 1024 + 1), 413, "request_too_large"),
    ("PUT", "/v1/kv/" + "k" * 1537, {}, b"", 413, "request_too_large"),
    ("POST", "/v1/kv/a", {}, b"", 405, "method_not_allowed"),
    ("PATCH", "/v1/kv/a", {}, b"", 405, "method_not_allowed"),
    ("GET", "/v1/kvs", {}, b"", 404, "no_such_route"),
    ("GET", "/", {}, b"", 404, "no_such_route"),
    ("POST", "/v1/status", {}, b"", 405, "method_not_allowed"),
    ("GET", "/v1/status?verbose=1", {}, b"", 400, "unknown_parameter"),
    ("GET", "/v1/cluster?x", {}, b"", 400, "unknown_parameter"),
    ("GET", "/v1/snapshot?fresh=perhaps", {}, b"", 400, "invalid_argument"),
    ("GET", "/v1/snapshot?which=old", {}, b"", 400, "unknown_parameter"),
    ("GET", "/admin/status", {"authorization": f"Bearer {TOKEN}"}, b"", 404, "no_such_route"),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code"), CLIENT)
async def test_client_port(
    member: RunningMember, method: str, path: str, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    answer = await member.client.request(method, path, headers=headers, content=body)
    problem(answer, status, code)


async def test_chunked_body_beyond_the_bound_is_cut_off_while_it_arrives(member: RunningMember) -> None:
    """The bound counts what comes, not what was announced; the rest is not read."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 65536
            yield b"x" * 65536

    answer = await member.client.put("/v1/kv/a", content=endless())
    problem(answer, 413, "request_too_large")
    assert answer.headers["connection"] == "close"
    assert taken <= member.limits.max_body_bytes + LINGER_BYTES + 2 * 65536


NODE = "m9-0123456789abcdef"
MEMBER = {"id": NODE, "peer_url": "http://127.0.0.1:1", "client_url": "http://127.0.0.1:2"}
TRANSFER = {"target": NODE}

ADMIN = [
    ("POST", "/admin/bootstrap", b"", 400),
    ("POST", "/admin/bootstrap", b"{", 400),
    ("POST", "/admin/bootstrap", b"\xff\xfe", 400),
    ("POST", "/admin/bootstrap", DEEP[:60_000], 400),
    ("POST", "/admin/bootstrap", b"[]", 400),
    ("POST", "/admin/bootstrap", b"null", 400),
    ("POST", "/admin/bootstrap", {}, 400),
    ("POST", "/admin/bootstrap", {"request_id": "r", "cluster_id": ""}, 400),
    ("POST", "/admin/bootstrap", {"request_id": "r", "cluster_id": "c\r\nx: y"}, 400),
    ("POST", "/admin/bootstrap", {"request_id": "r", "cluster_id": "c", "min_voters": 0}, 400),
    ("POST", "/admin/bootstrap", {"request_id": "r", "cluster_id": "c", "min_voters": 10**30}, 400),
    ("POST", "/admin/bootstrap", b'{"request_id":"r","cluster_id":"c","min_voters":NaN}', 400),
    ("POST", "/admin/bootstrap", b'{"request_id":"r","cluster_id":"c","min_voters":1e999}', 400),
    ("POST", "/admin/bootstrap", {"request_id": "r", "cluster_id": "c", "minvoters": 1}, 400),
    ("POST", "/admin/bootstrap?force=true", {"request_id": "r", "cluster_id": "c"}, 400),
    ("POST", "/admin/bootstrap", {"request_id": "r" * 70_000, "cluster_id": "c"}, 413),
    ("PUT", "/admin/configuration", {"voters": [], "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration", {"voters": [MEMBER]}, 400),
    ("PUT", "/admin/configuration", {"voters": [{**MEMBER, "id": "Bad"}], "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration", {"voters": [{**MEMBER, "peer_url": "ftp://x"}], "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration", {"voters": [{**MEMBER, "weight": 2}], "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration", {"voters": [MEMBER] * 10, "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration?timeout_seconds=-1", {"voters": [MEMBER], "if_config": "1.1"}, 400),
    ("PUT", "/admin/configuration?timeout_seconds=nan", {"voters": [MEMBER], "if_config": "1.1"}, 400),
    ("POST", "/admin/transfer", {"target": "x"}, 400),
    ("POST", "/admin/transfer", {"target": 5}, 400),
    ("POST", "/admin/reset", {"request_id": "r", "node_id": "m1"}, 400),
    ("PUT", "/admin/notes", {"pod_uid": 5}, 400),
    ("PUT", "/admin/notes", {"pod": "x"}, 400),
    ("GET", "/admin/status?x=1", b"", 400),
    ("GET", "/admin/barrier?timeout_seconds=x", b"", 400),
    ("GET", "/admin/nothing", b"", 404),
    ("POST", "/admin/status", b"", 405),
    ("POST", "/admin/force-new-cluster", {}, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ADMIN)
async def test_admin_port(
    member: RunningMember, method: str, path: str, body: bytes | dict[str, object], status: int
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await member.peer.request(method, path, content=content, headers={"content-type": "application/json"})
    parsed = Problem.model_validate_json(answer.content)
    assert answer.status_code == status
    problem(answer, status, parsed.code)


@pytest.mark.parametrize("given", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_body_that_is_not_json_by_its_own_word_is_refused(member: RunningMember, given: str | None) -> None:
    headers = {"content-type": given} if given else {}
    answer = await member.peer.post("/admin/transfer", content=json.dumps(TRANSFER).encode(), headers=headers)
    problem(answer, 400, "invalid_argument")
    assert "send Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/admin/status", "/admin/nothing", "/raft/stream", "/raft/snapshot/x", "/", "/v1/kv/a"]
)
@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", f"bearer {TOKEN}", f"Basic {TOKEN}", f"Bearer {TOKEN} ", f"Bearer {TOKEN}x", TOKEN],
)
async def test_peer_port_without_the_token(member: RunningMember, path: str, given: str | None) -> None:
    headers = {"authorization": given} if given is not None else {}
    answer = await member.stranger.get(path, headers=headers)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


async def test_token_given_twice_is_refused(member: RunningMember) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")]
    problem(await member.stranger.get("/admin/status", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/healthz", 404), ("POST", "/metrics", 405), ("DELETE", "/healthz/live", 405)],
)
async def test_ops_port(member: RunningMember, method: str, path: str, status: int) -> None:
    answer = await member.ops.request(method, path)
    problem(answer, status, {404: "no_such_route", 405: "method_not_allowed"}[status])
