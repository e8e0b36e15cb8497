"""Random stories: people, disks, processes and the operator itself misbehave; the oracles of `sim` watch every act.

After the story everything heals, and the cluster must reach what its spec says (invariant 24), by whatever road.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.operator.sim import NAME, Crash, Sim

from oarlock_operator import names
from oarlock_operator.reconcile import Reconciler
from oarlock_operator.world import quorum

ORDINALS = st.integers(0, 4)
DEED = st.one_of(
    st.tuples(st.just("scale"), st.integers(1, 5)),
    st.tuples(st.just("delete pod"), ORDINALS),
    st.tuples(st.just("empty disk"), ORDINALS),
    st.tuples(st.just("corrupt disk"), ORDINALS),
    st.tuples(st.just("silence"), ORDINALS),
    st.tuples(st.just("wake"), ORDINALS),
    st.tuples(st.just("lead"), ORDINALS),
    st.tuples(st.just("hold commits"), st.booleans()),
    st.tuples(st.just("crash after"), st.integers(1, 6)),
    st.tuples(st.just("lose an answer"), st.none()),
    st.tuples(st.just("make again"), st.integers(1, 5)),
    st.tuples(st.just("passes"), st.integers(1, 8)),
)


@dataclass
class Story:
    sim: Sim
    operators: int = 0
    reconciler: Reconciler | None = None
    founded: int = 0

    async def passes(self, count: int) -> None:
        for _ in range(count):
            if self.reconciler is None:
                self.operators += 1
                self.sim.now += 60
                self.reconciler = self.sim.reconciler(f"operator-{self.operators}")
            try:
                await self.sim.run(1, self.reconciler)
            except Crash:
                self.reconciler = None

    async def do(self, deed: str, argument: Any) -> None:
        sim = self.sim
        match deed:
            case "passes":
                await self.passes(argument)
            case "scale":
                sim.scale(argument)
            case "delete pod":
                sim.delete_pod(argument)
            case "empty disk" | "corrupt disk":
                if self.may_lose(argument):
                    if deed == "empty disk":
                        sim.empty_disk(argument)
                    elif (disk := sim.disk_of(names.pod(NAME, argument))) and disk.cluster_id:
                        disk.corrupt = True
            case "silence":
                sim.down.add(names.pod(NAME, argument))
            case "wake":
                sim.down.discard(names.pod(NAME, argument))
            case "lead":
                group = sim.group()
                wanted = (
                    [m.id for m in group.voters if names.ordinal_of_member(NAME, m.id) == argument] if group else []
                )
                if group and group.leader and wanted and wanted[0] in sim.up(group):
                    group.leader, group.term = wanted[0], group.term + 1
            case "hold commits":
                sim.hold_commits = argument
            case "crash after":
                sim.fail_after = argument
            case "lose an answer":
                sim.lose_answer = True
            case "make again":
                sim.delete_cluster()
                sim.make_cluster(argument)
                self.reconciler = None

    def may_lose(self, ordinal: int) -> bool:
        """Only as many disks as Raft forgives: a majority of each half keeps its own, or nothing is promised."""
        group = self.sim.group()
        if group is None:
            return True
        for half in filter(None, (group.voters, group.outgoing)):
            sound = {m.id for m in half if self.sound(m.id)}
            victim = {id_ for id_ in sound if names.ordinal_of_member(NAME, id_) == ordinal}
            if len(sound - victim) < quorum(len(half)):
                return False
        return True

    def sound(self, node_id: str) -> bool:
        disk = self.sim.disk_of(names.member_name(node_id))
        return disk is not None and disk.node_id == node_id and not disk.corrupt


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    replicas=st.integers(1, 5),
    deeds=st.lists(DEED, max_size=14),
    stale=st.sampled_from([0.0, 0.0, 0.3]),
    policy=st.sampled_from(["Retain", "Delete"]),
    seed=st.integers(0, 2**16),
)
@example(
    replicas=3,
    deeds=[("passes", 30), ("scale", 5), ("passes", 3), ("scale", 1), ("crash after", 2), ("passes", 8)],
    stale=0.3,
    policy="Delete",
    seed=1,
)
def test_every_story_ends_well(replicas: int, deeds: list[Any], stale: float, policy: str, seed: int) -> None:
    asyncio.run(tell(replicas, deeds, stale, policy, seed))


async def tell(replicas: int, deeds: list[Any], stale: float, policy: str, seed: int) -> None:
    retention = {"whenDeleted": "Retain", "whenScaled": policy}
    sim = Sim(replicas, seed=seed, spec={"storage": {"size": "1Gi", "retention": retention}})
    sim.stale = stale
    story = Story(sim)
    await story.passes(12)
    for deed, argument in deeds:
        await story.do(deed, argument)
        await story.passes(2)
    # Everything heals.
    sim.down.clear()
    sim.hold_commits, sim.lose_answer, sim.fail_after, sim.stale, sim.past = False, False, None, 0.0, {}
    await story.passes(60)
    wanted = sim.objects[(names.KIND, NAME)]["spec"]["replicas"]
    group = sim.group()
    assert group is not None
    members = sorted(names.ordinal_of_member(NAME, m.id) or 0 for m in group.voters)
    assert members == list(range(wanted))
    assert not group.learners
    assert sum(kind == "Pod" for kind, _ in sim.objects) == wanted
    conditions = {c["type"]: c for c in sim.objects[(names.KIND, NAME)]["status"]["conditions"]}
    assert conditions["Available"]["status"] == "True", conditions
    assert conditions["Progressing"]["status"] == "False", conditions
    before = len(sim.writes)
    await story.passes(3)
    assert len(sim.writes) == before, sim.writes[before:]
