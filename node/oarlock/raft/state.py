"""What a member knows, and the elementary steps every handler shares: queue a message, move the commit index, look at
the configuration in force.

Three rules of this module: it decides nothing (the handlers do, see core.py); `now` is the time of the current input
and the only clock; nothing here reads a set, so that equal inputs give equal outputs.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from oarlock.raft import quorum
from oarlock.raft.configurations import Configurations
from oarlock.raft.durability import Durability
from oarlock.raft.effects import ReadReady
from oarlock.raft.log import Log, size_of
from oarlock.raft.messages import RaftMessage
from oarlock.raft.options import Options
from oarlock.raft.progress import PeerProgress
from oarlock.raft.types import NOBODY, Member, NodeId, SnapshotMeta


class Role(StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Read:
    """A read that waits for a round on the leader; `origin` is who asked, the leader itself included."""

    origin: NodeId
    context: int


@dataclass(frozen=True, slots=True)
class Round:
    """A read round in flight: heartbeats numbered `number` and later confirm it; then `index` is safe to read at."""

    number: int
    index: int
    reads: list[Read]


@dataclass(slots=True)
class State:
    id: NodeId
    rng: random.Random
    options: Options
    now: float
    log: Log
    configurations: Configurations
    durability: Durability
    term: int
    vote: NodeId
    commit: int
    handed_out: int  # everything up to here was given to the machine
    applied: int  # everything up to here the machine has reported
    snapshot: SnapshotMeta | None

    role: Role = Role.FOLLOWER
    leader: NodeId = NOBODY
    last_leader: NodeId = NOBODY
    leader_contact_at: float | None = None
    known_commit: int | None = None  # the highest that a leader has told of, beyond this log or not; None: none has yet
    removed: bool = False
    halves: quorum.Halves = ()

    # elections
    votes: dict[NodeId, bool] = field(default_factory=dict)
    election_deadline: float = 0.0

    # a leader's
    peers: dict[NodeId, PeerProgress] = field(default_factory=dict)
    elected_at: float = 0.0
    time_base_ms: int = 0
    noop_index: int = 0
    round: int = 0
    next_heartbeat: float = 0.0
    notice_at: float | None = None
    notice_commit: int = 0
    caught_up_from: int = 0  # the commit index one regular heartbeat earlier (rule 13)
    commit_at_heartbeat: int = 0
    uncommitted_bytes: int = 0
    transferring: NodeId = NOBODY
    transfer_deadline: float = 0.0
    transfer_sent: bool = False
    forming: list[Read] = field(default_factory=list)
    flight: Round | None = None

    # a follower's
    asked: dict[int, float] = field(default_factory=dict)  # read context -> when it was sent to the leader
    fetching: tuple[NodeId, SnapshotMeta] | None = None
    installing: SnapshotMeta | None = None  # handed to the machine, not yet applied

    # what goes out
    messages: list[RaftMessage] = field(default_factory=list)
    promises: list[RaftMessage] = field(default_factory=list)  # they tell of durable state
    held: list[tuple[int, RaftMessage]] = field(default_factory=list)  # promises that wait for an outstanding token
    reads: list[ReadReady] = field(default_factory=list)
    fetch: tuple[NodeId, SnapshotMeta] | None = None
    install: SnapshotMeta | None = None
    doubted: SnapshotMeta | None = None

    remote_errors: Counter[str] = field(default_factory=Counter)
    elections_started: int = 0
    elections_won: int = 0
    leader_changes: int = 0

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, message: RaftMessage) -> None:
        """May leave at once."""
        self.messages.append(message)

    def promise(self, message: RaftMessage) -> None:
        """May leave only when what it tells is durable: the term and vote, and for an accepted append the log."""
        self.promises.append(message)

    # -- time -----------------------------------------------------------------------------------------------------

    def draw_election_deadline(self) -> None:
        timeout = self.options.election_timeout_seconds
        self.election_deadline = self.now + timeout + self.rng.random() * timeout

    def hear_of_commit(self, index: int) -> None:
        """A leader said how far the cluster is, which may be further than this log reaches."""
        self.known_commit = index if self.known_commit is None else max(self.known_commit, index)

    def within_election_timeout(self, moment: float | None) -> bool:
        return moment is not None and self.now - moment < self.options.election_timeout_seconds

    @property
    def disk_hangs(self) -> bool:
        """The disk has owed an answer for an election timeout, and given none: this member should not lead (D12)."""
        owed_since = self.durability.owed_since
        return owed_since is not None and not self.within_election_timeout(owed_since)

    @property
    def has_leader_lease(self) -> bool:
        """Whether a leader was heard of so recently that a vote would be an intrusion (thesis 4.2.3)."""
        if self.role is Role.LEADER:
            return True  # check-quorum takes the role away in time
        return self.leader != NOBODY and self.within_election_timeout(self.leader_contact_at)

    def cluster_time_ms(self) -> int:
        """Of an entry appended now (rule 28): counts on from the log this leader was elected with."""
        elapsed_ms = int((self.now - self.elected_at) * 1000)
        return max(self.log.last_time_ms, self.time_base_ms + elapsed_ms)

    # -- membership in force --------------------------------------------------------------------------------------

    def is_voter(self, node: NodeId) -> bool:
        """Of either half."""
        return any(node in half for half in self.halves)

    def members(self) -> dict[NodeId, Member]:
        """All participants of the latest configuration, each once, in its order."""
        configuration = self.configurations.latest.configuration
        found: dict[NodeId, Member] = {}
        for member in (*configuration.voters, *configuration.learners, *configuration.outgoing):
            found.setdefault(member.id, member)
        return found

    def participants(self) -> dict[NodeId, Member]:
        """All whom this member may still have something to say to: those of the latest configuration, of any since the
        committed one (it may be rolled back), and on a leader those dropped that do not know it yet (M11)."""
        found = self.members()
        committed = self.configurations.at(self.commit).index
        for placed in self.configurations.newest_first():
            groups = placed.configuration
            for member in (*groups.voters, *groups.learners, *groups.outgoing):
                if placed.index >= committed or member.id in self.peers:
                    found.setdefault(member.id, member)
        return found

    def configuration_changed(self) -> None:
        """To be called when the latest configuration is another: by append, truncation or snapshot."""
        self.halves = quorum.halves(self.configurations.latest.configuration)
        if self.role is Role.LEADER:
            self.match_peers()

    def match_peers(self) -> None:
        """Give every participant a progress; those dropped keep theirs until they know (M11)."""
        members = self.members()
        for node in members:
            if node == self.id:
                continue
            peer = self.peers.get(node)
            if peer is None:
                self.add_peer(node)
            else:
                peer.leaving = 0
        for node, peer in self.peers.items():
            if node not in members and not peer.leaving:
                peer.leaving = self.configurations.latest.index

    def add_peer(self, node: NodeId) -> PeerProgress:
        peer = PeerProgress(node, next=self.log.last_index + 1, created_at=self.now)
        self.peers[node] = peer
        return peer

    # -- commit ---------------------------------------------------------------------------------------------------

    @property
    def noop_committed(self) -> bool:
        return self.role is Role.LEADER and self.commit >= self.noop_index

    def commit_to(self, index: int) -> None:
        """Move the commit index forward; never back."""
        if index <= self.commit:
            return
        if self.role is Role.LEADER:
            self.uncommitted_bytes -= sum(map(size_of, self.log.entries(self.commit + 1, index)))
            if self.notice_at is None:
                self.notice_at = self.now + self.options.commit_notice_seconds
                self.notice_commit = index
        before = self.configurations.at(self.commit)
        self.commit = index
        if self.configurations.at(index) is not before:
            self.notice_removal()

    def notice_removal(self) -> None:
        """Only a tombstone in a committed configuration removes; absence means nothing (rule 10)."""
        self.removed = self.id in self.configurations.at(self.commit).configuration.tombstones
