"""Members (the sans-IO ones of oarlock.runtime) back to back: virtual time, streams that break, a toy machine.

Rules of this module: time moves only in `run`, from one event to the next; all randomness is the seed's; a message is
delivered in order on its stream or the stream breaks, as TCP does, but `loss` drops the core's own messages, which it
must bear. After every event the oracle holds: one entry an index, on every member; no waiter is answered twice; nobody
forwards what another member was asked for (rule 8).

    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.submit(leader, b"x")          # the payload is the waiter's name, so it must be used once
    cluster.run(1.0)
    assert cluster.results[b"x"].revision # a Result; or cluster.refusals[b"x"], a Refused
    cluster.heal(); cluster.judge()       # what was promised is what the machines hold
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from tests.raft_cluster import first_entry, node_id

from oarlock.machine.command import Command, Result, decode_batch
from oarlock.peers.messages import Forward, ForwardReply, PeerMessage
from oarlock.raft.configurations import NOTHING_PLACED
from oarlock.raft.core import Core
from oarlock.raft.effects import PersistToken
from oarlock.raft.messages import RaftMessage
from oarlock.raft.options import Options
from oarlock.raft.state import Role
from oarlock.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    NodeId,
    PlacedConfiguration,
    SnapshotMeta,
)
from oarlock.runtime.errors import Refused
from oarlock.runtime.member import Member
from oarlock.runtime.turn import Limits, Turn

LATENCY = 0.001
MOST_EVENTS = 1000  # in one instant
MOST_HOPS = 20  # of one write, each the first: more is a member that asks the same again at once
MOST_TURNS = 50  # in one instant: more is a member that spins


@dataclass
class Written:
    """What is on one member's disk."""

    hard_state: HardState = field(default_factory=HardState)
    snapshot: SnapshotMeta | None = None
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Frame:
    token: PersistToken
    hard_state: HardState
    entries: tuple[Entry, ...]
    install: SnapshotMeta | None
    after: list[RaftMessage]


@dataclass
class Toy:
    """A machine that remembers what it was given, in order."""

    index: int = 0
    term: int = 0
    applied: list[tuple[int, bytes]] = field(default_factory=list)  # (index, payload)
    placed: PlacedConfiguration = NOTHING_PLACED
    version: int = 0
    time_ms: int = 0

    def apply(self, entry: Entry) -> list[Result]:
        assert entry.index == self.index + 1, "entries are applied in order, each once"
        self.index, self.term, self.time_ms = entry.index, entry.term, entry.time_ms
        if entry.kind == EntryKind.CONFIGURATION:
            configuration = msgspec.msgpack.decode(entry.data, type=Configuration)
            self.placed = PlacedConfiguration(entry.index, entry.term, configuration)
        if entry.kind == EntryKind.VERSION:
            self.version = msgspec.msgpack.decode(entry.data, type=int)
        if entry.kind != EntryKind.COMMANDS:
            return []
        results = []
        for command in decode_batch(entry.data).commands:
            self.applied.append((entry.index, command.payload))
            results.append(Result(0, entry.index, command.payload))
        return results

    def copy(self) -> Toy:
        return Toy(self.index, self.term, list(self.applied), self.placed, self.version, self.time_ms)


class Site:
    """A member, its disk and its machine. The switches are the test's."""

    def __init__(self, id: NodeId, disk: Written) -> None:
        self.id = id
        self.disk = disk
        self.up = False
        self.disk_hangs = False
        self.apply_waits = False
        self.member: Member
        self.machine = Toy()
        self.frames: deque[Frame] = deque()
        self.to_apply: deque[Entry | SnapshotMeta] = deque()
        self.markers = 0  # durable, and not yet swapped

    @property
    def core(self) -> Core:
        return self.member.core


