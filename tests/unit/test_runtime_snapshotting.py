"""Taking, fetching and serving snapshots, and what may go behind them (rules 6, 19, 20), on a real directory."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.counter_machine import CounterMachine
from tests.unit.test_runtime_recovery import apply, entries

from oarlock.machine.environment import Environment
from oarlock.raft.types import SnapshotMeta
from oarlock.runtime import snapshotting
from oarlock.runtime.errors import Refused
from oarlock.runtime.host import Host
from oarlock.runtime.metrics import Counters
from oarlock.runtime.snapshotting import MOST_READERS, PIN_CAP_BYTES, PIN_SECONDS, Snapshotter, due
from oarlock.storage.files import RealFiles
from oarlock.storage.snapshots import SnapshotStore

PATIENCE = 10.0


class Core:
    durable_index = 1_000_000


class FakeEngine:
    """What a Snapshotter asks of its engine, and tells it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.host = Host()
        self.core = Core()
        self.metrics = Counters()
        self.published: list[int] = []
        self.fetched: list[int] = []
        self.refused: list[int] = []

    def snapshot_published(self, meta: SnapshotMeta) -> None:
        self.published.append(meta.index)

    def snapshot_fetched(self, meta: SnapshotMeta) -> None:
        self.fetched.append(meta.index)

    def snapshot_refused(self, meta: SnapshotMeta, why: str) -> None:
        self.refused.append(meta.index)


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = FakeEngine(self.at(3))
        self.store = SnapshotStore(path / "snapshots", RealFiles())
        self.snapshots = Snapshotter(self.engine, self.store, None)  # type: ignore[arg-type]

    def at(self, index: int) -> Environment:
        """The state after so many entries."""
        file = self.path / "state.mdb"
        apply(file, entries(1, index))
        return Environment.open(file, CounterMachine())

    def move(self, index: int) -> None:
        if index == self.engine.environment.applied.index:
            return
        self.engine.environment.close()
        self.engine.environment = self.at(index)

    async def take(self, index: int) -> SnapshotMeta:
        self.move(index)
        async with asyncio.timeout(PATIENCE):
            return await self.snapshots.take()

    async def end(self) -> None:
        await self.snapshots.close()
        self.engine.environment.close()


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    await made.end()


def test_due() -> None:
    """Rule 20: the log since the last exceeds max(bound, a quarter of the last), or there are so many entries."""
    last = SnapshotMeta(1, 1, 0, None, 0, 4000, "")  # type: ignore[arg-type]
    assert not due(501, 0, None, 500, 10)
    assert due(501, 1, None, 500, 10)
    assert not due(500, 9, None, 500, 10)
    assert due(0, 10, None, 500, 10)
    assert not due(1000, 1, last, 500, 10)
    assert due(1001, 1, last, 500, 10)


async def test_one_at_a_time_and_none_for_nothing_new(bench: Bench) -> None:
    one, two = await asyncio.gather(bench.snapshots.take(), bench.snapshots.take())
    assert one == two == bench.snapshots.newest
    assert one.index == 3
    assert await bench.snapshots.take() == one
    assert bench.engine.published == [3]
    assert bench.store.verify(one)


async def test_published_only_when_the_log_is_durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6: a leader applies on its followers' quorum, perhaps before its own disk has answered."""
    bench.engine.core.durable_index = 2
    taking = asyncio.ensure_future(bench.snapshots.take())
    while not any(p.name == "state.mdb" for p in (bench.path / "snapshots").rglob("*")):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert bench.store.metas() == []
    bench.engine.core.durable_index = 3
    async with asyncio.timeout(PATIENCE):
        assert (await taking).index == 3

    monkeypatch.setattr(snapshotting, "DURABLE_SECONDS", 0.0)
    bench.move(5)
    with pytest.raises(Refused) as refusal:
        await bench.snapshots.take()
    assert refusal.value.code == "disk_slow"
    assert bench.snapshots.failure
    assert [m.index for m in bench.store.metas()] == [3]
    assert bench.engine.metrics.snapshot_failures == 1


