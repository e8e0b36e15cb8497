"""A cluster of cores in one process: disks, a network, machines and a clock, all of them in the test's hands.

Nothing moves by itself. A message is delivered, a frame persisted, an entry applied, a clock advanced when the test
says so, and after each input every invariant is checked: of the core, of the step, and of the cluster so far.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from tests.majorities import has_majorities

from oarlock.raft.configurations import NOTHING_PLACED, encode, placed_of
from oarlock.raft.core import Core
from oarlock.raft.effects import PersistToken, Ready
from oarlock.raft.errors import InvariantViolated
from oarlock.raft.invariants import Witness, check_basic, check_delta, glimpse
from oarlock.raft.messages import (
    Append,
    AppendReply,
    PreVote,
    PreVoteReply,
    RaftMessage,
    SnapshotOffer,
    Vote,
    VoteReply,
)
from oarlock.raft.options import Options
from oarlock.raft.state import Role
from oarlock.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Member,
    NodeId,
    PlacedConfiguration,
    SnapshotMeta,
)


def node_id(name: str) -> NodeId:
    """`a` -> `a-0000000000000061`; a full id stays as it is."""
    return name if "-" in name else f"{name}-{ord(name[0]):016x}"


def member(name: str, *, promote: bool = False) -> Member:
    return Member(node_id(name), f"https://{name}:2380", f"http://{name}:2379", promote)


def members(names: str, *, promote: bool = False) -> tuple[Member, ...]:
    return tuple(member(name, promote=promote) for name in names)


def configuration(
    voters: str, learners: str = "", outgoing: str = "", tombstones: str = "", min_voters: int = 0
) -> Configuration:
    return Configuration(
        members(voters), members(learners), members(outgoing), tuple(map(node_id, tombstones)), min_voters
    )


def first_entry(voters: str, learners: str = "", min_voters: int = 0) -> Entry:
    return Entry(1, 1, EntryKind.CONFIGURATION, 0, encode(configuration(voters, learners, min_voters=min_voters)))


def chain(digest: str, entry: Entry) -> str:
    return hashlib.sha256(digest.encode() + msgspec.msgpack.encode(entry)).hexdigest()[:16]


@dataclass
class Frame:
    token: PersistToken
    hard_state: HardState
    entries: tuple[Entry, ...]
    install: SnapshotMeta | None
    promises: list[RaftMessage]


@dataclass
class Disk:
    hard_state: HardState = field(default_factory=HardState)
    snapshot: SnapshotMeta | None = None
    entries: list[Entry] = field(default_factory=list)

    def write(self, frame: Frame) -> None:
        self.hard_state = frame.hard_state
        if frame.install is not None:
            self.snapshot, self.entries = frame.install, []
        if frame.entries:
            first = frame.entries[0].index
            self.entries = [entry for entry in self.entries if entry.index < first] + list(frame.entries)

    def after_snapshot(self) -> list[Entry]:
        start = self.snapshot.index if self.snapshot else 0
        return [entry for entry in self.entries if entry.index > start]

    def holds(self, index: int, term: int) -> bool:
        if self.snapshot is not None and index <= self.snapshot.index:
            return True
        return any(entry.index == index and entry.term == term for entry in self.entries)

    def reaches(self, term: int) -> bool:
        return max((self.snapshot.term if self.snapshot else 0, *(entry.term for entry in self.entries))) >= term


@dataclass
class Machine:
    index: int = 0
    term: int = 0
    time_ms: int = 0
    digest: str = ""
    placed: PlacedConfiguration = NOTHING_PLACED


class Node:
    def __init__(self, id: NodeId, core: Core, disk: Disk) -> None:
        self.id = id
        self.core = core
        self.disk = disk
        self.frames: deque[Frame] = deque()
        self.to_apply: deque[Entry | SnapshotMeta] = deque()
        self.machine = Machine()
        self.fetching: tuple[NodeId, SnapshotMeta] | None = None
        self.up = True
        self.disk_stalls = False


class Cluster:
    """`eager`: frames are persisted and entries applied as soon as they appear; else when the test says so."""

    def __init__(
        self, voters: str, learners: str = "", *, seed: int = 0, options: Options | None = None, eager: bool = True
    ) -> None:
        self.now = 0.0
        self.eager = eager
        self.options = options or Options()
        self.rng = random.Random(seed)
        self.nodes: dict[NodeId, Node] = {}
        self.network: list[RaftMessage] = []
        self.cut: list[tuple[NodeId, NodeId]] = []
        self.witness = Witness()
        self.digests: dict[int, str] = {}
        self.answered: dict[tuple[NodeId, int], int] = {}
        self.asked: dict[tuple[NodeId, int], int] = {}
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = None
        entry = first_entry(voters, learners)
        for name in voters:
            self.add(name, Disk(HardState(1, "", 1), None, [entry]))
        for name in learners:
            self.add(name, Disk())

    def __getitem__(self, name: str) -> Core:
        return self.nodes[node_id(name)].core

    # -- life of a node ---------------------------------------------------------------------------------------------

    def add(self, name: str, disk: Disk | None = None) -> None:
        id = node_id(name)
        disk = disk or Disk()
        self.nodes[id] = Node(id, self._boot(id, disk), disk)
        self._recover(self.nodes[id])

    def _boot(self, id: NodeId, disk: Disk) -> Core:
        return Core(
            id,
            rng=random.Random(self.rng.random()),
            now=self.now,
            options=self.options,
            hard_state=disk.hard_state,
            snapshot=disk.snapshot,
            entries=disk.after_snapshot(),
        )

    def crash(self, id: NodeId, *, written: int = 0) -> None:
        """Lose what is not durable; the first `written` frames reached the disk, but nobody heard of it."""
        node = self.nodes[id]
        for frame in list(node.frames)[:written]:
            node.disk.write(frame)
        self.counts["frames lost"] += max(0, len(node.frames) - written)
        node.frames.clear()
        node.to_apply.clear()
        node.fetching = None
        node.up = False
        self.witness.forget(id)

    def restart(self, id: NodeId) -> None:
        node = self.nodes[id]
        node.core, node.up = self._boot(id, node.disk), True
        self._recover(node)
        for other in self.nodes.values():
            if other is not node and other.up:
                self.input(other, lambda core: core.peer_connected(id, self.now))

    def _recover(self, node: Node) -> None:
        """The machine starts from the snapshot."""
        node.machine = Machine()
        if node.disk.snapshot is not None:
            self._install(node, node.disk.snapshot)
        self.check(node)
        self.work(node)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def input(self, node: Node, act) -> None:
        """Give one input to a core, check everything, and take what is ready."""
        before = glimpse(node.core)
        rolled_back = node.core.placed
        try:
            act(node.core)
        finally:
            check_delta(before, node.core)
            self.check(node)
            self.count(before, node, rolled_back)
            self.work(node)

    def check(self, node: Node) -> None:
        check_basic(node.core)
        self.witness.observe(node.core)

    def count(self, before, node: Node, placed: PlacedConfiguration) -> None:
        core, counts = node.core, self.counts
        if before.role is not core.role:
            counts[f"became {core.role}"] += 1
            if self.trace is not None:
                self.trace.append(f"{short(core.node_id)} becomes {core.role} in term {core.term}")
            if before.role is Role.LEADER and core.removed:
                counts["removed leader stepped down"] += 1
        kept = dict(before.entries)
        if any(core.term_at(index) not in (term, None) for index, term in kept.items() if index >= core.first_index):
            counts["truncated"] += 1
        if core.placed.index < placed.index:
            counts["configuration rolled back"] += 1
        if core.role is Role.LEADER and core.commit_index > before.commit:
            self.check_committed_on_quorum(core, placed)
        if core.role is Role.LEADER and core.placed.index > placed.index:
            self.check_new_voters(core, placed.configuration)

    def check_new_voters(self, core: Core, old: Configuration) -> None:
        """Whoever is given a vote holds what this leader committed first, its no-op, at least (rule 13)."""
        known = {member.id for member in (*old.voters, *old.outgoing)}
        for id in (member.id for member in core.placed.configuration.voters if member.id not in known):
            disk = self.nodes[id].disk
            if not disk.reaches(core.term):
                raise InvariantViolated(f"{core.node_id} gives {id} a vote, which holds nothing of term {core.term}")

    def check_committed_on_quorum(self, core: Core, before: PlacedConfiguration) -> None:
        """Whoever commits, commits what is on the disks of a quorum (D2, C3): by the configuration in force, which may
        be the one before this input, since a commit lets the next one be appended at once."""
        index, term = core.commit_index, core.term_at(core.commit_index)
        on_disk = [id for id, node in self.nodes.items() if node.disk.holds(index, term)]
        if not any(has_majorities(placed.configuration, on_disk) for placed in (before, core.placed)):
            raise InvariantViolated(f"{core.node_id} committed {term}.{index} without a quorum of disks")

    def work(self, node: Node) -> None:
        while node.up and node.core.has_ready():
            self.take(node, node.core.ready(self.now))
            self.check(node)
        while self.eager and node.up:
            if node.frames and not node.disk_stalls:
                self.persist(node)
            elif node.to_apply:
                self.apply(node)
            else:
                return

    def take(self, node: Node, ready: Ready) -> None:
        if ready.token is not None:
            node.frames.append(
                Frame(ready.token, ready.hard_state, ready.entries, ready.install, ready.messages_after_persist)
            )
        else:
            assert not ready.messages_after_persist
            assert not ready.entries
            assert ready.install is None
        if self.trace is not None:
            self.trace.extend(describe(node.id, ready))
        for message in ready.messages:
            self.post(message)
        if ready.install is not None:
            node.to_apply.clear()
            node.to_apply.append(ready.install)
        node.to_apply.extend(ready.committed)
        for read in ready.reads:
            self.answer(node.id, read.context, read.index)
        if ready.fetch is not None:
            node.fetching = ready.fetch

    def post(self, message: RaftMessage) -> None:
        self.network.append(message)

    def persist(self, node: Node) -> None:
        frame = node.frames.popleft()
        node.disk.write(frame)
        if frame.promises and self.trace is not None:
            self.trace.extend(f"{short(m.sender)} -> {short(m.to)}  {say(m)}" for m in frame.promises)
        for message in frame.promises:
            self.post(message)
        self.input(node, lambda core: core.persisted(frame.token, self.now))

    def apply(self, node: Node) -> None:
        what, machine = node.to_apply.popleft(), node.machine
        if isinstance(what, SnapshotMeta):
            self._install(node, what)
            self.counts["snapshot installed"] += 1
        else:
            if what.index != machine.index + 1:
                raise InvariantViolated(f"{node.id} applies {what.index} after {machine.index}")
            machine.index, machine.term, machine.time_ms = what.index, what.term, what.time_ms
            machine.digest = chain(machine.digest, what)
            if what.kind == EntryKind.CONFIGURATION:
                machine.placed = placed_of(what)
        self._check_machine(node)
        self.input(node, lambda core: core.applied(node.machine.index))

    def _install(self, node: Node, meta: SnapshotMeta) -> None:
        node.machine = Machine(meta.index, meta.term, meta.time_ms, meta.digest, meta.placed)
        self._check_machine(node)

    def _check_machine(self, node: Node) -> None:
        """State machine safety: the same state at the same index, everywhere."""
        machine = node.machine
        if self.digests.setdefault(machine.index, machine.digest) != machine.digest:
            raise InvariantViolated(f"{node.id} has another state at {machine.index}")

    # -- what a test does ---------------------------------------------------------------------------------------------

    def deliver(self, message: RaftMessage) -> None:
        node = self.nodes.get(message.to)
        if node is not None and node.up and (message.sender, message.to) not in self.cut:
            self.input(node, lambda core: core.step(message, self.now))

    def settle(self) -> None:
        """Deliver until nothing is on its way."""
        while self.network:
            self.deliver(self.network.pop(0))

    def tick(self) -> None:
        for node in list(self.nodes.values()):
            if node.up and node.core.deadline <= self.now:
                self.input(node, lambda core: core.tick(self.now))

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass, with a perfect network."""
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.tick()
            self.settle()

    def elect(self, name: str) -> Core:
        """Let `name` be the first to lose patience, and win."""
        node = self.nodes[node_id(name)]
        self.now = max(self.now + 2 * self.options.election_timeout_seconds, node.core.deadline)
        self.input(node, lambda core: core.tick(self.now))
        self.settle()
        assert node.core.role is Role.LEADER, node.core.role
        return node.core

    def propose(self, name: str, data: bytes = b"x") -> tuple[int, int]:
        placed: list[tuple[int, int]] = []
        waiting = self.nodes[node_id(name)].core.unwritten_bytes
        self.input(self.nodes[node_id(name)], lambda core: placed.append(core.propose(data, self.now)))
        if 0 < waiting > self.options.max_uncommitted_bytes - len(data):
            raise InvariantViolated(f"{name} takes {len(data)} bytes, and {waiting} wait for its disk (rule 6)")
        return placed[0]

    def read(self, name: str, context: int) -> None:
        key = (node_id(name), context)
        self.asked[key] = max(self.witness.committed, default=0)
        self.input(self.nodes[key[0]], lambda core: core.read(context, self.now))

    def answer(self, id: NodeId, context: int, index: int) -> None:
        """A read is never older than what was committed anywhere when it was asked."""
        key = (id, context)
        assert key not in self.answered, "a read is answered once"
        self.answered[key] = index
        if index >= 0:
            self.counts["read on the leader" if self.nodes[id].core.role is Role.LEADER else "read on a follower"] += 1
            if index < self.asked[key]:
                raise InvariantViolated(f"{id} read at {index} after {self.asked[key]} was committed")
        else:
            self.counts["read failed"] += 1

    def change(self, name: str, voters: str, learners: str = "", promote: str = "", if_config: str = "") -> None:
        node = self.nodes[node_id(name)]
        wanted = (*members(learners), *members(promote, promote=True))
        self.change_to(node, members(voters), wanted, if_config or node.core.placed.id)

    def change_to(self, node: Node, voters: Sequence[Member], learners: Sequence[Member], if_config: str) -> None:
        self.input(node, lambda core: core.change_configuration(voters, learners, if_config, self.now))

    def take_snapshot(self, id: NodeId) -> SnapshotMeta | None:
        """At what is applied and locally durable (rule 6)."""
        node = self.nodes[id]
        machine = node.machine
        newest = node.disk.snapshot.index if node.disk.snapshot else 0
        if not newest < machine.index <= node.core.durable_index or node.core.applied_index < machine.index:
            return None
        meta = SnapshotMeta(machine.index, machine.term, machine.time_ms, machine.placed, 1, 1000, machine.digest)
        node.disk.snapshot = meta
        self.input(node, lambda core: core.snapshot_taken(meta))
        return meta

    def compact(self, id: NodeId, index: int) -> None:
        node = self.nodes[id]
        node.disk.entries = [entry for entry in node.disk.entries if entry.index > index]
        self.input(node, lambda core: core.compact(index))

    def finish_fetch(self, id: NodeId, *, succeed: bool = True) -> None:
        node = self.nodes[id]
        assert node.fetching is not None
        (_, meta), node.fetching = node.fetching, None
        if succeed:
            self.input(node, lambda core: core.install(meta, self.now))
        else:
            self.input(node, lambda core: core.refuse_snapshot(meta, self.now))

    def leader(self) -> Core | None:
        """The leader of the highest term among those that are up."""
        leaders = [node.core for node in self.nodes.values() if node.up and node.core.role is Role.LEADER]
        return max(leaders, key=lambda core: core.term, default=None)