class Cluster:
    def __init__(
        self,
        voters: str,
        learners: str = "",
        *,
        seed: int = 0,
        options: Options | None = None,
        limits: Limits | None = None,
        min_voters: int = 0,
        loss: float = 0.0,
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.options, self.limits, self.loss = options or Options(), limits or Limits(), loss
        self.sites: dict[NodeId, Site] = {}
        self.network: list[tuple[float, int, PeerMessage]] = []
        self._sequence = 0
        self.cut: set[frozenset[NodeId]] = set()
        self.streams: set[tuple[NodeId, NodeId]] = set()
        self.eat: Callable[[PeerMessage], bool] = lambda _: False  # True: it is lost, and nobody is told
        self.refuse: Callable[[PeerMessage], bool] = lambda _: False  # True: the window is full
        self.sent: list[PeerMessage] = []
        self.hops: Counter[bytes] = Counter()
        self.asked: dict[bytes, NodeId] = {}  # who was asked for a write
        self.results: dict[bytes, Result] = {}
        self.refusals: dict[bytes, Refused] = {}
        self.readable: dict[bytes, int] = {}
        self.truth: dict[int, Entry] = {}
        self.snapshots: dict[str, Toy] = {}
        first = first_entry(voters, learners, min_voters)
        for name in voters:
            self.start(name, Written(HardState(1, "", 1), None, [first]))
        for name in learners:
            self.start(name, Written())

    def __getitem__(self, name: str) -> Member:
        return self.sites[node_id(name)].member

    def site(self, name: str) -> Site:
        return self.sites[node_id(name)]

    # -- members ----------------------------------------------------------------------------------------------------

    def start(self, name: str, disk: Written) -> None:
        id = node_id(name)
        site = self.sites[id] = Site(id, disk)
        start = disk.snapshot.index if disk.snapshot else 0
        if disk.snapshot is not None:
            site.machine = self.snapshots[disk.snapshot.digest].copy()
        entries = [entry for entry in disk.entries if entry.index > start]
        core = Core(
            id,
            rng=random.Random(self.rng.random()),
            now=self.now,
            options=self.options,
            hard_state=disk.hard_state,
            snapshot=disk.snapshot,
            entries=entries,
        )
        site.member = Member(core, self.now, self.limits, first_number=self.rng.getrandbits(56))
        site.up = True
        self._reconnect()

    def kill(self, name: str) -> None:
        """Without a word; what it had not written is lost, and so is what its waiters would have heard."""
        site = self.site(name)
        site.up = False
        self._reconnect()

    def restart(self, name: str) -> None:
        self.start(name, self.site(name).disk)

    def stop(self, name: str) -> None:
        """A clean stop, without a hand-over."""
        site = self.site(name)
        site.member.stop()
        self._deliver(site, site.member.take_answers())
        self.kill(name)

    # -- links ------------------------------------------------------------------------------------------------------

    def split(self, *groups: str) -> None:
        """Streams run within a group only."""
        ids = list(self.sites)
        group_of = {node_id(name): number for number, group in enumerate(groups) for name in group}
        self.cut = {
            frozenset((a, b)) for a in ids for b in ids if a != b and group_of.get(a, -1) != group_of.get(b, -1)
        }
        self._reconnect()

    def heal(self) -> None:
        self.cut.clear()
        self.loss = 0.0
        self.eat = self.refuse = lambda _: False
        for site in self.sites.values():
            site.disk_hangs = site.apply_waits = False
        for site in list(self.sites.values()):
            if not site.up:
                self.start(site.id, site.disk)
        self._reconnect()

    def _reconnect(self) -> None:
        for a, one in list(self.sites.items()):
            for b, other in list(self.sites.items()):
                fits = a != b and one.up and other.up and frozenset((a, b)) not in self.cut
                if fits and (a, b) not in self.streams:
                    self.streams.add((a, b))
                    one.member.connected(b, self.now)
                elif not fits and (a, b) in self.streams:
                    self.streams.discard((a, b))
                    self.network = [m for m in self.network if (m[2].sender, m[2].to) != (a, b)]
                    heapq.heapify(self.network)
                    if one.up:
                        one.member.disconnected(b, self.now)
        self._turns()

    def _send(self, message: PeerMessage) -> bool:
        if (message.sender, message.to) not in self.streams or self.refuse(message):
            return False
        self.sent.append(message)
        if isinstance(message, Forward):
            for command in message.commands:
                asked = self.asked.get(command.payload, message.sender)
                assert asked == message.sender, f"{command.payload!r} is forwarded again"
                self.hops[command.payload] += 1
                assert self.hops[command.payload] <= MOST_HOPS, f"{command.payload!r} goes round and round"
        carried = isinstance(message, Forward | ForwardReply)
        if self.eat(message) or (not carried and self.rng.random() < self.loss):
            return True
        self._sequence += 1
        heapq.heappush(self.network, (self.now + LATENCY, self._sequence, message))
        return True

    # -- clients ----------------------------------------------------------------------------------------------------

    def submit(self, name: str, payload: bytes, *, grows: bool = True, key: str = "") -> None:
        """Raises Refused, as the member does."""
        self.asked.setdefault(payload, node_id(name))
        self[name].submit(Command(payload, key), payload, self.now, grows=grows)
        self._turns()

    def read(self, name: str, waiter: bytes) -> None:
        self[name].read(waiter, self.now)
        self._turns()

    # -- time -------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.until(lambda: False, seconds)
        self.now = max(self.now, self._end)

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        """Whether it came true in time."""
        self._end = self.now + seconds
        instant = 0
        while not condition():
            at = self._next_event()
            if at > self._end:
                return False
            instant = instant + 1 if at <= self.now else 0
            assert instant < MOST_EVENTS, "time stands still: some member wants a tick, and again, and again"
            self._advance(max(at, self.now))
        return True

    def elect(self, among: str = "") -> str:
        """Runs until there is a leader whose no-op is committed; its name, as short as it came."""
        names = among or "".join(id[0] for id in self.sites)

        def leaders() -> list[str]:
            return [n for n in names if self.site(n).up and self[n].core.noop_committed]

        assert self.until(lambda: bool(leaders())), "nobody was elected"
        return max(leaders(), key=lambda n: self[n].core.term)

    def follower(self, leader: str) -> str:
        """One that knows that leader."""
        names = [id[0] for id in self.sites if id != node_id(leader)]
        assert self.until(lambda: any(self[n].core.leader == node_id(leader) for n in names))
        return next(n for n in names if self[n].core.leader == node_id(leader))

    def _next_event(self) -> float:
        times = [m.member.deadline for m in self.sites.values() if m.up]
        if self.network:
            times.append(self.network[0][0])
        times += [self.now + LATENCY / 4 for s in self.sites.values() if s.up and self._has_disk_work(s)]
        return min(times, default=float("inf"))

    def _has_disk_work(self, site: Site) -> bool:
        if site.frames and not site.disk_hangs:
            return True
        head = site.to_apply[0] if site.to_apply else None
        return head is not None and not site.apply_waits and (isinstance(head, Entry) or site.markers > 0)

    def _advance(self, to: float) -> None:
        self.now = to
        for site in self.sites.values():
            if site.up and self._has_disk_work(site):
                self._persist(site)
                self._apply(site)
        while self.network and self.network[0][0] <= self.now:
            message = heapq.heappop(self.network)[2]
            site = self.sites[message.to]
            if site.up:
                site.member.receive(message, self.now)
        for site in self.sites.values():
            if site.up and site.member.deadline <= self.now:
                site.member.tick(self.now)
        self._turns()

    # -- one member's work ------------------------------------------------------------------------------------------

    def _turns(self) -> None:
        for site in list(self.sites.values()):
            turns = 0
            while site.up and site.member.has_work():
                turns += 1
                assert turns <= MOST_TURNS, f"{site.id} spins"
                self._turn(site)

    def _turn(self, site: Site) -> None:
        turn = site.member.turn(self.now, 0)
        ready = turn.ready
        if site.core.role is Role.LEADER:
            self._check_batch(site, ready.entries)
        for message in turn.messages:
            if not self._send(message):
                site.member.not_sent(message)
        if ready.install is not None:
            site.to_apply.append(ready.install)
        if ready.token is not None:
            frame = Frame(ready.token, ready.hard_state, ready.entries, ready.install, ready.messages_after_persist)
            site.frames.append(frame)
        site.to_apply.extend(ready.committed)
        if ready.fetch is not None:
            _, meta = ready.fetch
            if meta.digest in self.snapshots:
                site.member.core.install(meta, self.now)
            else:
                site.member.core.refuse_snapshot(meta, self.now)
        self._deliver(site, turn)

    def _check_batch(self, site: Site, entries: Sequence[Entry]) -> None:
        """Rule 32: all that was queued is one entry, as far as one may hold it."""
        own = [e for e in entries if e.kind == EntryKind.COMMANDS and e.term == site.core.term]
        assert len(own) <= 1, f"{site.id} proposes {len(own)} entries in one turn"
        left = site.member._queue
        if own and left:
            commands, limits = decode_batch(own[0].data).commands, site.member.limits
            size = sum(len(c.payload) for c in (*commands, left[0].command))
            assert len(commands) == limits.batch_commands or size > limits.batch_bytes, f"{site.id} leaves some behind"

    def _deliver(self, site: Site, turn: Turn) -> None:
        answered = [w for w, _ in turn.answers] + [w for w, _ in turn.refusals] + turn.readable
        for waiter in answered:
            assert waiter not in {**self.results, **self.refusals, **self.readable}, f"{waiter!r} is answered twice"
        self.results.update(turn.answers)
        self.refusals.update(turn.refusals)
        for waiter in turn.readable:
            self.readable[waiter] = site.machine.index

    def _persist(self, site: Site) -> None:
        while site.frames and not site.disk_hangs:
            frame, disk = site.frames.popleft(), site.disk
            disk.hard_state = frame.hard_state
            if frame.install is not None:
                disk.snapshot, disk.entries = frame.install, []
                site.markers += 1
            if frame.entries:
                first = frame.entries[0].index
                disk.entries = [e for e in disk.entries if e.index < first] + list(frame.entries)
            for message in frame.after:
                self._send(message)
            site.member.core.persisted(frame.token, self.now)

    def _apply(self, site: Site) -> None:
        entries: list[Entry] = []
        results: list[list[Result]] = []
        while site.to_apply and not site.apply_waits:
            head = site.to_apply[0]
            if isinstance(head, SnapshotMeta):
                if entries or not site.markers:
                    break
                site.to_apply.popleft()
                site.markers -= 1
                site.machine = self.snapshots[head.digest].copy()
                site.member.cluster_version = site.machine.version
                site.member.installed(head)
                continue
            site.to_apply.popleft()
            known = self.truth.setdefault(head.index, head)
            assert known == head, f"two entries are committed at {head.index}"
            entries.append(head)
            results.append(site.machine.apply(head))
        if entries:
            site.member.cluster_version = site.machine.version
            site.member.applied(entries, results)
            self._deliver(site, site.member.take_answers())

    def snapshot(self, name: str) -> SnapshotMeta:
        """Takes one and cuts the log behind it. Only where all it covers is on the disk (rule 6)."""
        site = self.site(name)
        assert site.core.durable_index >= site.machine.index
        machine = site.machine
        digest = f"{machine.term}.{machine.index}"
        meta = SnapshotMeta(machine.index, machine.term, machine.time_ms, machine.placed, machine.version, 1, digest)
        self.snapshots[digest] = machine.copy()
        if site.disk.snapshot is None or site.disk.snapshot.index < meta.index:  # else one waits to be installed
            site.disk.snapshot = meta
        site.core.snapshot_taken(meta)
        site.core.compact(meta.index)
        return meta

    # -- the oracle -------------------------------------------------------------------------------------------------

    def payloads(self) -> list[bytes]:
        """Of all that was committed, in order."""
        commands = [
            decode_batch(entry.data).commands
            for _, entry in sorted(self.truth.items())
            if entry.kind == EntryKind.COMMANDS
        ]
        return [command.payload for batch in commands for command in batch]

    def settle(self) -> None:
        """After `heal`: a leader, and every member as far as it."""
        leader = self.elect()

        def level() -> bool:
            top = self[leader].core.last_index
            return all(s.machine.index == top for s in self.sites.values() if s.core.last_index or s.up)

        assert self.until(level, 60.0), "the members do not converge"

    def judge(self) -> None:
        """Rule 8, once everything has settled: a result is in the log at its revision, once; what was refused as
        `not_applied` is nowhere; what is unknown is there once or not at all."""
        committed = self.payloads()
        for payload, result in self.results.items():
            times = committed.count(payload)
            assert times == 1, f"{payload!r} was acknowledged and is there {times} times"
            batch = decode_batch(self.truth[result.revision].data).commands
            assert payload in [c.payload for c in batch], f"{payload!r} is not where it was said to be"
        for payload, refused in self.refusals.items():
            most = 0 if refused.outcome == "not_applied" else 1
            assert committed.count(payload) <= most, f"{payload!r} was refused as {refused.outcome}, and is there"

    def leads(self, name: str) -> bool:
        return self[name].core.role is Role.LEADER
