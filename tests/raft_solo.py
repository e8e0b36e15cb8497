"""One core, and the test in the place of everyone else: it says what peers send, and sees all that comes out."""

from __future__ import annotations

import random
from typing import TypeVar

from tests.raft_cluster import first_entry, node_id

from oarlock.raft.configurations import NOTHING_PLACED, encode
from oarlock.raft.core import Core
from oarlock.raft.effects import Ready
from oarlock.raft.invariants import check_basic
from oarlock.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from oarlock.raft.options import Options
from oarlock.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    NodeId,
    PlacedConfiguration,
    SnapshotMeta,
)

M = TypeVar("M", bound=Message)


def command(index: int, term: int, data: bytes = b"x", time_ms: int = 0) -> Entry:
    return Entry(index, term, EntryKind.COMMANDS, time_ms, data)


def change_entry(index: int, term: int, of: Configuration) -> Entry:
    return Entry(index, term, EntryKind.CONFIGURATION, 0, encode(of))


def snapshot_meta(index: int, term: int, of: Configuration | None = None, placed_at: int = 1) -> SnapshotMeta:
    placed = PlacedConfiguration(placed_at, 1, of) if of is not None else NOTHING_PLACED
    return SnapshotMeta(index, term, 0, placed, 1, 1000, f"digest-{term}.{index}")


class Solo:
    """`terms` are those of the commands after the first entry: `[1, 1, 2]` are 1.2, 1.3 and 2.4."""

    def __init__(
        self,
        name: str = "a",
        voters: str = "abc",
        learners: str = "",
        *,
        terms: list[int] | None = None,
        entries: list[Entry] | None = None,
        term: int | None = None,
        vote: str = "",
        commit: int = 1,
        snapshot: SnapshotMeta | None = None,
        options: Options | None = None,
        seed: int = 0,
    ) -> None:
        if entries is None:
            entries = [] if snapshot else [first_entry(voters, learners)]
            for number, of in enumerate(terms or [], start=len(entries) + (snapshot.index if snapshot else 0) + 1):
                entries.append(command(number, of))
        last_term = entries[-1].term if entries else (snapshot.term if snapshot else 0)
        self.now = 100.0
        self.core = Core(
            node_id(name),
            rng=random.Random(seed),
            now=self.now,
            options=options or Options(),
            hard_state=HardState(last_term if term is None else term, node_id(vote) if vote else "", commit),
            snapshot=snapshot,
            entries=entries,
        )
        self.readys: list[Ready] = []
        self.waiting: list[Ready] = []
        self.take()

    @property
    def id(self) -> NodeId:
        return self.core.node_id

    # -- outputs

    def pull(self) -> list[Message]:
        """What may leave now; nothing becomes durable."""
        check_basic(self.core)
        out: list[Message] = []
        while self.core.has_ready():
            ready = self.core.ready(self.now)
            self.readys.append(ready)
            out += ready.messages
            if ready.token is not None:
                self.waiting.append(ready)
            if ready.committed:
                self.core.applied(ready.committed[-1].index)
        return out

    def persist(self) -> list[Message]:
        """The oldest frame becomes durable."""
        ready = self.waiting.pop(0)
        assert ready.token is not None
        self.core.persisted(ready.token, self.now)
        return [*ready.messages_after_persist, *self.pull()]

    def take(self) -> list[Message]:
        """Everything that comes out, with a disk that is always done."""
        out = self.pull()
        while self.waiting:
            out += self.persist()
        return out

    @property
    def reads(self) -> list[tuple[int, int]]:
        return [(read.context, read.index) for ready in self.readys for read in ready.reads]

    @property
    def committed(self) -> list[Entry]:
        return [entry for ready in self.readys for entry in ready.committed]

    # -- inputs

    def give(self, kind: type[M], sender: str, term: int, *fields: object) -> None:
        self.core.step(kind(node_id(sender), self.id, term, *fields), self.now)

    def step(self, kind: type[M], sender: str, term: int, *fields: object) -> list[Message]:
        self.give(kind, sender, term, *fields)
        return self.take()

    def tick(self, seconds: float = 0.0) -> list[Message]:
        self.now += seconds
        self.core.tick(self.now)
        return self.take()

    def time_out(self) -> list[Message]:
        """Lose patience with the leader."""
        self.now = max(self.now, self.core.deadline)
        self.core.tick(self.now)
        return self.take()

    def win(self, *voters: str) -> list[Message]:
        """Win the next term with the votes of `voters`; the no-op is on its way."""
        self.time_out()
        term = self.core.term
        for voter in voters:
            self.give(PreVoteReply, voter, term + 1, True)
        self.take()
        for voter in voters:
            self.give(VoteReply, voter, term + 1, True)
        out = self.take()
        assert self.core.role == "leader"
        return out

    def lead(self, *voters: str) -> list[Message]:
        """Win, and commit the no-op with the same voters."""
        out = self.win(*voters)
        for voter in voters:
            out += self.accept(voter)
        return out

    def accept(self, *peers: str, index: int | None = None) -> list[Message]:
        out = []
        for peer in peers:
            last = self.core.last_index if index is None else index
            out += self.step(AppendReply, peer, self.core.term, True, last, 0, 0)
        return out

    def beat(self, *peers: str) -> list[Message]:
        """The next regular heartbeat, answered by `peers`."""
        out = self.tick(self.core.options.heartbeat_seconds)
        for peer in peers:
            number = max((m.round for m in out if isinstance(m, Heartbeat)), default=0)
            out += self.step(HeartbeatReply, peer, self.core.term, number)
        return out

    def append(self, sender: str, term: int, previous: tuple[int, int], commit: int, *terms: int) -> list[Message]:
        """`previous` is (index, term); commands of `terms` follow it."""
        entries = tuple(command(previous[0] + number, of) for number, of in enumerate(terms, start=1))
        return self.step(Append, sender, term, previous[0], previous[1], commit, entries)

    def ask_vote(self, sender: str, term: int, index: int, last_term: int, *, transfer: bool = False) -> bool | None:
        """The answer; None when there is none."""
        for message in self.step(Vote, sender, term, index, last_term, transfer):
            if isinstance(message, VoteReply):
                return message.granted
        return None

    def ask_pre_vote(self, sender: str, term: int, index: int, last_term: int) -> PreVoteReply | None:
        return next(iter(only(self.step(PreVote, sender, term, index, last_term), PreVoteReply)), None)


def only(messages: list[Message], kind: type[M]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]
