"""Random clusters of cores: whatever the network, the disks and the administrators do, the invariants hold; and once
they stop, the cluster converges.

One seed is one run: a fault phase of random actions, then a healing phase. The counters say what the runs have met; a
counter at zero means that the test no longer tests what it says, and fails it.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from tests.majorities import has_majorities
from tests.raft_cluster import Cluster, Node, member, node_id, short

from oarlock.raft.configurations import placed_of
from oarlock.raft.errors import LocalError
from oarlock.raft.options import Options
from oarlock.raft.progress import ProgressState
from oarlock.raft.quorum import halves
from oarlock.raft.state import Role
from oarlock.raft.types import EntryKind, NodeId

SEEDS = 200
ACTIONS = 1500
PARTS = 5  # of a run that is looked at between its faults too
OPTIONS = Options(max_inflight_appends=4, max_append_bytes=200, max_uncommitted_bytes=2000)

MUST_HAPPEN = (
    "became leader",
    "became pre_candidate",
    "truncated",
    "configuration rolled back",
    "joint begun",
    "joint left",
    "promoted",
    "removed leader stepped down",
    "snapshot installed",
    "snapshot fetch failed",
    "snapshot offered",
    "transfer begun",
    "transfer completed",
    "read on the leader",
    "read on a follower",
    "read failed",
    "crash",
    "frames lost",
    "lost",
    "duplicated",
    "reordered",
    "partition",
    "connection broken",
    "refused: not_caught_up",
    "refused: precondition_failed",
    "Busy",
)


class Chaos:
    """The fault phase of one run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster("abc", seed=seed, options=OPTIONS, eager=False)
        self.spare = list("defghijk")
        self.context = 0
        self.acknowledged: list[tuple[int, int]] = []
        self.proposed: list[tuple[Node, int, int]] = []
        self.lossy = self.rng.random() < 0.5
        self.pace = self.rng.choice((0.1, 0.3, 1.0))  # how fast time goes beside everything else
        self.faults = self.rng.choice((0.3, 1.0, 2.0))
        self.slow_disk: Node | None = None
        self.cluster.eager = True
        self.cluster.elect("a")  # so that a run with little time does more than wait for its first election
        self.cluster.eager = False

    def up(self) -> list[Node]:
        return [node for node in self.cluster.nodes.values() if node.up]

    def run(self, count: int = ACTIONS) -> None:
        actions = [
            (self.deliver, 60),
            (self.persist, 40),
            (self.apply, 20),
            (self.time, 12),
            (self.propose, 8),
            (self.read, 3),
            (self.partition, 0.5 * self.faults),
            (self.heal, 0.7),
            (self.crash, 0.5 * self.faults),
            (self.restart, 0.8),
            (self.change, 1.5),
            (self.transfer, 0.5 * self.faults),
            (self.snapshot, 1.2),
            (self.fetch, 2),
            (self.reconnect, 0.5 * self.faults),
            (self.depose, 0.6 * self.faults),
            (self.stall_disk, 0.2 * self.faults),
        ]
        doings, weights = [one for one, _ in actions], [weight for _, weight in actions]
        for doing in self.rng.choices(doings, weights, k=count):
            doing()
            self.note_acknowledged()

    def note_acknowledged(self) -> None:
        waiting = []
        for node, index, term in self.proposed:
            if node.up and node.machine.index >= index and node.core.role is Role.LEADER and node.core.term == term:
                self.acknowledged.append((index, term))
            else:
                waiting.append((node, index, term))
        self.proposed = waiting[-50:]

    # -- the network

    def deliver(self) -> None:
        network, rng = self.cluster.network, self.rng
        for _ in range(min(len(network), 3)):
            if not network:
                return
            position = rng.randrange(len(network)) if self.lossy and rng.random() < 0.3 else 0
            if position:
                self.cluster.counts["reordered"] += 1
            message = network.pop(position)
            if self.lossy and rng.random() < 0.03:
                self.cluster.counts["lost"] += 1
                continue
            if self.lossy and rng.random() < 0.03:
                self.cluster.counts["duplicated"] += 1
                network.append(message)
            self.cluster.deliver(message)

    def partition(self) -> None:
        ids = list(self.cluster.nodes)
        side = [id for id in ids if self.rng.random() < 0.4]
        one_way = self.rng.random() < 0.3
        cut = self.cluster.cut
        cut.clear()
        for id in side:
            for other in ids:
                if other not in side:
                    cut.append((id, other))
                    if not one_way:
                        cut.append((other, id))
        self.cluster.counts["partition"] += bool(cut)

    def depose(self) -> None:
        """The schedule that makes most trouble: a leader, alone or with one other, goes on writing and changing members
        while the rest elects another; then they meet. Blind chance brings it about too rarely."""
        leader = self.cluster.leader()
        if leader is None:
            return
        others = [id for id in self.cluster.nodes if id != leader.node_id]
        beside = [id for id in others if self.rng.random() < 0.3][:1]
        for id in [leader.node_id, *beside]:
            for other in others:
                if other not in beside:
                    self.cluster.cut += [(id, other), (other, id)]
        for _ in range(30):
            if self.rng.random() < 0.3:
                self.rng.choice((self.propose, self.propose, self.change, self.read))()
            self.cluster.now += self.rng.choice((0.0, 0.05, 0.2))
            self.cluster.tick()
            for _ in range(self.rng.randint(0, 8)):
                self.rng.choice((self.deliver, self.persist, self.apply))()
        if self.rng.random() < 0.8:
            self.heal()

    def heal(self) -> None:
        self.cluster.cut.clear()

    def reconnect(self) -> None:
        """A connection breaks with what is on it, and comes back."""
        ids = [node.id for node in self.up()]
        if len(ids) < 2:
            return
        one, other = self.rng.sample(ids, 2)
        self.cluster.network[:] = [
            message for message in self.cluster.network if (message.sender, message.to) != (one, other)
        ]
        cluster, node = self.cluster, self.cluster.nodes[one]
        cluster.input(node, lambda core: core.peer_disconnected(other, cluster.now))
        cluster.input(node, lambda core: core.peer_connected(other, cluster.now))
        cluster.counts["connection broken"] += 1

    # -- disks, machines, time

    def persist(self) -> None:
        ready = [node for node in self.up() if node.frames and node is not self.slow_disk]
        if ready:
            self.cluster.persist(self.rng.choice(ready))

    def stall_disk(self) -> None:
        self.slow_disk = self.rng.choice(self.up()) if self.slow_disk is None and self.up() else None

    def apply(self) -> None:
        ready = [node for node in self.up() if node.to_apply]
        if ready:
            node = self.rng.choice(ready)
            for _ in range(self.rng.randint(1, 5)):
                if node.to_apply:
                    self.cluster.apply(node)

    def time(self) -> None:
        self.cluster.now += self.rng.choice((0.01, 0.03, 0.1, 0.3)) * self.pace
        self.cluster.tick()

    def crash(self) -> None:
        if self.up():
            node = self.rng.choice(self.up())
            self.cluster.crash(node.id, written=self.rng.randint(0, len(node.frames)))
            self.cluster.counts["crash"] += 1

    def restart(self) -> None:
        down = [node for node in self.cluster.nodes.values() if not node.up]
        if down:
            self.cluster.restart(self.rng.choice(down).id)

    def snapshot(self) -> None:
        if not self.up():
            return
        node = self.rng.choice(self.up())
        self.cluster.take_snapshot(node.id)
        held = node.core.snapshot
        if held is not None and self.rng.random() < 0.7 and node.core.applied_index >= held.index:
            self.cluster.compact(node.id, held.index)

    def fetch(self) -> None:
        for node in self.up():
            if node.fetching is not None:
                succeed = self.rng.random() < 0.7
                self.cluster.counts["snapshot fetch failed"] += not succeed
                self.cluster.finish_fetch(node.id, succeed=succeed)

    # -- clients and administrators

    def refused(self, error: LocalError) -> None:
        self.cluster.counts[f"refused: {getattr(error, 'code', '')}"] += 1
        self.cluster.counts[type(error).__name__] += 1

    def leading(self) -> list[Node]:
        """Whoever believes to lead, deposed ones included."""
        return [node for node in self.up() if node.core.role is Role.LEADER]

    def propose(self) -> None:
        for node in self.leading():
            try:
                data = b"v%d" % self.context + b"." * self.rng.randint(0, 150)
                self.context += 1
                index, term = self.cluster.propose(node.id, data)
                self.proposed.append((node, index, term))
            except LocalError as error:
                self.refused(error)

    def read(self) -> None:
        if self.up():
            self.context += 1
            try:
                self.cluster.read(self.rng.choice(self.up()).id, self.context)
            except LocalError as error:
                self.refused(error)

    def transfer(self) -> None:
        for node in self.leading():
            try:
                target = self.rng.choice(list(self.cluster.nodes))
                self.cluster.input(node, lambda core, to=target: core.transfer(to, self.cluster.now))
                self.cluster.counts["transfer begun"] += 1
            except LocalError as error:
                self.refused(error)

    def change(self) -> None:
        cluster, rng = self.cluster, self.rng
        for node in self.leading():
            now = node.core.placed.configuration
            voters = [short(one.id) for one in now.voters]
            learners = [short(one.id) for one in now.learners]
            kind = rng.choice(("add", "add", "vote", "drop", "demote", "swap", "renew", "stale"))
            if kind in ("add", "swap") and self.spare and len(learners) < 2:
                learners.append(self.spare.pop())
                cluster.add(learners[-1])
            if kind in ("vote", "swap") and learners:
                voters.append(learners.pop(0))
            if kind in ("drop", "swap") and len(voters) > 1:
                voters.pop(rng.randrange(len(voters)))
            if kind == "demote" and len(voters) > 2:
                learners.append(voters.pop(rng.randrange(len(voters))))
            if kind == "renew" and len(learners) > 1:  # majorities of the old and the new need not meet
                voters, learners = [rng.choice(voters), *learners], []
            promote = kind == "add" and rng.random() < 0.7
            wanted = [member(name, promote=promote) for name in learners]
            token = "1.1" if kind == "stale" else node.core.placed.id
            try:
                cluster.change_to(node, tuple(map(member, voters)), wanted, token)
            except LocalError as error:
                self.refused(error)


