"""Snapshot files between members: whole, resumed, refused, and never in the way of a heartbeat (rules 11, 19)."""

import asyncio
import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.peer_members import FAST, TestMember, ask, meet, open_raw, running, until

from oarlock.peers.hello import HelloKind, Verdict
from oarlock.peers.messages import encode_message
from oarlock.peers.options import PeerOptions
from oarlock.peers.snapshot_fetch import SnapshotFetchFailed
from oarlock.raft.messages import Append, Heartbeat
from oarlock.raft.types import Configuration, Entry, PlacedConfiguration, SnapshotMeta

SIZE = 5_000_001
SMALL_RANGES = replace(FAST, range_bytes=1024 * 1024, chunk_bytes=64 * 1024)


def snapshot(path: Path, size: int = SIZE) -> SnapshotMeta:
    content = os.urandom(1024) * (size // 1024) + os.urandom(size % 1024)
    path.write_bytes(content)
    placed = PlacedConfiguration(1, 1, Configuration())
    return SnapshotMeta(9, 2, 1234, placed, 1, size, hashlib.sha256(content).hexdigest())


def offer(member: TestMember, directory: Path, size: int = SIZE) -> SnapshotMeta:
    path = directory / f"{member.name}.mdb"
    meta = snapshot(path, size)
    member.files[meta.digest] = path
    return meta


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, SIZE])
async def test_a_file_arrives_whole(tmp_path: Path, size: int) -> None:
    a, b = TestMember("a", options=SMALL_RANGES), TestMember("b", options=SMALL_RANGES)
    meta = offer(a, tmp_path, size)
    held: list[int] = []
    async with running(a, b):
        await b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched", held.append)
    assert (tmp_path / "fetched").read_bytes() == a.files[meta.digest].read_bytes()
    assert held == sorted(held)
    assert held[-1:] == ([size] if size else [])
    assert a.progress[b.id, meta.digest] >= size / SMALL_RANGES.chunk_bytes  # what keeps it pinned (rule 19)
    assert a.transport.counters.snapshot_bytes_sent == b.transport.counters.snapshot_bytes_received == size