# -- words for golden scripts -----------------------------------------------------------------------------------------


def short(id: NodeId) -> str:
    return id.partition("-")[0]


def names(of: tuple[Member, ...]) -> str:
    return "".join(short(one.id) + ("*" if one.promote else "") for one in of)


def say_configuration(of: Configuration) -> str:
    parts = [f"voters {names(of.voters)}"]
    if of.outgoing:
        parts.append(f"outgoing {names(of.outgoing)}")
    if of.learners:
        parts.append(f"learners {names(of.learners)}")
    if of.tombstones:
        parts.append(f"tombstones {''.join(map(short, of.tombstones))}")
    return ", ".join(parts)


def say_entry(entry: Entry) -> str:
    place = f"{entry.term}.{entry.index}"
    if entry.kind == EntryKind.NOOP:
        return f"{place} noop"
    if entry.kind == EntryKind.CONFIGURATION:
        return f"{place} ({say_configuration(placed_of(entry).configuration)})"
    return f"{place} {entry.data.decode()!r}"


def say(message: RaftMessage) -> str:
    head = f"{type(message).__name__} term {message.term}"
    match message:
        case PreVote() | Vote():
            flag = ", for a transfer" if isinstance(message, Vote) and message.transfer else ""
            return f"{head}, log ends at {message.last_term}.{message.last_index}{flag}"
        case PreVoteReply() | VoteReply():
            return f"{head}, {'granted' if message.granted else 'refused'}"
        case Append():
            entries = "; ".join(map(say_entry, message.entries))
            return f"{head}, after {message.prev_term}.{message.prev_index}, commit {message.commit}, [{entries}]"
        case AppendReply():
            if message.accepted:
                return f"{head}, accepted to {message.index}"
            return f"{head}, refused after {message.index}, try after {message.hint_term}.{message.hint_index}"
        case SnapshotOffer():
            return f"{head}, snapshot {message.meta.term}.{message.meta.index}"
        case _:
            return ", ".join([head, *(f"{name} {getattr(message, name)}" for name in message.__struct_fields__[3:])])


def describe(id: NodeId, ready: Ready) -> list[str]:
    me, lines = short(id), []
    if ready.install is not None:
        lines.append(f"{me} installs snapshot {ready.install.term}.{ready.install.index}")
    if ready.token is not None:
        state = ready.hard_state
        lines.append(f"{me} persists term {state.term}, vote {short(state.vote) or '-'}")
        lines += [f"{me}          {say_entry(entry)}" for entry in ready.entries]
    lines += [f"{me} -> {short(message.to)}  {say(message)}" for message in ready.messages]
    lines += [f"{me} applies {say_entry(entry)}" for entry in ready.committed]
    lines += [f"{me} may answer read {read.context} at {read.index}" for read in ready.reads]
    if ready.doubted is not None:
        lines.append(f"{me} doubts its snapshot {ready.doubted.term}.{ready.doubted.index}")
    if ready.fetch is not None:
        source, meta = ready.fetch
        lines.append(f"{me} fetches snapshot {meta.term}.{meta.index} from {short(source)}")
    return lines