def end_faults(cluster: Cluster) -> None:
    cluster.cut.clear()
    cluster.eager = True
    for node in list(cluster.nodes.values()):
        if not node.up:
            cluster.restart(node.id)
        cluster.work(node)


def comes_true(cluster: Cluster, nodes: Sequence[Node], wanted: Callable[[], bool]) -> bool:
    """Within a bounded time, in which these reach one another."""
    for node in nodes:
        for other in nodes:
            if node is not other:
                cluster.input(node, lambda core, to=other.id: core.peer_connected(to, cluster.now))
    for _ in range(1500):
        cluster.now += 0.02
        cluster.tick()
        cluster.settle()
        for node in nodes:
            if node.fetching is not None:
                cluster.finish_fetch(node.id)
        if wanted():
            return True
    return False


def converge(chaos: Chaos) -> None:
    """All faults end. Within a bounded time there is one leader, one log, one configuration; a write goes through."""
    cluster = chaos.cluster
    end_faults(cluster)
    everyone = list(cluster.nodes.values())
    if not comes_true(cluster, everyone, lambda: is_whole(cluster)):
        pytest.fail("no convergence: " + "; ".join(state_of(node) for node in everyone))
    leader = cluster.leader()
    assert leader is not None
    placed = cluster.propose(leader.node_id, b"after all")
    cluster.run(0.2)
    assert leader.commit_index >= placed[0]
    assert is_whole(cluster)
    for index, term in chaos.acknowledged:
        assert cluster.witness.committed[index] == term, f"acknowledged {term}.{index} is lost"


