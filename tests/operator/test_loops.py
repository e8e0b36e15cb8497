"""The loops: woken, never lost, never ended by an error; and the Lease, judged on our own clock."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.operator.sim import NAME, NAMESPACE, FakeKube, Sim

from oarlock_operator.kube import KubeError
from oarlock_operator.lease import DURATION_SECONDS, RENEW_SECONDS, Lease
from oarlock_operator.loops import STALE_SECONDS, Loops


class Passes:
    """Counts its passes; `outcomes` are what each does, the last for ever."""

    def __init__(self, *outcomes: Any):
        self.outcomes = list(outcomes)
        self.woken: list[bool] = []
        self.closed = False
        self.turn = asyncio.Event()

    async def one_pass(self, *, woken: bool) -> float | None:
        self.woken.append(woken)
        self.turn.set()
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]  # a number or None by now

    async def close(self) -> None:
        self.closed = True

    async def passed(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.woken) < count:
                self.turn.clear()
                await self.turn.wait()


class Still(random.Random):
    """Retries at once."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


class House:
    def __init__(self, *outcomes: Any):
        self.now = 0.0
        self.made: list[Passes] = []
        self.counts: list[int] = []

        def make(namespace: str, name: str, uid: str) -> Passes:
            self.made.append(Passes(*outcomes))
            return self.made[-1]

        self.loops = Loops(make, monotonic=lambda: self.now, rng=Still(), on_count=self.counts.append)


async def test_a_cluster_gets_one_loop_however_often_it_is_seen() -> None:
    house = House(60.0)
    for _ in range(3):
        house.loops.cluster_seen("ns", "a", "uid-1", (1, {}, None))
    await house.made[0].passed(1)
    assert len(house.made) == 1
    assert house.counts == [1]
    await house.loops.stop()


async def test_only_what_counts_wakes_a_loop() -> None:
    """Generation, annotations and deletion do; our own status writes, which change none of them, do not."""
    house = House(60.0)
    mark = (1, {}, None)
    house.loops.cluster_seen("ns", "a", "uid-1", mark)
    passes = house.made[0]
    await passes.passed(1)
    house.loops.cluster_seen("ns", "a", "uid-1", mark)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(passes.woken) == 1
    house.loops.cluster_seen("ns", "a", "uid-1", (2, {}, None))
    await passes.passed(2)
    house.loops.child_seen("ns", "a")
    await passes.passed(3)
    house.loops.child_seen("ns", "another")
    for _ in range(5):
        await asyncio.sleep(0)
    assert passes.woken == [True, True, True]
    await house.loops.stop()


async def test_an_error_never_ends_a_loop_and_the_next_pass_reads_anew() -> None:
    house = House(KubeError(500, "no"), RuntimeError("a bug"), TimeoutError(), 60.0)
    house.loops.cluster_seen("ns", "a", "uid-1", 1)
    await house.made[0].passed(4)
    assert house.made[0].woken == [True, True, True, True]
    await house.loops.stop()


async def test_a_cluster_that_is_gone_takes_its_loop_with_it() -> None:
    house = House(60.0)
    house.loops.cluster_seen("ns", "a", "uid-1", 1)
    await house.made[0].passed(1)
    house.loops.cluster_gone("ns", "a", "uid-of-an-earlier-one")
    assert house.counts == [1]
    house.loops.cluster_gone("ns", "a", "uid-1")
    for _ in range(5):
        await asyncio.sleep(0)
    assert house.counts == [1, 0]
    assert house.made[0].closed


async def test_a_new_object_of_the_same_name_gets_a_new_loop() -> None:
    house = House(60.0)
    house.loops.cluster_seen("ns", "a", "uid-1", 1)
    await house.made[0].passed(1)
    house.loops.cluster_seen("ns", "a", "uid-2", 1)
    await house.made[1].passed(1)
    assert house.made[0].closed
    assert not house.made[1].closed
    await house.loops.stop()
    assert house.made[1].closed


async def test_a_loop_that_finds_its_object_gone_is_forgotten_and_not_stale() -> None:
    house = House(None)
    house.loops.cluster_seen("ns", "a", "uid-1", 1)
    await house.made[0].passed(1)
    for _ in range(5):
        await asyncio.sleep(0)
    house.now = 10 * STALE_SECONDS
    assert house.counts[-1] == 0
    assert house.loops.stale() == []


async def test_a_loop_that_does_not_finish_is_stale() -> None:
    """The operator's liveness fails by this."""
    house = House(60.0)
    house.loops.cluster_seen("ns", "a", "uid-1", 1)
    await house.made[0].passed(1)
    house.now = STALE_SECONDS - 1
    assert house.loops.stale() == []
    house.now = STALE_SECONDS + 1
    assert house.loops.stale() == ["ns/a"]
    await house.loops.stop()


# ---- the Lease


def lease(sim: Sim, identity: str) -> Lease:
    return Lease(FakeKube(sim), NAMESPACE, NAME, "uid", identity, lambda: sim.now)


async def test_a_lease_is_taken_renewed_and_given_back() -> None:
    sim = Sim()
    mine = lease(sim, "a")
    assert not mine.held
    assert await mine.ensure()
    version = sim.version
    sim.now += RENEW_SECONDS - 1
    assert await mine.ensure()
    assert sim.version == version, "renewed before it was time"
    sim.now += 2
    assert await mine.ensure()
    assert sim.version > version
    await mine.release()
    assert not mine.held
    assert await lease(sim, "b").ensure()


async def test_anothers_lease_is_judged_by_how_long_we_saw_it_stand_still() -> None:
    """The times written in it are another machine's clock."""
    sim = Sim()
    assert await lease(sim, "a").ensure()
    other = lease(sim, "b")
    sim.now += 1000  # it may be long dead; we have not watched it yet
    assert not await other.ensure()
    sim.now += DURATION_SECONDS - 1
    assert not await other.ensure()
    sim.now += 2
    assert await other.ensure()


async def test_a_lease_that_is_renewed_is_never_taken() -> None:
    sim = Sim()
    mine, other = lease(sim, "a"), lease(sim, "b")
    for _ in range(20):
        assert await mine.ensure()
        assert not await other.ensure()
        sim.now += RENEW_SECONDS + 1


async def test_ours_ends_when_it_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = Sim()
    mine = lease(sim, "a")
    assert await mine.ensure()

    async def broken(*_: Any) -> None:
        raise KubeError(0, "no answer")

    monkeypatch.setattr(mine._kube, "get", broken)
    sim.now += RENEW_SECONDS + 1
    assert await mine.ensure()
    sim.now += DURATION_SECONDS
    assert not await mine.ensure()
    assert not mine.held
