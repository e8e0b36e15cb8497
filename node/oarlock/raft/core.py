"""The consensus core: inputs, the consequences they have, and the `Ready` that carries them out.

Three rules of this module: every input goes through the same three steps (take the time, record the fact, draw the
consequences), so that nothing hangs on who calls whom; no clock but `now`, no randomness but the given `rng`; what a
peer sent never raises out of here, except InvariantViolated, after which the core must not be used again.

    step, tick, propose, ...  ──>  handlers record facts  ──>  _settle  ──>  ready()
                                   (election, following,       commit, membership, transfer,
                                    replication, reads, ...)   reads, appends: whatever follows
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from oarlock.raft import election, following, membership, reads, replication, snapshots, terms, transfer
from oarlock.raft.configurations import NOTHING_PLACED, Configurations, placed_in
from oarlock.raft.durability import Durability
from oarlock.raft.effects import PersistToken, Ready
from oarlock.raft.errors import Busy, LocalError, NotLeader, RemoteError
from oarlock.raft.log import Log, size_of
from oarlock.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    RaftMessage,
    ReadIndex,
    ReadIndexReply,
    SnapshotOffer,
    SnapshotRefusal,
    TimeoutNow,
    Vote,
    VoteReply,
)
from oarlock.raft.options import Options
from oarlock.raft.roles import become_follower
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, Entry, EntryKind, HardState, Member, NodeId, SnapshotMeta
from oarlock.raft.views import Views

MAX_NUMBER = 2**62
"""No honest index, term or round comes near; beyond it a number could not be stored."""

HANDLERS: dict[type, Callable[[State, Any], None]] = {
    PreVote: election.on_pre_vote,
    PreVoteReply: election.on_pre_vote_reply,
    Vote: election.on_vote,
    VoteReply: election.on_vote_reply,
    TimeoutNow: election.on_timeout_now,
    Append: following.on_append,
    AppendReply: replication.on_append_reply,
    Heartbeat: following.on_heartbeat,
    HeartbeatReply: replication.on_heartbeat_reply,
    SnapshotOffer: snapshots.on_offer,
    SnapshotRefusal: snapshots.on_refusal,
    ReadIndex: reads.on_read_index,
    ReadIndexReply: reads.on_read_index_reply,
}


class Core(Views):
    """One member. `now` is any monotonic clock in seconds, the same in all calls and never going back.

    All of the recovered state must be durable already: `hard_state`, the newest `snapshot`, and the `entries` that
    continue it. `applied` is what the machine holds already (the snapshot's index unless said otherwise). A member
    without any of it takes part in nothing until a leader's log reaches it. The first member of a cluster starts with
    one entry, a CONFIGURATION at index 1 of term 1, and HardState(term=1, commit=1).

    Raises LocalError when the recovered state does not fit together.
    """

    __slots__ = ()

    def __init__(
        self,
        node_id: NodeId,
        *,
        rng: random.Random,
        now: float,
        options: Options | None = None,
        hard_state: HardState | None = None,
        snapshot: SnapshotMeta | None = None,
        entries: Sequence[Entry] = (),
        applied: int | None = None,
    ) -> None:
        hard_state = hard_state or HardState()
        start = (snapshot.index, snapshot.term, snapshot.time_ms) if snapshot else (0, 0, 0)
        log = Log(*start, entries)
        applied = start[0] if applied is None else applied
        if not start[0] <= applied <= log.last_index:
            raise LocalError(f"applied {applied} is outside of the log, {start[0]}..{log.last_index}")
        if hard_state.term < log.last_term:
            raise LocalError(f"the log is of term {log.last_term}, beyond the stored term {hard_state.term}")
        state = State(
            id=node_id,
            rng=rng,
            options=options or Options(),
            now=now,
            log=log,
            configurations=Configurations(snapshot.placed if snapshot else NOTHING_PLACED, placed_in(entries)),
            durability=Durability(hard_state.term, hard_state.vote, log.last_index),
            term=hard_state.term,
            vote=hard_state.vote,
            # The machine applies only what is committed; and a commit index ahead of the log (its tail was cut) waits.
            commit=max(min(hard_state.commit, log.last_index), applied),
            handed_out=applied,
            applied=applied,
            snapshot=snapshot,
        )
        state.configuration_changed()
        state.notice_removal()
        state.draw_election_deadline()
        if state.halves == ((node_id,),):
            state.election_deadline = now  # the only voter has nobody to wait for
        super().__init__(state)

    # -- inputs ---------------------------------------------------------------------------------------------------

    def step(self, message: RaftMessage, now: float) -> None:
        """A message of a peer. What no correct peer sends is counted in `remote_errors` and dropped."""
        state = self._state
        state.now = now
        try:
            _check_numbers(state, message)
            if terms.admit(state, message):
                HANDLERS[type(message)](state, message)
        except RemoteError as error:
            state.remote_errors[str(error)] += 1
        self._settle()

    def tick(self, now: float) -> None:
        """Time has passed; to be called at `deadline`, and harmless at any other time."""
        state = self._state
        state.now = now
        reads.expire(state)
        if state.role is Role.LEADER:
            if state.disk_hangs or not replication.has_quorum_contact(state):
                become_follower(state, state.term, NOBODY)
            else:
                transfer.expire(state)
        if state.role is Role.LEADER:
            if now >= state.next_heartbeat:
                replication.regular_heartbeat(state)
            if state.notice_at is not None and now >= state.notice_at:
                replication.notice_commit(state)
        elif now >= state.election_deadline:
            election.on_timeout(state)
        self._settle()

    def propose(self, data: bytes, now: float, kind: int = EntryKind.COMMANDS) -> tuple[int, int]:
        """Append an entry; returns its (index, term), which decide its outcome (rule 8).

        Raises NotLeader, or Busy while leadership is handed over or the log that is not committed, or not yet on this
        member's disk, is at its bound (rule 6). The bound never refuses the first such entry, nor one that is not a
        client's (L13). CONFIGURATION entries are change_configuration's alone: LocalError.
        """
        state = self._state
        state.now = now
        if kind == EntryKind.CONFIGURATION:
            raise LocalError("a configuration is changed by change_configuration")
        if state.role is not Role.LEADER:
            raise NotLeader(state.leader)
        if state.transferring != NOBODY:
            raise Busy("leadership is being handed over")
        if kind == EntryKind.COMMANDS:
            room = state.options.max_uncommitted_bytes - size_of(Entry(0, 0, kind, 0, data))
            if 0 < state.uncommitted_bytes > room:
                raise Busy("too much is waiting to be committed")
            if 0 < state.durability.owed_bytes > room:  # faster disks than this one may have committed it already
                raise Busy("too much is waiting for the leader's disk")
        entry = replication.append_entry(state, kind, data)
        self._settle()
        return entry.index, entry.term

    def read(self, context: int, now: float) -> None:
        """Ask for a linearizable read index on any member; `context` is the caller's own number, answered by a
        ReadReady, once. All reads of one turn should share one. Raises NotLeader when no leader is known, Busy."""
        state = self._state
        state.now = now
        reads.read(state, context)
        self._settle()

    def change_configuration(
        self, voters: Sequence[Member], learners: Sequence[Member], if_config: str, now: float
    ) -> tuple[int, int]:
        """Begin a change from the configuration with the id `if_config`; returns the (index, term) of its first entry.
        It is done when a configuration that is not joint is committed at or after that index.

        Raises NotLeader, Busy, ConfigurationRefused; nothing is appended then.
        """
        state = self._state
        state.now = now
        place = membership.change(state, voters, learners, if_config)
        self._settle()
        return place

    def transfer(self, target: NodeId, now: float) -> None:
        """Hand leadership to `target`; gives up after one election timeout. Raises NotLeader, TransferRefused."""
        state = self._state
        state.now = now
        transfer.start(state, target)
        self._settle()

    def persisted(self, token: PersistToken, now: float) -> None:
        """Everything handed out up to and including `token` is durable."""
        state = self._state
        state.now = now
        if not state.durability.persisted(token, state.term, now):
            return
        if state.held:
            done = state.durability.durable_sequence
            state.messages.extend(
                message for sequence, message in state.held if sequence <= done and message.term >= state.term
            )
            state.held = [waiting for waiting in state.held if waiting[0] > done]
        self._settle()

    def applied(self, index: int) -> None:
        """The machine has applied everything up to `index` (and installed the snapshot before it)."""
        state = self._state
        if index > state.handed_out:
            raise LocalError(f"applied {index}, but only {state.handed_out} was handed out")
        state.applied = max(state.applied, index)
        if state.installing is not None and index >= state.installing.index:
            state.installing = None

    def snapshot_taken(self, meta: SnapshotMeta) -> None:
        """A local snapshot is durable: offers name the newest, of two at one index the one that was taken last. Raises
        LocalError if it covers what is not applied."""
        state = self._state
        if meta.index > state.applied:
            raise LocalError(f"a snapshot at {meta.index}, but only {state.applied} is applied")
        if state.snapshot is None or meta.index >= state.snapshot.index:
            state.snapshot = meta

    def compact(self, index: int) -> None:
        """Drop the log in memory up to `index`. Raises LocalError beyond the newest snapshot, or what is applied.

        While a peer is in the state `snapshot`, the log after the snapshot it fetches (`peers[id].snapshot`) should be
        kept within bounds, else it is offered another as soon as it is done (rule 19); that is the caller's choice.
        """
        state = self._state
        if state.snapshot is None or index > min(state.snapshot.index, state.applied):
            raise LocalError(f"no applied snapshot covers {index}")
        state.log.compact(index)
        state.configurations.compact(index)

    def install(self, meta: SnapshotMeta, now: float) -> bool:
        """A fetched snapshot is verified and durable. True: the next Ready names it, before anything after it.
        False: it is no longer useful, the log is enough."""
        state = self._state
        state.now = now
        useful = snapshots.install(state, meta)
        self._settle()
        return useful

    def refuse_snapshot(self, meta: SnapshotMeta, now: float) -> None:
        """An offered snapshot could not be fetched or verified: the leader shall offer again."""
        state = self._state
        state.now = now
        snapshots.refuse(state, meta)
        self._settle()

    def peer_connected(self, peer: NodeId, now: float) -> None:
        state = self._state
        state.now = now
        replication.peer_connected(state, peer)
        self._settle()

    def peer_disconnected(self, peer: NodeId, now: float) -> None:
        state = self._state
        state.now = now
        replication.peer_disconnected(state, peer)
        self._settle()

    # -- consequences ---------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Draw every consequence of what is known now.

        Each step looks at the state as it is, not at what has just changed, so a step that could not be taken when its
        cause came is taken later by itself.
        """
        state = self._state
        election.conclude(state)
        while state.role is Role.LEADER:
            replication.advance_commit(state)
            if membership.advance(state):
                continue  # the new configuration may commit what the old could not (C5)
            transfer.advance(state)
            if state.role is Role.LEADER:
                reads.advance(state)
                replication.send_appends(state)
            return

    # -- outputs --------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        state = self._state
        return bool(
            state.messages
            or state.promises
            or state.reads
            or state.commit > state.handed_out
            or state.log.next_to_persist <= state.log.last_index
            or state.install is not None
            or state.fetch is not None
            or state.doubted is not None
            or not state.durability.state_is_issued(state.term, state.vote)
        )

    def ready(self, now: float) -> Ready:
        """Take everything there is to do; see effects.py for the order that is permitted."""
        state = self._state
        state.now = now
        durability = state.durability
        ready = Ready(
            messages=state.messages, reads=state.reads, install=state.install, fetch=state.fetch, doubted=state.doubted
        )
        ready.entries = state.log.take_unpersisted()
        if ready.entries or ready.install or not durability.state_is_issued(state.term, state.vote):
            size_bytes = sum(map(size_of, ready.entries))
            ready.token = durability.issue(state.term, state.vote, state.log.last_index, size_bytes, now)
            ready.hard_state = HardState(state.term, state.vote, state.commit)
        for message in state.promises:
            if message.term < state.term:
                continue  # promised in a term that has ended before it could leave: void
            if self._is_durable(message):
                ready.messages.append(message)
            elif ready.token is not None:
                ready.messages_after_persist.append(message)
            else:  # it depends on a frame that is still on its way to the disk
                state.held.append((durability.last_sequence, message))
        if state.commit > state.handed_out:
            ready.committed = state.log.entries(state.handed_out + 1, state.commit)
            state.handed_out = state.commit
        state.messages, state.promises, state.reads = [], [], []
        state.install = state.fetch = state.doubted = None
        return ready

    def _is_durable(self, promise: RaftMessage) -> bool:
        state = self._state
        if not state.durability.state_is_durable(state.term, state.vote):
            return False
        if isinstance(promise, AppendReply) and promise.accepted:
            return promise.index <= state.durability.durable_index
        return True


def _check_numbers(state: State, message: RaftMessage) -> None:
    """Raises RemoteError for a message that is not for this member, or names a number that cannot be."""
    if message.to != state.id:
        raise RemoteError("not for this member")
    if message.sender in (NOBODY, state.id):
        raise RemoteError("impossible sender")
    least = -1 if isinstance(message, ReadIndexReply) else 0
    for value in msgspec.structs.astuple(message):
        if type(value) is int and not least <= value <= MAX_NUMBER:
            raise RemoteError("impossible number")
