"""Committed entries on their way to the machine (rules 5, 18, 24, 34), on a loop that only does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from oarlock.machine.errors import OutOfSpace, UnknownEntry
from oarlock.raft.configurations import NOTHING_PLACED
from oarlock.raft.types import Entry, SnapshotMeta
from oarlock.runtime import apply
from oarlock.runtime.apply import Applier
from oarlock.runtime.divergence import CHECKPOINT_ENTRIES


def entry(index: int, size: int = 1) -> Entry:
    return Entry(index, 1, 0, 0, bytes(size))


def meta(index: int) -> SnapshotMeta:
    return SnapshotMeta(index, 1, 0, NOTHING_PLACED, 0, 1, "d")


class Handle:
    def __init__(self, function: Callable[[], None]) -> None:
        self.function: Callable[[], None] | None = function

    def cancel(self) -> None:
        self.function = None


class Loop:
    """`turn()` runs what was due before it; `later()` what was put off."""

    def __init__(self) -> None:
        self.soon: list[Handle] = []
        self.waiting: list[Handle] = []

    def call_soon(self, function: Callable[[], None]) -> Handle:
        self.soon.append(Handle(function))
        return self.soon[-1]

    def call_later(self, _: float, function: Callable[[], None]) -> Handle:
        self.waiting.append(Handle(function))
        return self.waiting[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def turn(self) -> int:
        return self._run("soon")

    def later(self) -> int:
        return self._run("waiting")

    def _run(self, which: str) -> int:
        due = [h.function for h in getattr(self, which) if h.function is not None]
        setattr(self, which, [])
        for function in due:
            function()
        return len(due)


class Job:
    def __init__(self, environment: Fake, entries: Sequence[Entry]) -> None:
        self.environment, self.entries = environment, entries
        self.slices = environment.slices
        self.known = next((n for n, e in enumerate(entries) if e.kind > 3), len(entries))

    def run(self, budget: float, clock: Callable[[], float]) -> bool:
        self.environment.ran += 1
        if self.environment.full:
            raise OutOfSpace("full")
        if self.known == 0:
            raise UnknownEntry(self.entries[0], "a kind from the future")
        self.slices -= 1
        return self.slices <= 0

    def commit(self) -> list[list[Any]]:
        self.environment.job = None
        self.environment.index = self.entries[self.known - 1].index
        return [[] for _ in self.entries[: self.known]]

    def abort(self) -> None:
        self.environment.job = None


class Fake:
    """An environment that remembers its jobs."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.jobs: list[list[int]] = []
        self.job: Job | None = None
        self.slices = 1
        self.full = self.closed = False
        self.ran = 0

    def begin(self, entries: Sequence[Entry]) -> Job:
        assert not self.closed
        assert entries[0].index == self.index + 1, f"{entries[0].index} after {self.index}"
        self.jobs.append([e.index for e in entries])
        self.job = Job(self, entries)
        return self.job

    def close(self) -> None:
        self.closed = True