async def test_two_are_kept_and_the_log_since_the_older(bench: Bench) -> None:
    """Rule 19. A transfer of the newest must not let go of the log that the older one needs, should the newest turn
    out to be damaged."""
    for index in (3, 5, 8):
        newest = await bench.take(index)
    assert [m.index for m in bench.store.metas()] == [5, 8]
    assert bench.snapshots.keep_from() == 5
    bench.snapshots.served("peer", newest.digest)
    assert bench.snapshots.keep_from() == 5
    assert bench.snapshots.oldest_pin(7) == 7


async def test_compaction_waits_for_inflight_snapshot(bench: Bench) -> None:
    """S6, rule 19: what is being fetched stays, with the log after it, until it has stood still for a minute or holds
    too much log back."""
    now = 1000.0
    bench.engine.host = Host(monotonic=lambda: now)
    first = await bench.take(3)
    bench.snapshots.served("peer", first.digest)
    for index in (5, 8, 9):
        await bench.take(index)
    assert bench.snapshots.file_for(first.digest) is not None
    assert bench.store.verify(first)
    assert bench.snapshots.keep_from() == bench.snapshots.oldest_pin(9) == 3
    now += PIN_SECONDS - 1
    bench.snapshots.served("peer", first.digest)  # progress
    now += PIN_SECONDS - 1
    bench.snapshots.expire_pins(0)
    assert bench.snapshots.oldest_pin(9) == 3
    now += 2
    bench.snapshots.expire_pins(0)
    assert bench.snapshots.oldest_pin(9) == 9
    await bench.take(10)
    assert bench.snapshots.file_for(first.digest) is None

    held = bench.store.metas()[0]
    bench.snapshots.served("peer", held.digest)
    bench.snapshots.expire_pins(PIN_CAP_BYTES + 1)
    assert bench.snapshots.oldest_pin(99) == 99


async def test_a_reader_keeps_its_snapshot_and_holds_nothing_back(bench: Bench) -> None:
    """Rule 33: however slowly a client copies, the log behind the newest snapshots goes, and so do their files."""
    first = await bench.take(3)
    async with bench.snapshots.opened_newest(fresh=False) as (meta, file):
        assert meta == first
        for index in (5, 8, 9):
            await bench.take(index)
        assert not bench.store.path(first).exists()
        assert bench.snapshots.keep_from() == 8
        assert bench.snapshots.oldest_pin(9) == 9
        assert hashlib.file_digest(file, "sha256").hexdigest() == meta.digest
    assert file.closed


async def test_readers_are_bounded(bench: Bench) -> None:
    """Rule 33. The place of one that has ended is free again, also if it ended without a snapshot."""
    await bench.take(3)
    async with AsyncExitStack() as stack:
        for _ in range(MOST_READERS):
            await stack.enter_async_context(bench.snapshots.opened_newest(fresh=True))
        with pytest.raises(Refused, match="copying snapshots") as refusal:
            await stack.enter_async_context(bench.snapshots.opened_newest(fresh=False))
        assert (refusal.value.code, refusal.value.status) == ("overloaded", 429)
    assert bench.snapshots.readers == 0
    bench.store.path(bench.snapshots.newest).unlink()
    with pytest.raises(FileNotFoundError):
        await AsyncExitStack().enter_async_context(bench.snapshots.opened_newest(fresh=False))
    assert bench.snapshots.readers == 0


async def test_what_is_offered_is_what_is_there(bench: Bench) -> None:
    """A sound snapshot of the same place is kept, so its digest counts: a follower asks for the file by digest."""
    present = await bench.take(3)
    bench.snapshots.newest = None  # as if it had been fetched and not been needed
    again = await bench.snapshots._take()
    assert bench.snapshots.newest == again
    assert bench.snapshots.file_for(again.digest) == bench.store.path(present)


