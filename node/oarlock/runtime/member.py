"""One member without its input and output: commands, reads and peer messages in; what to write, send and apply out.

Three rules: nothing here waits, reads a clock or touches a file (production and simulation drive the same class);
a waiter is an opaque object that comes back exactly once, in `Turn.answers`, `Turn.refusals` or `Turn.readable`;
a refusal says `not_applied` only where that is certain for ever (rule 8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from oarlock.machine.command import Batch, Command, Result, encode_batch
from oarlock.peers.messages import RESULT, Diverged, Forward, ForwardReply, ForwardResult, PeerMessage, Report
from oarlock.raft.core import Core
from oarlock.raft.effects import Ready
from oarlock.raft.errors import Busy, NotLeader
from oarlock.raft.quorum import majority
from oarlock.raft.state import Role
from oarlock.raft.types import NOBODY, Entry, EntryKind, NodeId, SnapshotMeta
from oarlock.runtime.divergence import WITNESS_SECONDS, Finding, StateDiverged, States, compare, heard
from oarlock.runtime.errors import (
    Refused,
    leader_changed,
    no_leader,
    out_of_space,
    overloaded,
    stopping,
    unknown_outcome,
)
from oarlock.runtime.forwarding import Forwards, Handed, Pending, Slot, from_wire, size_of, to_wire, unpack
from oarlock.runtime.reads import Reads
from oarlock.runtime.turn import Limits, Turn, Waiter

PEERS_REMEMBERED = 256

T = TypeVar("T")


class Member:
    def __init__(self, core: Core, now: float, limits: Limits | None = None, first_number: int = 0) -> None:
        """`first_number`: forwards and reads count from here. No earlier process of this member may have used what
        follows: a leader may still answer what that one asked, and the answer must not be taken for another's."""
        self.core = core
        self.limits = limits or Limits()
        self.draining = False
        self.low_on_space = False  # this member's own disk
        self.applied_index = core.applied_index
        self.cluster_version = 0
        self.speaks_version = 1
        self.peer_versions: dict[NodeId, int] = {}
        self.in_flight_bytes = 0
        self.refused: dict[str, int] = {}
        self.states = States()
        self._found = (0, Finding())  # as leader of a term: whose state is another
        self._queue: deque[Pending] = deque()
        self._gathered = False  # the first in the queue has waited long enough for others
        self._handed: dict[int, Handed] = {}
        self._forwards = Forwards(first_number)
        self._reads = Reads(core, self.limits.waiting_reads, first_number)
        self._unreached: NodeId = (
            NOBODY  # a leader that no stream leads to, or that leads no more: what is for it waits
        )
        self._space: dict[NodeId, bool] = {}
        self._reports: dict[NodeId, States] = {}
        self._heard_at: dict[NodeId, float] = {}
        self._ticked_at = now
        self._reported_at = now
        self._version_proposed = (0, 0)  # (term, version)
        self._outbox: list[PeerMessage] = []
        self._answers: list[tuple[Waiter, Result]] = []
        self._refusals: list[tuple[Waiter, Refused]] = []
        self._readable: list[Waiter] = []

    # -- inputs -----------------------------------------------------------------------------------------------------

    def submit(self, command: Command, waiter: Waiter, now: float, *, grows: bool = True) -> None:
        """Queues a command for the next turn. `grows`: it may need disk space, so a full cluster refuses it.

        Raises Refused (`stopping`, `overloaded`) with nothing queued; every other end comes through the waiter.
        """
        if self.draining:
            raise stopping()
        pending = Pending(command, waiter, grows, now)
        size = size_of(pending)
        if self.in_flight_bytes + size > self.limits.in_flight_bytes:
            raise overloaded(f"{self.in_flight_bytes >> 20} MiB of writes are in flight at this member: slow down")
        self.in_flight_bytes += size
        self._queue.append(pending)

    def read(self, waiter: Waiter, now: float) -> None:
        """Joins the next read round (rule 9): the waiter is readable when this member may answer it."""
        self._reads.add(waiter, now)

    @property
    def waiting_reads(self) -> int:
        return len(self._reads)

    def receive(self, message: PeerMessage, now: float) -> None:
        if isinstance(message, Forward):
            self._serve_forward(message, now)
        elif isinstance(message, ForwardReply):
            self._forward_answered(message)
        elif isinstance(message, Report):
            _remember(self._space, message.sender, message.low_on_space)
            states = heard(self._reports.get(message.sender), message.since, message.states)
            _remember(self._reports, message.sender, states)
            _remember(self._heard_at, message.sender, now)
            self._compare_states(now)
        elif isinstance(message, Diverged):
            self._told_diverged(message)
        else:
            self.core.step(message, now)

    def heard_version(self, peer: NodeId, version: int) -> None:
        """The hello of `peer` says that it can speak up to `version` (rule 34). A way to it may have opened."""
        _remember(self.peer_versions, peer, version)
        if self._unreached == peer:
            self._unreached = NOBODY

    def not_sent(self, message: PeerMessage) -> None:
        """The transport had no room or no stream for it. A forward that never left may be tried again later."""
        if not isinstance(message, Forward):
            return
        handed = self._forwards.not_sent(message)
        if handed is not None:
            self._put_back(handed.pending, message.to)

    def _put_back(self, pending: list[Pending], leader: NodeId) -> None:
        """They were proposed by nobody. They go to another leader, or after the next tick to the same."""
        self._queue.extendleft(reversed(pending))
        self._unreached = leader

    def connected(self, peer: NodeId, now: float) -> None:
        """Both streams to `peer` are open."""
        if self._unreached == peer:
            self._unreached = NOBODY
        self.core.peer_connected(peer, now)

    def disconnected(self, peer: NodeId, now: float) -> None:
        """A stream to `peer` broke: what was forwarded over it is unknown, and never sent again (rule 8)."""
        self.unheard(peer)
        self.core.peer_disconnected(peer, now)

    def unheard(self, peer: NodeId) -> None:
        """The stream broke on which `peer` would answer what was forwarded to it."""
        why = "the connection to the leader broke after the write was forwarded; it may have been applied"
        for handed in self._forwards.broken(peer):
            self._refuse_all(handed, unknown_outcome("forward_broken", why))

    def tick(self, now: float) -> None:
        self._ticked_at = now
        self._see_gathered(now)
        self.core.tick(now)
        patience = self.limits.leaderless_seconds
        if not self._leads_somewhere():
            while self._queue and now - self._queue[0].at > patience:
                pending = self._queue.popleft()
                self._release(pending)
                self._refuse(pending.waiter, no_leader())
            for waiter in self._reads.give_up(now, patience):
                self._refuse(waiter, no_leader())
        self._unreached = NOBODY  # try again: the window may have had room since, or a stream
        self._reads.ask_again(now, self.core.options.election_timeout_seconds / 2)
        for waiter in self._reads.give_up(now, self.limits.undecided_seconds):
            self._refuse(waiter, no_leader("the leader does not answer this member: try again, or another member"))
        self._give_up(now)
        if self.core.role is Role.LEADER:
            self._raise_version(now)
        elif self.core.leader and now - self._reported_at >= self.limits.report_seconds:
            self._reported_at = now
            core = self.core
            states = self.states
            self._outbox.append(Report(core.node_id, core.leader, self.low_on_space, states.told(), states.since))

    def _give_up(self, now: float) -> None:
        """What is undecided for too long is unknown, and takes no more room here. While this member leads, its own
        proposals wait: they are in its log, and what waits must hold back what comes (pitfall F3)."""
        why = "the leader did not answer; it may have been applied"
        for handed in self._forwards.overdue(now - self.limits.undecided_seconds):
            self._refuse_all(handed, unknown_outcome("timeout", why))
        why = "this member lost its leadership before the write's fate was seen; it may have been applied"
        while self._handed:
            index, first = next(iter(self._handed.items()))
            leads = self.core.role is Role.LEADER and first.term == self.core.term
            if leads or now - first.at <= self.limits.undecided_seconds:
                break
            del self._handed[index]
            handed_before: Handed | None = first
            while handed_before is not None:
                self._refuse_all(handed_before, unknown_outcome("leadership_lost", why))
                handed_before = handed_before.older

    @property
    def could_begin(self) -> bool:
        """Enough is queued for a batch, and none of ours is under way: disks and followers have nothing to do."""
        return len(self._queue) >= self.limits.first_batch_commands and not self._handed

    @property
    def awaits_applying(self) -> bool:
        """Does a client of this member wait for the machine?"""
        return bool(self._reads) or bool(self._handed)

    def proposal(self, index: int, term: int) -> tuple[int, float] | None:
        """(commands, when proposed) of an entry of ours that waits to be applied; for metrics."""
        handed = self._handed.get(index)
        return (len(handed.pending), handed.at) if handed is not None and handed.term == term else None

    def applied(self, entries: Sequence[Entry], results: Sequence[Sequence[Result]]) -> None:
        """The machine has applied `entries`, with one sequence of results for each (empty where it is no batch)."""
        for entry, entry_results in zip(entries, results, strict=True):
            self._decide(entry, entry_results)
        self._moved(entries[-1].index)

    def installed(self, meta: SnapshotMeta) -> None:
        """The machine now is the snapshot's. What it covers of our proposals can no longer be told."""
        self.states = States()  # what was known of the state before says nothing of this one
        why = "a snapshot replaced the log before this write's fate was seen here; it may have been applied"
        for index in [i for i in self._handed if i <= meta.index]:
            handed: Handed | None = self._handed.pop(index)
            while handed is not None:
                self._refuse_all(handed, unknown_outcome("snapshot_installed", why))
                handed = handed.older
        self._moved(meta.index)

    def stop(self) -> None:
        """Every waiter gets its answer now: queued commands were never proposed, the rest is unknown."""
        self.draining = True
        while self._queue:
            pending = self._queue.popleft()
            self._release(pending)
            self._refuse(pending.waiter, stopping())
        why = "the member stopped before this write's fate was seen; it may have been applied"
        for first in (*self._handed.values(), *self._forwards.drain()):
            handed: Handed | None = first
            while handed is not None:
                self._refuse_all(handed, unknown_outcome("stopping", why))
                handed = handed.older
        self._handed.clear()
        for waiter in self._reads.drain():
            self._refuse(waiter, stopping())

    # -- output -----------------------------------------------------------------------------------------------------

    @property
    def commands_forwarded(self) -> int:
        return self._forwards.commands

    @property
    def deadline(self) -> float:
        """When `tick` wants to be called next, on the caller's monotonic clock."""
        waiting = self._queue or self._reads or self._forwards
        patience = self.core.options.election_timeout_seconds / 4
        pause = min(patience, self.limits.report_seconds) if waiting else self.limits.report_seconds
        due = min(self.core.deadline, self._ticked_at + pause)
        return min(due, self._queue[0].at + self.limits.gather_seconds) if self._gathers else due

    def has_work(self) -> bool:
        """Is another turn due at once? True while a queue is longer than one turn takes."""
        waiting = (bool(self._queue) and self._leads_somewhere() and not self._gathers) or self._reads.askable
        answers = self._outbox or self._answers or self._refusals or self._readable
        return waiting or bool(answers) or self.core.has_ready()

    def turn(self, now: float, wall_ms: int) -> Turn:
        """One turn: everything queued becomes one entry (rule 32) or one forward, and the core's effects come out."""
        self._reads.ask(now)
        self._see_gathered(now)
        self._flush(now, wall_ms)
        ready = self.core.ready(now)
        for read in ready.reads:
            self._readable += self._reads.confirmed(read.context, read.index, self.applied_index)
        turn = Turn(ready, [*ready.messages, *self._outbox], self._answers, self._refusals, self._readable)
        self._outbox = []
        self._answers, self._refusals, self._readable = [], [], []
        return turn

    def take_answers(self) -> Turn:
        """Only the answers, between turns: right after `applied`, so that a caller waits for no further turn."""
        turn = Turn(Ready(), [], self._answers, self._refusals, self._readable)
        self._answers, self._refusals, self._readable = [], [], []
        return turn

    # -- writes -----------------------------------------------------------------------------------------------------

    def _leads_somewhere(self) -> bool:
        """Is there a leader that what is queued can go to now: this member, or one that a stream leads to?"""
        core = self.core
        if core.role is Role.LEADER:
            return not core.transferring
        return core.leader not in (NOBODY, self._unreached)

    def _flush(self, now: float, wall_ms: int) -> None:
        if not self._queue or not self._leads_somewhere():
            return
        if self.core.role is not Role.LEADER:
            self._forward(now)
        elif not self._gathers:
            self._propose(now, wall_ms)

    def _see_gathered(self, now: float) -> None:
        self._gathered = bool(self._queue) and now >= self._queue[0].at + self.limits.gather_seconds

    @property
    def _gathers(self) -> bool:
        """Does this leader hold a few commands back, for a moment, while an entry of its own is under way?"""
        few = 0 < len(self._queue) < self.limits.gather_commands and not self._gathered
        return few and bool(self._handed) and self.core.role is Role.LEADER and not self.core.transferring

    def _next_batch(self) -> list[Pending]:
        """At most 512 commands and 1 MiB; one larger command goes alone."""
        batch: list[Pending] = []
        size = 0
        while self._queue and len(batch) < self.limits.batch_commands:
            size += len(self._queue[0].command.payload)
            if batch and size > self.limits.batch_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    def _propose(self, now: float, wall_ms: int) -> None:
        batch = self._admitted(self._next_batch())
        if not batch:
            return
        data = encode_batch(Batch(wall_ms, tuple([p.command for p in batch])))
        try:
            index, term = self.core.propose(data, now)
        except Busy as e:
            for pending in batch:
                self._release(pending)
                self._refuse(pending.waiter, overloaded(str(e)))
            return
        handed = Handed(term, self.core.node_id, batch, sum(map(size_of, batch)), now)
        handed.older = self._handed.get(index)
        self._handed[index] = handed

    def _admitted(self, batch: list[Pending]) -> list[Pending]:
        """Drops what a leader must refuse: before `min_voters` everything, and without space what grows (rule 5)."""
        missing = self.core.committed_placed.configuration.min_voters
        full = self.cluster_low_on_space()
        if not missing and not full:
            return batch
        kept = []
        for pending in batch:
            if missing:
                why = f"the cluster is not complete yet: writes begin when {missing} voters have joined"
                refused = Refused("awaiting_members", why, status=503, retry_after_seconds=1.0)
            elif pending.grows:
                refused = out_of_space()
            else:
                kept.append(pending)
                continue
            self._release(pending)
            self._refuse(pending.waiter, refused)
        return kept

    def cluster_low_on_space(self) -> bool:
        """Fewer than a majority of voters have room: a put could be committed by nobody (rule 5)."""
        voters = self.core.placed.configuration.voters
        low = [
            m.id for m in voters if (self.low_on_space if m.id == self.core.node_id else self._space.get(m.id, False))
        ]
        return bool(low) and len(voters) - len(low) < majority(len(voters))

    def _forward(self, now: float) -> None:
        batch = [pending for pending in self._next_batch() if not self._given_back(pending)]
        if not batch:
            return
        core = self.core
        handed = Handed(core.term, core.leader, batch, sum(map(size_of, batch)), now)
        self._outbox.append(self._forwards.send(core.node_id, handed))

    def _given_back(self, pending: Pending) -> bool:
        """Was it forwarded to this member, when it led? One hop (rule 8): whoever was asked for it tries the next."""
        if not isinstance(pending.waiter, Slot):
            return False
        self._release(pending)
        self._refuse(pending.waiter, leader_changed())
        return True

    def _serve_forward(self, message: Forward, now: float) -> None:
        """One hop (rule 8): a member that does not lead refuses, it never forwards again."""
        leads = self.core.role is Role.LEADER
        for slot, command, grows in unpack(message):
            if not leads:
                self._refuse(slot, leader_changed())
                continue
            try:
                self.submit(command, slot, now, grows=grows)
            except Refused as e:
                self._refuse(slot, e)

    def _forward_answered(self, message: ForwardReply) -> None:
        handed = self._forwards.answered(message)
        if handed is None:
            return
        self.in_flight_bytes -= handed.size
        unproposed = []
        for pending, result in zip(handed.pending, message.results, strict=False):
            if result.kind == RESULT:
                self._answer(pending.waiter, Result(result.status, result.revision, result.body))
                continue
            refused = from_wire(result)
            if (refused.code, refused.outcome) == ("no_leader", "not_applied"):
                self.in_flight_bytes += size_of(pending)
                unproposed.append(pending)
            else:
                self._refuse(pending.waiter, refused)
        if unproposed:
            self._put_back(unproposed, message.sender)
        why = "the leader answered for fewer writes than it was sent; this one may have been applied"
        for pending in handed.pending[len(message.results) :]:
            self._refuse(pending.waiter, unknown_outcome("forward_broken", why))

    def _decide(self, entry: Entry, results: Sequence[Result]) -> None:
        handed = self._handed.pop(entry.index, None)
        while handed is not None:
            if handed.term == entry.term:
                self.in_flight_bytes -= handed.size
                for pending, result in zip(handed.pending, results, strict=True):
                    self._answer(pending.waiter, result)
            else:
                why = "another leader's entry took this write's place in the log: it was not applied, try again"
                self._refuse_all(handed, Refused("superseded", why, status=503))
            handed = handed.older

    def _answer(self, waiter: Waiter, result: Result) -> None:
        if isinstance(waiter, Slot):
            reply = waiter.fill(ForwardResult(RESULT, result.status, result.revision, result.body))
            if reply is not None:
                self._outbox.append(reply)
        else:
            self._answers.append((waiter, result))

    def _refuse(self, waiter: Waiter, refused: Refused) -> None:
        self.refused[refused.code] = self.refused.get(refused.code, 0) + 1
        if isinstance(waiter, Slot):
            reply = waiter.fill(to_wire(refused))
            if reply is not None:
                self._outbox.append(reply)
        else:
            self._refusals.append((waiter, refused))

    def _refuse_all(self, handed: Handed, refused: Refused) -> None:
        self.in_flight_bytes -= handed.size
        for pending in handed.pending:
            self._refuse(pending.waiter, refused)

    def _release(self, pending: Pending) -> None:
        self.in_flight_bytes -= size_of(pending)

    def _moved(self, applied_index: int) -> None:
        self.applied_index = applied_index
        self.core.applied(applied_index)
        self._readable += self._reads.applied(applied_index)

    # -- divergence -------------------------------------------------------------------------------------------------

    @property
    def finding(self) -> Finding:
        """What this leader found out in its term; nothing of who is no member any more."""
        term, found = self._found
        if self.core.role is not Role.LEADER or term != self.core.term:
            return Finding()
        placed = self.core.placed.configuration
        ids = {m.id for m in (*placed.voters, *placed.learners, *placed.outgoing)}
        return Finding(
            {peer: at for peer, at in found.differing.items() if peer in ids},
            {peer: odd for peer, odd in found.odd.items() if peer in ids},
        )

    def _compare_states(self, now: float) -> None:
        """Raises StateDiverged where a majority of the voters contradicts this leader."""
        core = self.core
        if core.role is not Role.LEADER:
            return
        present = {peer for peer, at in self._heard_at.items() if now - at <= WITNESS_SECONDS}
        before, configuration = self.finding.differing, core.placed.configuration
        found = compare(core.node_id, self.states, self._reports, present, configuration, before)
        self._found = (core.term, found)
        for member, (index, state_hash) in found.odd.items():
            if member != core.node_id:
                self._outbox.append(Diverged(core.node_id, member, core.term, index, state_hash))
            else:
                raise StateDiverged(index, self.states.at(index) or "", state_hash)

    def _told_diverged(self, message: Diverged) -> None:
        """Only the word of this term's leader counts, and only about a state that this member had."""
        mine = self.states.at(message.index)
        current = (message.sender, message.term) == (self.core.leader, self.core.term)
        if current and mine not in (None, message.state_hash):
            raise StateDiverged(message.index, mine or "", message.state_hash)

    # -- versions ---------------------------------------------------------------------------------------------------

    def _raise_version(self, now: float) -> None:
        """Rule 34: the leader raises the cluster's version once the hello of every member allows it."""
        core = self.core
        if not core.noop_committed:
            return
        placed = core.placed.configuration
        everyone = members_of(placed.voters, placed.learners, placed.outgoing)
        versions = [self.speaks_version if m == core.node_id else self.peer_versions.get(m, 0) for m in everyone]
        lowest = min(versions, default=0)
        if lowest > self.cluster_version and (core.term, lowest) > self._version_proposed:
            try:
                core.propose(msgspec.msgpack.encode(lowest), now, EntryKind.VERSION)
                self._version_proposed = (core.term, lowest)
            except (Busy, NotLeader):
                return


def _remember(table: dict[NodeId, T], peer: NodeId, value: T) -> None:
    """The newest word of each peer, of the `PEERS_REMEMBERED` that spoke last (rule 33)."""
    table.pop(peer, None)
    table[peer] = value
    if len(table) > PEERS_REMEMBERED:
        del table[next(iter(table))]


def members_of(*groups: Iterable[Any]) -> list[NodeId]:
    """The ids of all members in `groups`, each once, in order."""
    return list(dict.fromkeys(m.id for group in groups for m in group))