class Bench:
    def __init__(self) -> None:
        self.loop = Loop()
        self.environment = Fake()
        self.next = Fake()
        self.applied: list[int] = []
        self.swapped: list[int] = []
        self.failures: list[BaseException] = []
        self.swap_full = False
        self.gate: asyncio.Event | None = None
        self.applier = Applier(
            self.environment,  # type: ignore[arg-type]
            self.loop,  # type: ignore[arg-type]
            lambda entries, results, seconds: self.applied.extend(e.index for e in entries),
            self.swap,  # type: ignore[arg-type]
            self.clear,
            lambda m: self.swapped.append(m.index),
            self.failures.append,
        )

    async def swap(self, m: SnapshotMeta) -> Fake:
        if self.swap_full:
            raise OutOfSpace("full")
        self.next.index = m.index
        return self.next

    async def clear(self) -> None:
        assert self.applier.environment is self.next
        if self.gate is not None:
            await self.gate.wait()

    async def drain(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
            self.loop.turn()


def test_one_slice_a_turn_however_often_it_is_asked() -> None:
    """Rule 24: the engine calls `run` each turn; each call used to start a chain of its own, and the loop then gave
    many slices' time to the machine between two heartbeats."""
    bench = Bench()
    bench.environment.slices = 100
    bench.applier.add([entry(1)])
    bench.applier.run()
    for _ in range(10):
        bench.applier.run()
        before = bench.environment.ran
        assert bench.loop.turn() == 1
        assert bench.environment.ran == before + 1


def test_entries_are_joined_up_to_a_bound_and_applied_in_order() -> None:
    """Rule 27."""
    bench = Bench()
    third = apply.JOB_BYTES // 3
    for index in range(1, 9):
        bench.applier.add([entry(index, third)])
    bench.applier.run()
    while bench.loop.turn():
        pass
    assert bench.environment.jobs == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert bench.applied == list(range(1, 9))
    assert bench.applier.idle


def test_a_job_ends_at_every_checkpoint() -> None:
    """Rule 26: wherever jobs begin, all members have had the states of the same indices."""
    bench = Bench()
    for index in range(1, 700):
        bench.applier.add([entry(index)])
    bench.applier.run()
    while bench.loop.turn():
        pass
    ends = {job[-1] for job in bench.environment.jobs}
    assert {CHECKPOINT_ENTRIES, 2 * CHECKPOINT_ENTRIES} <= ends
    assert bench.applied == list(range(1, 700))


def test_a_full_disk_is_waited_for_once() -> None:
    """Rule 5, D13: nothing is lost or applied twice; and however many turns pass, one retry is due at a time."""
    bench = Bench()
    bench.environment.full = True
    bench.applier.add([entry(1), entry(2)])
    for index in range(3, 10):
        bench.applier.run()
        bench.applier.add([entry(index)])
    assert bench.applier.out_of_space
    assert bench.environment.ran == 1
    assert bench.loop.turn() == 0
    assert bench.loop.later() == 1
    assert len(bench.loop.waiting) == 1
    bench.environment.full = False
    bench.loop.later()
    while bench.loop.turn():
        pass
    assert bench.applied == list(range(1, 10))
    assert not bench.applier.out_of_space
    assert not bench.failures


def test_an_unknown_entry_stops_before_it() -> None:
    """Rule 34: everything earlier is applied and reported; nothing after."""
    bench = Bench()
    bench.applier.add([entry(1), entry(2), Entry(3, 1, 99, 0, b""), entry(4)])
    bench.applier.run()
    while bench.loop.turn():
        pass
    assert bench.applied == [1, 2]
    assert [type(f) for f in bench.failures] == [UnknownEntry]
    bench.applier.add([entry(5)])
    bench.applier.run()
    assert bench.loop.turn() == 0


async def test_a_swap_stands_in_the_order_of_the_log() -> None:
    """Rule 18: what is committed after the snapshot waits for the swap, and the swap for its marker. A new leader may
    commit the next entries before this member's disk has answered."""
    bench = Bench()
    bench.applier.add([entry(1)])
    bench.applier.add_swap(meta(10))
    bench.applier.add([entry(11)])
    bench.applier.run()
    await bench.drain()
    assert (bench.applied, bench.swapped) == ([1], [])
    assert bench.loop.turn() == 0  # and it does not spin meanwhile
    assert not bench.applier.idle
    bench.applier.marker_durable()
    bench.applier.run()
    await bench.drain()
    assert (bench.applied, bench.swapped) == ([1, 11], [10])
    assert bench.applier.environment is bench.next  # type: ignore[comparison-overlap]
    assert bench.environment.closed
    assert not bench.failures


async def test_readers_never_find_a_closed_environment() -> None:
    """Rule 18: while files are cleared away, the loop turns, and clients read."""
    bench = Bench()
    bench.gate = asyncio.Event()
    bench.applier.add_swap(meta(10))
    bench.applier.add([entry(11)])
    bench.applier.marker_durable()
    bench.applier.run()
    await bench.drain()
    current: Any = bench.applier.environment
    assert not current.closed
    assert bench.swapped == [10]
    assert bench.applied == []  # nothing else until the files are gone: the next swap needs their names
    bench.gate.set()
    await bench.drain()
    assert bench.applied == [11]


async def test_a_swap_waits_for_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: no room for the copy of an installed snapshot ends nothing."""
    monkeypatch.setattr(apply, "NO_SPACE_SECONDS", 0.0)
    bench = Bench()
    bench.swap_full = True
    bench.applier.add_swap(meta(10))
    bench.applier.marker_durable()
    bench.applier.run()
    await bench.drain()
    assert bench.applier.out_of_space
    assert not bench.failures
    bench.swap_full = False
    await bench.drain()
    assert bench.swapped == [10]
    assert not bench.applier.out_of_space


async def test_a_stop_during_a_swap_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "NO_SPACE_SECONDS", 0.0)
    bench = Bench()
    bench.swap_full = True
    bench.applier.add_swap(meta(10))
    bench.applier.marker_durable()
    bench.applier.run()
    await asyncio.sleep(0)
    await bench.applier.close()
    assert not bench.failures
    assert not bench.environment.closed


async def test_a_job_under_way_is_dropped_by_close() -> None:
    bench = Bench()
    bench.environment.slices = 5
    bench.applier.add([entry(1)])
    bench.applier.run()
    await bench.applier.close()
    assert bench.environment.job is None
    assert bench.loop.turn() == 0
    assert bench.applied == []


def test_a_follower_applies_in_larger_batches_until_somebody_waits() -> None:
    """Rule 27: what nobody here waits for is put off and joined; a reader brings it forward."""
    bench = Bench()
    for index in (1, 2):
        bench.applier.add([entry(index)])
        bench.applier.run_later()
    assert (bench.applied, bench.loop.turn()) == ([], 0)
    assert bench.loop.later() == 1
    assert bench.environment.jobs == [[1, 2]]
    bench.applier.add([entry(3)])
    bench.applier.run_later()
    bench.applier.run()
    assert bench.applied == [1, 2, 3]
    assert bench.loop.later() == 0, "brought forward, not done twice"


def test_waiting_for_space_is_not_brought_forward() -> None:
    bench = Bench()
    bench.environment.full = True
    bench.applier.add([entry(1)])
    bench.applier.run()
    tried = bench.environment.ran
    bench.applier.run_later()
    bench.applier.run()
    assert bench.environment.ran == tried