def is_whole(cluster: Cluster) -> bool:
    leader = cluster.leader()
    if leader is None or not leader.noop_committed or leader.transferring:
        return False
    configuration = leader.placed.configuration
    participants = [one.id for one in (*configuration.voters, *configuration.learners)]
    if configuration.outgoing or any(one.promote for one in configuration.learners):
        return False
    if leader.node_id not in halves(configuration)[0] or leader.commit_index != leader.last_index:
        return False
    return all(
        cluster.nodes[id].machine.index == leader.commit_index and cluster.nodes[id].core.leader == leader.node_id
        for id in participants
    )


def state_of(node: Node) -> str:
    core = node.core
    return (
        f"{short(node.id)} {core.role} term {core.term} leader {short(core.leader)} commit {core.commit_index} "
        f"last {core.last_index} machine {node.machine.index} removed {core.removed} in {core.placed.id}"
    )


def note_membership(cluster: Cluster, counts: Counter[str]) -> None:
    """What the committed entries tell of the changes that were made."""
    last = None
    for (index, term), (entry, _) in sorted(cluster.witness.entries.items()):
        if cluster.witness.committed.get(index) != term or entry.kind != EntryKind.CONFIGURATION:
            continue
        now = placed_of(entry).configuration
        counts["joint begun"] += bool(now.outgoing)
        if last is not None:
            counts["joint left"] += bool(last.outgoing and not now.outgoing)
            wanted = [one.id for one in last.learners if one.promote]
            counts["promoted"] += any(one.id in wanted for one in now.voters)
        last = now


