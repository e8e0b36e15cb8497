"""A trial: a RaftCluster is disturbed under load, and after each disturbance it is judged what became of the writes.

    async with trial(cluster, logs) as tried:
        async with tried.disturbance("kubectl scale --replicas=5", goal=lambda: cluster.wait_members(5, 120)):
            ...                              # the act; the disturbance ends with the block
    # at the end: one leader a term, by every log and every WAL

Rules of this module:
* A disturbance begins from a steady load (tests/load.py: four clients, 100 acknowledgements a second) with keys of its
  own, and ends with a judgement of it: nothing lost, nothing doubled, no stale read, one leader a term.
* Within 60 seconds after a disturbance has ended, Available is True for good and writes are acknowledged.
* What was seen goes to `RESULTS`, a line for each disturbance, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import os
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field

from tests.e2e import operators
from tests.e2e.cluster import ROOT
from tests.e2e.logs import LogKeeper, elected_by_logs
from tests.e2e.operators import Killed
from tests.e2e.raftcluster import RaftCluster
from tests.e2e.watch import Watch
from tests.judge import Outcome, Write, judge_leaders
from tests.load import Load

AVAILABLE_SECONDS = 60.0  # after a disturbance's end
ELECTION_TIMEOUT_SECONDS = 1.0  # the members' default, its lower end
RESULTS = pathlib.Path(os.environ.get("OARLOCK_DISTURBANCES") or ROOT / "build/disturbances.jsonl")


@dataclass
class Disturbed:
    """What one disturbance did to the clients. Times in seconds."""

    name: str
    scenario: str
    outcome: str = "failed"
    acks_per_second_before: float = 0.0
    longest_gap: float = 0.0
    slowest_write: float = 0.0
    available_after: float = 0.0
    goal_after: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)  # that the operator had under way at some moment of it
    killed: list[Killed] = field(default_factory=list)
    ended: float | None = field(default=None, repr=False)  # monotonic

    def over(self) -> None:
        """The disturbance itself ends here, not with the block."""
        self.ended = time.monotonic()

    def record(self) -> None:
        told = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items() if k != "ended"}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(told) + "\n")
        kills = f", operator killed in {', '.join(f'{k.type}/{k.step}' for k in self.killed)}" if self.killed else ""
        print(
            f"\n{self.name}: {self.outcome}; {self.acks_per_second_before:.0f} acks/s before, longest gap "
            f"{self.longest_gap:.2f} s, slowest write {self.slowest_write:.2f} s, available after "
            f"{self.available_after:.1f} s, goal after {self.goal_after:.1f} s{kills}; "
            f"operations: {', '.join(self.operations) or 'none'}; {self.counts}",
            flush=True,
        )


class Trial:
    def __init__(self, cluster: RaftCluster, logs: LogKeeper, watch: Watch, scenario: str) -> None:
        self.cluster, self._logs, self._watch, self._scenario = cluster, logs, watch, scenario
        self._count = 0

    @property
    def watch(self) -> Watch:
        return self._watch

    @contextlib.asynccontextmanager
    async def disturbance(
        self, name: str, goal: Callable[[], object], *, kill: str | None = None, kill_after: float = 0.3
    ) -> AsyncIterator[Disturbed]:
        """`goal` blocks until the cluster is as it shall be; the operator dies in an operation of the type `kill`."""
        self._count += 1
        disturbed = Disturbed(name + (f", operator killed during {kill}" if kill else ""), self._scenario)
        load = Load([self.cluster.service()], members=self.cluster.members(), prefix=f"{self._scenario}/{self._count}/")
        try:
            async with load.running(), self.cluster.tracked_by(load), load.disturb(name):
                begun = time.monotonic()
                async with self._killing(disturbed, kill, kill_after):
                    yield disturbed
                    ended = disturbed.ended or time.monotonic()
                    await asyncio.to_thread(goal)
                disturbed.goal_after = time.monotonic() - ended
                await self._available(disturbed, load, ended)
                disturbed.operations = self._watch.operations(begun)
            self._tell(disturbed, load, begun)
            await self._judge(disturbed, load)
            disturbed.outcome = "passed"
        finally:
            disturbed.record()

    @contextlib.asynccontextmanager
    async def _killing(self, disturbed: Disturbed, kill: str | None, after: float) -> AsyncIterator[None]:
        """The block has its operator killed in the course of it; a block without an operation to kill it in fails."""
        if kill is None:
            yield
            return
        kube, name, namespace = self.cluster.kube, self.cluster.name, self.cluster.namespace
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(operators.kill_during(kube, self._watch, namespace, name, kill, after))
            yield
        disturbed.killed.append(killing.result())

    async def _available(self, disturbed: Disturbed, load: Load, ended: float) -> None:
        left = max(1.0, ended + AVAILABLE_SECONDS - time.monotonic())
        await self._watch.until(lambda status: self._watch.recovered(ended) is not None, left)
        recovered = self._watch.recovered(ended)
        assert recovered is not None
        disturbed.available_after = recovered
        assert recovered <= AVAILABLE_SECONDS, f"{disturbed.name}: Available {recovered:.0f} s after its end"
        while not load.acknowledged or load.acknowledged[-1] < ended:
            assert time.monotonic() < ended + AVAILABLE_SECONDS, (
                f"{disturbed.name}: no write acknowledged after its end"
            )
            await asyncio.sleep(0.1)
        first = load.acknowledged[bisect.bisect_left(load.acknowledged, ended)] - ended
        assert first <= AVAILABLE_SECONDS, f"{disturbed.name}: the first write was acknowledged {first:.0f} s after it"

    def _tell(self, disturbed: Disturbed, load: Load, begun: float) -> None:
        seen = load.disturbances[-1]
        disturbed.acks_per_second_before, disturbed.longest_gap = seen.rate_before, seen.gap_seconds
        writes = [op for op in load.history if isinstance(op, Write) and op.end >= begun]
        answered = [op.end - op.begin for op in writes if op.outcome is not Outcome.REFUSED]
        disturbed.slowest_write = max(answered, default=0.0)
        for op in writes:
            if op.outcome is Outcome.UNKNOWN or (
                op.outcome is not Outcome.REFUSED and op.end - op.begin > ELECTION_TIMEOUT_SECONDS
            ):
                print(f"  {op.begin - begun:.2f} s: {op.key} {op.outcome} after {op.end - op.begin:.2f} s {op.why}")

    async def _judge(self, disturbed: Disturbed, load: Load) -> None:
        load.members = await asyncio.to_thread(self.cluster.members)  # one may have come back since the last look
        final = await load.final_reads()
        self._logs.keep()
        verdict = load.judge(final, elected=await asyncio.to_thread(self.elected_by_logs))
        disturbed.counts = dict(verdict.counts)
        verdict.check()

    def elected_by_logs(self) -> set[tuple[int, str]]:
        return set(elected_by_logs(self._logs.lines(f"{self.cluster.namespace}_{self.cluster.name}-")))

    def check_leaders(self) -> None:
        """One leader a term, by every log and by every WAL that is left."""
        elected = self.elected_by_logs() | set(self.cluster.elected_by_wals())
        assert elected, "neither a log nor a WAL names a leader"
        assert not (found := judge_leaders(elected)), found


@contextlib.asynccontextmanager
async def trial(cluster: RaftCluster, logs: LogKeeper, scenario: str) -> AsyncIterator[Trial]:
    """The cluster is available before the first disturbance, and has had one leader a term after the last."""
    async with Watch(cluster.kube, cluster.namespace, cluster.name).running() as watch:
        await watch.until(lambda status: watch.recovered(0.0) is not None, AVAILABLE_SECONDS)
        tried = Trial(cluster, logs, watch, scenario)
        yield tried
        await asyncio.to_thread(tried.check_leaders)