async def test_snapshot_resume_after_disconnect(tmp_path: Path) -> None:
    """S7: the sender dies in the middle; the fetch goes on from what is held when it is back, and checks the whole."""
    a, b = TestMember("a", options=SMALL_RANGES), TestMember("b", options=SMALL_RANGES)
    meta = offer(a, tmp_path)
    held: list[int] = []
    async with running(b):
        await a.start()
        reached = asyncio.Event()

        def progress(size: int) -> None:
            held.append(size)
            if size >= 2 * 1024 * 1024:
                reached.set()

        fetch = asyncio.create_task(b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched", progress))
        await reached.wait()
        await a.stop()
        held_then = held[-1]
        await a.start()
        await fetch
        await a.stop()
    assert (tmp_path / "fetched").read_bytes() == a.files[meta.digest].read_bytes()
    assert held == sorted(held)  # nothing began anew
    assert held_then >= 2 * 1024 * 1024
    assert b.transport.counters.snapshot_bytes_received == SIZE


async def test_a_partial_file_of_an_earlier_process_is_gone_on_from(tmp_path: Path) -> None:
    """S7, across a restart of the receiver."""
    a, b = TestMember("a"), TestMember("b")
    meta = offer(a, tmp_path)
    fetched = tmp_path / "fetched"
    fetched.write_bytes(a.files[meta.digest].read_bytes()[:3_000_000])
    async with running(a, b):
        await b.transport.fetch_snapshot(a.member, meta, fetched)
        assert b.transport.counters.snapshot_bytes_received == SIZE - 3_000_000
        assert fetched.read_bytes() == a.files[meta.digest].read_bytes()
        fetched.write_bytes(bytes(SIZE + 1))  # longer than the snapshot: it is none of it
        await b.transport.fetch_snapshot(a.member, meta, fetched)
    assert fetched.read_bytes() == a.files[meta.digest].read_bytes()


async def test_corrupt_snapshot_not_installed(tmp_path: Path) -> None:
    """S12, rule 18: what does not match the digest is deleted, be it the sender's fault or a foreign partial file's."""
    a, b = TestMember("a"), TestMember("b")
    meta = offer(a, tmp_path)
    fetched = tmp_path / "fetched"
    fetched.write_bytes(bytes(1000))
    async with running(a, b):
        with pytest.raises(SnapshotFetchFailed) as error:
            await b.transport.fetch_snapshot(a.member, meta, fetched)
        assert error.value.code == "mismatch"
        assert not fetched.exists()
        await b.transport.fetch_snapshot(a.member, meta, fetched)
        assert fetched.stat().st_size == SIZE


async def test_a_sender_whose_file_has_another_size_is_refused(tmp_path: Path) -> None:
    a, b = TestMember("a"), TestMember("b")
    meta = offer(a, tmp_path)
    for size in (SIZE - 1, SIZE + 1):
        os.truncate(a.files[meta.digest], size)
        async with running(a, b):
            with pytest.raises(SnapshotFetchFailed) as error:
                await b.transport.fetch_snapshot(a.member, meta, tmp_path / f"fetched-{size}")
        assert error.value.code == "mismatch"


async def test_a_snapshot_that_is_no_longer_there_is_not_waited_for(tmp_path: Path) -> None:
    a, b = TestMember("a"), TestMember("b")
    meta = offer(a, tmp_path)
    path = a.files.pop(meta.digest)
    async with running(a, b):
        for files in ({}, {meta.digest: path}):
            a.files.update(files)
            path.unlink(missing_ok=True)
            with pytest.raises(SnapshotFetchFailed) as error:
                await b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched")
            assert error.value.code == "gone"
        a.verdict = Verdict.REMOVED
        with pytest.raises(SnapshotFetchFailed) as error:
            await b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched")
        assert error.value.code == "refused"


async def test_a_fetch_without_progress_ends(tmp_path: Path) -> None:
    """F4, rule 19: nobody answers, or the connection swallows everything."""
    a, b = TestMember("a"), TestMember("b", options=replace(FAST, fetch_stall_seconds=0.5))
    meta = offer(a, tmp_path)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with running(b):
        for port in (1, hole.sockets[0].getsockname()[1]):
            a.port = port
            began = time.monotonic()
            with pytest.raises(SnapshotFetchFailed) as error:
                await b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched")
            assert error.value.code == "stalled"
            assert time.monotonic() - began < 5
    hole.close()


async def test_ranges_name_the_digest(tmp_path: Path) -> None:
    """Rule 19, over HTTP: 206, 200, 412, 416, 404, and 401 without the token."""
    a, b = TestMember("a"), TestMember("b")
    meta = offer(a, tmp_path, 1000)
    path, etag = f"/raft/snapshot/{meta.digest}", f'"{meta.digest}"'
    content = a.files[meta.digest].read_bytes()
    async with running(a):
        hello = b.hello_to(a, HelloKind.SNAPSHOT)
        part = await ask(a, path, hello, **{"range": "bytes=10-19", "if-match": etag})
        assert (part.status_code, part.content) == (206, content[10:20])
        assert (part.headers["content-range"], part.headers["etag"]) == ("bytes 10-19/1000", etag)
        whole = await ask(a, path, hello)
        assert (whole.status_code, whole.content) == (200, content)
        other = await ask(a, path, hello, **{"range": "bytes=10-19", "if-match": '"another"'})
        assert (other.status_code, other.content) == (412, b"")
        beyond = await ask(a, path, hello, **{"range": "bytes=1000-", "if-match": etag})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */1000")
        missing = await ask(a, f"/raft/snapshot/{'0' * 64}", hello)
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        assert (await ask(a, path, hello, token=None)).status_code == 401
        assert (await ask(a, path, None)).status_code == 400


async def test_fetchers_are_bounded(tmp_path: Path) -> None:
    """Rule 33: each costs a descriptor and a thread's time."""
    a, b = TestMember("a", options=replace(FAST, max_snapshot_streams=1)), TestMember("b")
    meta = offer(a, tmp_path, 32 * 1024 * 1024)
    async with running(a, b):
        path, hello = f"/raft/snapshot/{meta.digest}", b.hello_to(a, HelloKind.SNAPSHOT)
        _, writer = await open_raw(a, path, hello)  # and never reads on
        busy = await ask(a, path, hello)
        assert (busy.status_code, busy.json()["retryable"]) == (503, True)
        sent = a.transport.counters.snapshot_bytes_sent
        assert sent < meta.size_bytes
        writer.close()
        await b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched")  # which waits for its turn
        assert a.transport.counters.snapshot_bytes_sent < 2 * meta.size_bytes  # the first was not read to its end


async def test_heartbeats_unaffected_by_bulk(tmp_path: Path) -> None:
    """F1, rule 11: appended data by the window and a snapshot at once, and every heartbeat's echo within the election
    time-out of production, by far; no stream is taken for dead."""
    options = PeerOptions()
    a, b = TestMember("a", options=options), TestMember("b", options=options)
    meta = offer(a, tmp_path, 96 * 1024 * 1024)
    sent_at: dict[int, float] = {}
    took: list[float] = []
    data = bytes(256 * 1024)
    arrived = 0

    def at_b(message: object) -> None:
        nonlocal arrived
        if isinstance(message, Append):
            arrived += 1
        else:
            assert isinstance(message, Heartbeat)
            assert b.transport.send(Heartbeat(b.id, a.id, 1, 0, message.round))

    def at_a(message: object) -> None:
        assert isinstance(message, Heartbeat)
        took.append(time.monotonic() - sent_at[message.round])

    a.on_message, b.on_message = at_a, at_b
    async with running(a, b):
        await meet(a, b)
        fetch = asyncio.create_task(b.transport.fetch_snapshot(a.member, meta, tmp_path / "fetched"))
        round_ = 0
        while not fetch.done():
            while a.transport.send(Append(a.id, b.id, 1, 1, 1, 1, (Entry(2, 1, 0, 5, data),))):
                pass
            round_ += 1
            sent_at[round_] = time.monotonic()
            assert a.transport.send(Heartbeat(a.id, b.id, 1, 0, round_))
            await asyncio.sleep(0.01)
        await fetch
        await until(lambda: len(took) == round_, "every heartbeat is echoed")
        assert round_ > 10
        assert arrived * len(data) > 8 * 1024 * 1024, "the bulk was bulk"
        assert max(took) < options.silence_seconds / 2
        for member in (a, b):
            assert member.transport.counters.reconnects == 0
            assert set(member.transport.counters.dropped) <= {"window"}


async def test_heartbeats_pass_a_data_stream_that_is_stuck() -> None:
    """F1, rule 11: with the data window full, a control message arrives at once."""
    a, b = TestMember("a", options=PeerOptions()), TestMember("b")
    async with running(a):
        _, data = await open_raw(a, "/raft/stream?kind=data", b.hello_to(a, HelloKind.DATA))  # and never reads on
        stream, control = await open_raw(a, "/raft/stream?kind=control", b.hello_to(a, HelloKind.CONTROL))
        await until(lambda: a.transport.connected(b.id), "both are open")
        bulk = Append(a.id, b.id, 1, 1, 1, 1, (Entry(2, 1, 0, 5, bytes(1024 * 1024)),))
        await until(lambda: not a.transport.send(bulk), "the data window is full")
        heartbeat = Heartbeat(a.id, b.id, 1, 0, 77)
        assert a.transport.send(heartbeat)
        async with asyncio.timeout(a.options.silence_seconds / 2):
            await stream.readuntil(encode_message(heartbeat))
        data.close()
        control.close()
