"""Linearizable reads: read rounds on the leader, ReadIndex from followers (thesis 6.4, rule 9).

    read A    read B, C          ack of 7 by a quorum
      |          |                      |
      v          v                      v
    round 7 ----------------------------+  round 8 (B, C) ------->
    sent after A arrived                   sent after B and C arrived

Two rules of this module: a read joins the *next* round, so that the heartbeats that confirm it were sent after it
arrived; nothing is answered before an entry of the leader's own term is committed, with one voter too.
"""

from __future__ import annotations

from oarlock.raft import quorum
from oarlock.raft.effects import ReadReady
from oarlock.raft.errors import Busy, NotLeader
from oarlock.raft.messages import ReadIndex, ReadIndexReply
from oarlock.raft.replication import send_heartbeats
from oarlock.raft.state import Read, Role, Round, State
from oarlock.raft.types import NOBODY

FAILED = -1
MAX_WAITING_READS = 4096
"""Of one kind at one member. Callers put all reads of a turn under one context, so this is never reached in health."""


def read(state: State, context: int) -> None:
    """A read of this member's own. Raises NotLeader when no leader is known, Busy at the bound."""
    if state.role is Role.LEADER:
        if len(state.forming) >= MAX_WAITING_READS:
            raise Busy("too many reads wait for a round")
        state.forming.append(Read(state.id, context))
        return
    if state.leader == NOBODY:
        raise NotLeader(NOBODY)
    if len(state.asked) >= MAX_WAITING_READS:
        raise Busy("too many reads wait for the leader")
    state.asked[context] = state.now
    state.send(ReadIndex(state.id, state.leader, state.term, context))


def on_read_index(state: State, message: ReadIndex) -> None:
    if state.role is not Role.LEADER or len(state.forming) >= MAX_WAITING_READS:
        _answer(state, Read(message.sender, message.context), FAILED)
    else:
        state.forming.append(Read(message.sender, message.context))


def on_read_index_reply(state: State, message: ReadIndexReply) -> None:
    if message.sender == state.leader and state.asked.pop(message.context, None) is not None:
        state.reads.append(ReadReady(message.context, max(message.index, FAILED)))


def advance(state: State) -> None:
    """Answer the round in flight if a quorum confirmed it, and start the one that has formed."""
    if not state.noop_committed:
        return
    while True:
        if state.flight is None:
            if not state.forming:
                return
            send_heartbeats(state)
            state.flight = Round(state.round, state.commit, state.forming)
            state.forming = []
        if not _confirmed(state, state.flight.number):
            return
        for waiting in state.flight.reads:
            _answer(state, waiting, state.flight.index)
        state.flight = None


def _confirmed(state: State, number: int) -> bool:
    """Later rounds count too: they were sent later still. The leader counts itself where it is a voter, only."""
    peers = state.peers
    return quorum.agreed(
        state.halves, lambda node: node == state.id or (node in peers and peers[node].acked_round >= number)
    )


def fail_all(state: State) -> None:
    """Leadership moved: no one here can say any more what is safe to read."""
    waiting = [*(state.flight.reads if state.flight else ()), *state.forming]
    state.flight = None
    state.forming = []
    for one in waiting:
        _answer(state, one, FAILED)
    _fail_asked(state, list(state.asked))


def expire(state: State) -> None:
    """A question or its answer may be lost; the caller asks again, under a new context."""
    if state.asked:
        patience = state.options.election_timeout_seconds  # added as `deadline` adds it: a rounding must not part them
        _fail_asked(state, [context for context, at in state.asked.items() if state.now >= at + patience])


def _fail_asked(state: State, contexts: list[int]) -> None:
    for context in contexts:
        del state.asked[context]
        state.reads.append(ReadReady(context, FAILED))


def _answer(state: State, waiting: Read, index: int) -> None:
    if waiting.origin == state.id:
        state.reads.append(ReadReady(waiting.context, index))
    else:
        state.send(ReadIndexReply(state.id, waiting.origin, state.term, waiting.context, index))