async def until_checked(bench: Bench) -> None:
    async with asyncio.timeout(PATIENCE):
        while bench.snapshots._checking is not None or bench.snapshots._taking is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def rot(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(9000)
        byte = file.read(1)[0]
        file.seek(9000)
        file.write(bytes([byte ^ 4]))


async def test_a_snapshot_that_a_peer_refused_and_that_is_sound_stays(bench: Bench) -> None:
    meta = await bench.take(3)
    bench.snapshots.doubt(meta)
    await until_checked(bench)
    assert (bench.snapshots.newest, bench.snapshots.damaged, bench.engine.published) == (meta, 0, [3])


async def test_a_snapshot_that_rotted_is_replaced_though_nothing_was_applied_since(bench: Bench) -> None:
    """Or every member that needs it would be offered it until the next one is due."""
    older, meta = await bench.take(3), await bench.take(4)
    rot(bench.store.path(meta))
    bench.snapshots.doubt(meta)
    bench.snapshots.doubt(meta)  # a second peer: one look is enough
    await until_checked(bench)
    assert bench.engine.published == [3, 4, 4]
    newest = bench.snapshots.newest
    assert newest is not None
    assert newest.index == 4
    assert bench.store.verify(newest)
    assert bench.store.verify(older)
    assert bench.snapshots.file_for(newest.digest) == bench.store.path(newest)
    assert bench.engine.metrics.snapshots_taken == 3


async def test_a_rotten_snapshot_is_set_aside_before_another_has_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is offered on meanwhile, and its peers are told that there is no such file; the next refusal tries again."""
    older, meta = await bench.take(3), await bench.take(4)
    rot(bench.store.path(meta))

    def full(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Environment, "copy_to", full)
        bench.snapshots.doubt(meta)
        await until_checked(bench)
    assert (bench.snapshots.newest, bench.snapshots.damaged) == (older, 1)
    assert bench.snapshots.file_for(meta.digest) is None
    bench.snapshots.doubt(meta)
    await until_checked(bench)
    assert bench.snapshots.newest == older, "not in a loop"
    monkeypatch.setattr(bench.snapshots, "_check_not_before", 0.0)
    bench.snapshots.doubt(meta)
    await until_checked(bench)
    assert bench.snapshots.newest is not None
    assert bench.snapshots.newest.index == 4


async def test_what_is_here_and_rotted_is_fetched_again(bench: Bench) -> None:
    """A fetch that was not needed is not done again, if what is here is still what was fetched."""
    meta = await bench.take(3)
    content = bench.store.path(meta).read_bytes()
    came = []

    async def transfer(path: Path) -> None:
        came.append(path)
        await asyncio.to_thread(path.write_bytes, content)

    async def fetched() -> None:
        bench.snapshots.fetch("leader", meta, transfer)
        async with asyncio.timeout(PATIENCE):
            while bench.snapshots._fetching is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)

    await fetched()
    assert came == []
    rot(bench.store.path(meta))
    await fetched()
    assert len(came) == 1
    assert bench.store.verify(meta)
    assert (bench.engine.fetched, bench.engine.refused) == ([3, 3], [])


async def test_a_fetch_that_fails_is_refused_and_the_newest_offer_wins(bench: Bench, tmp_path: Path) -> None:
    meta = await bench.take(3)
    offer = SnapshotMeta(50, 2, 0, meta.placed, 0, 4, "d" * 64)
    newer = SnapshotMeta(60, 2, 0, meta.placed, 0, 4, "e" * 64)
    hang = asyncio.Event()

    async def hanging(_: Path) -> None:
        await hang.wait()

    async def failing(_: Path) -> None:
        raise OSError("no")

    async def whole(path: Path) -> None:
        await asyncio.to_thread(path.write_bytes, b"file")

    async def settled() -> None:
        async with asyncio.timeout(PATIENCE):
            while bench.snapshots._fetching is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)

    bench.snapshots.fetch("leader", offer, hanging)
    await asyncio.sleep(0)
    bench.snapshots.fetch("leader", newer, whole)
    await settled()
    assert (bench.engine.fetched, bench.engine.refused) == ([60], [])
    assert bench.snapshots.file_for(newer.digest) is not None
    bench.snapshots.fetch("leader", offer, failing)
    await settled()
    assert bench.engine.refused == [50]
    assert bench.snapshots.failure


async def test_a_stop_refuses_whoever_waits_for_a_snapshot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.core.durable_index = 0
    waiting = asyncio.ensure_future(bench.snapshots.take())
    await asyncio.sleep(0)
    await bench.end()
    with pytest.raises(Refused) as refusal:
        await waiting
    assert refusal.value.code == "stopping"