def test_random_clusters_keep_every_invariant_and_converge() -> None:
    """Rules 7, 9, 10, 12, 13, 14, 15 and 28 under everything at once; pitfalls L12 (inv_leader_append_only) and F6
    (sim_liveness_phase)."""
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):  # a failure names its seed, and the seed alone repeats it
        chaos = Chaos(seed)
        try:
            chaos.run()
            for node in chaos.up():
                states = [peer.state for peer in node.core.peers.values()]
                counts["snapshot offered"] += ProgressState.SNAPSHOT in states
            converge(chaos)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        counts.update(chaos.cluster.counts)
        counts["acknowledged"] += len(chaos.acknowledged)
        counts["transfer completed"] += sum(
            node.core.elections_won > 0 for node in chaos.cluster.nodes.values() if node.id != node_id("a")
        )
        note_membership(chaos.cluster, counts)
    missing = [what for what in MUST_HAPPEN if not counts[what]]
    assert not missing, f"never happened: {missing}; {counts}"
    assert counts["acknowledged"] > 10 * SEEDS, counts


def smallest_majorities(cluster: Cluster) -> list[tuple[NodeId, ...]]:
    """As few members as decide in every configuration that anybody holds."""
    held = [node.core.placed.configuration for node in cluster.nodes.values() if node.core.placed.configuration.voters]
    voters = sorted({one.id for of in held for one in (*of.voters, *of.outgoing)})
    for size in range(1, len(voters) + 1):
        found = [ids for ids in combinations(voters, size) if all(has_majorities(of, ids) for of in held)]
        if found:
            return found
    return []


def elects_alone(cluster: Cluster, ids: Sequence[NodeId]) -> bool:
    """Everybody else goes, with what is on its way."""
    nodes = [cluster.nodes[id] for id in ids]
    for node in cluster.nodes.values():
        if node not in nodes and node.up:
            cluster.crash(node.id)
    cluster.network.clear()

    def led() -> bool:
        leader = cluster.leader()
        return leader is not None and leader.noop_committed

    return comes_true(cluster, nodes, led)


def test_any_majority_elects_a_leader() -> None:
    """Pitfall E2: one of them has a log that all others vote for, whichever they are and whatever came before. A whole
    cluster does not show it: who won the last election wins again by the same votes."""
    tried = 0
    for seed in range(SEEDS // 2):
        chaos = Chaos(seed)
        for part in range(PARTS):
            chaos.run(ACTIONS // PARTS)
            if part % 2:
                chaos.depose()
            cluster = copy.deepcopy(chaos.cluster)
            end_faults(cluster)
            for ids in smallest_majorities(cluster):
                tried += 1
                alone = copy.deepcopy(cluster)
                told = "; ".join(state_of(alone.nodes[id]) for id in ids)
                assert elects_alone(alone, ids), f"seed {seed}, part {part}: no leader among {told}"
    assert tried > 5 * SEEDS
