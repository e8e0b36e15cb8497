"""Bad input on every port of a real process, through real sockets: a clear answer, a counter, nothing lost."""

from __future__ import annotations

import json
import os
import pathlib
import random
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.integration.members import MemberProcess

TOKEN = "secret"
PATIENCE_SECONDS = 30.0
BIG = 1536 * 1024


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemberProcess]:
    root = tmp_path_factory.mktemp("sockets")
    (root / "token").write_text(TOKEN)
    process = MemberProcess("m1", root, root / "token", ["--max-connections", "40"])
    process.start()
    try:
        _until(lambda: httpx.get(f"{process.ops_url}/healthz/startup", trust_env=False).status_code == 200)
        admin = httpx.Client(base_url=process.peer_url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)
        _until(lambda: admin.post("/admin/bootstrap", json={"request_id": "r", "cluster_id": "c"}).status_code == 200)
        _until(lambda: httpx.put(f"{process.client_url}/v1/kv/kept", content=b"kept", trust_env=False).is_success)
        httpx.put(f"{process.client_url}/v1/kv/large", content=os.urandom(BIG), trust_env=False)
        yield process
        assert process.stop() == 0
        assert "Traceback" not in process.log.read_text()
    finally:
        process.kill()


@pytest.fixture(autouse=True)
def nothing_is_lost(member: MemberProcess) -> Iterator[None]:
    before = _status(member)
    yield
    after = _status(member)
    assert after["state_hash"] == before["state_hash"]
    assert after["state"] == "Participating"
    assert httpx.get(f"{member.client_url}/v1/kv/kept", trust_env=False).content == b"kept"


def _until(true: object) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if true():  # type: ignore[operator]
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def _status(member: MemberProcess) -> dict[str, object]:
    answer = httpx.get(f"{member.peer_url}/admin/status", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)
    parsed: dict[str, object] = answer.json()
    return parsed


def _count(member: MemberProcess, port: str, reason: str) -> float:
    name = f'oarlock_http_connections_rejected_total{{port="{port}",reason="{reason}"}} '
    text = httpx.get(f"{member.ops_url}/metrics", trust_env=False).text
    return next((float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0.0)


def _exchange(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Sends, and reads until the member closes. A reset counts as the end."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass
    return received


PORTS = {"client": 0, "peer": 1, "ops": 2}


@pytest.mark.parametrize("port", PORTS)
def test_garbage_is_answered_and_counted(member: MemberProcess, port: str) -> None:
    before = _count(member, port, "malformed")
    answer = _exchange(member.ports[PORTS[port]], b"\x16\x03\x01garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "malformed_request"
    assert _count(member, port, "malformed") == before + 1


@pytest.mark.parametrize("port", PORTS)
def test_random_bytes_never_hurt(member: MemberProcess, port: str) -> None:
    rng = random.Random(7)
    for _ in range(30):
        _exchange(member.ports[PORTS[port]], rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n", half_close=True)


def test_truncated_requests_change_nothing(member: MemberProcess) -> None:
    """A body that breaks off is never written, at whatever byte it does."""
    request = b"PUT /v1/kv/kept HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n0123456789"
    for end in (1, 20, len(request) - 10, len(request) - 1):
        with socket.create_connection(("127.0.0.1", member.ports[0]), timeout=20) as connection:
            connection.sendall(request[:end])
    chunked = b"PUT /v1/kv/kept HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    with socket.create_connection(("127.0.0.1", member.ports[0]), timeout=20) as connection:
        connection.sendall(chunked)


def test_body_too_large_is_refused_before_it_is_sent(member: MemberProcess) -> None:
    """With Expect: 100-continue the client never sends it; without, it is cut off."""
    head = b"PUT /v1/kv/big HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % (BIG + 1)
    answer = _exchange(member.ports[0], head + b"expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_lying_chunks_are_cut_off(member: MemberProcess) -> None:
    head = b"PUT /v1/kv/big HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n"
    answer = _exchange(member.ports[0], head + chunk * 40)
    assert answer.startswith(b"HTTP/1.1 413 "), "the answer is not overtaken by a reset"
    assert httpx.get(f"{member.client_url}/v1/kv/big", trust_env=False).status_code == 404


def test_head_too_large_is_refused(member: MemberProcess) -> None:
    before = _count(member, "client", "head_too_large")
    answer = _exchange(member.ports[0], b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"v" * 40_000 + b"\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert _count(member, "client", "head_too_large") == before + 1


def test_connections_beyond_the_bound_get_503_and_then_their_place(member: MemberProcess) -> None:
    before = _count(member, "client", "too_many_connections")
    held = [socket.create_connection(("127.0.0.1", member.ports[0]), timeout=20) for _ in range(40)]
    try:
        answer = _exchange(member.ports[0], b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["outcome"] == "not_applied"
    finally:
        for connection in held:
            connection.close()
    assert _count(member, "client", "too_many_connections") >= before + 1
    _until(lambda: httpx.get(f"{member.client_url}/v1/kv/kept", trust_env=False).status_code == 200)


def test_reader_that_takes_nothing_holds_no_other_up(member: MemberProcess) -> None:
    request = b"GET /v1/kv/large HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", member.ports[0]), timeout=20) as connection:
        connection.sendall(request * 20)
        for _ in range(20):
            assert httpx.get(f"{member.client_url}/v1/kv/kept", timeout=5, trust_env=False).content == b"kept"


def test_pipelined_requests_are_answered_in_order(member: MemberProcess) -> None:
    one = b"GET /v1/kv/%s HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /v1/kv/kept HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = _exchange(member.ports[0], one % b"kept" + one % b"absent" + one % b"kept" + last)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]
    assert answer.endswith(b"kept")


def test_peer_port_tells_nothing_without_the_token(member: MemberProcess) -> None:
    for path in (b"/admin/status", b"/raft/stream?kind=control", b"/raft/snapshot/abc"):
        answer = _exchange(member.ports[1], b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert TOKEN.encode() not in answer
        assert b"m1-" not in answer


def test_directory_is_the_members_own(member: MemberProcess) -> None:
    assert pathlib.Path(member.directory).stat().st_mode & 0o077 == 0
