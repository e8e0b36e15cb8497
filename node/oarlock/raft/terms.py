"""The rules of terms, applied to every message before a handler sees it (paper 5.1).

Two rules of this module: no handler ever sees a message of another term than the member's own, the questions before an
election apart; and no sender with an old term is left without an answer that could free it (E10, E11).
"""

from __future__ import annotations

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
    Vote,
    VoteReply,
)
from oarlock.raft.roles import become_follower, follow
from oarlock.raft.state import State
from oarlock.raft.types import NOBODY

FROM_LEADERS = (Append, Heartbeat, SnapshotOffer)


def admit(state: State, message: RaftMessage) -> bool:
    """Whether a handler shall see it. Raises RemoteError when two members lead one term."""
    if isinstance(message, PreVote):
        return True  # it asks about a future term and changes nothing here, whatever the answer
    if message.term > state.term:
        if isinstance(message, PreVoteReply) and message.granted:
            return True  # it echoes the term asked about, which is not yet anyone's
        if isinstance(message, Vote) and not message.transfer and state.has_leader_lease:
            return False  # not even its term is taken: a member cut off must not depose a healthy leader (E12, M12)
        become_follower(state, message.term, message.sender if isinstance(message, FROM_LEADERS) else NOBODY)
    elif message.term < state.term:
        _answer_old(state, message)
        return False
    if isinstance(message, FROM_LEADERS):
        follow(state, message.sender)
    return True


def _answer_old(state: State, message: RaftMessage) -> None:
    """Our term, to whoever can use it.

    A leader whose follower has a higher term (it was cut off and campaigned, or was made to campaign) would otherwise
    be ignored by it for ever, while pre-votes of the same follower are refused by everyone else: stuck. From the answer
    the leader learns the term, steps down, and the next leader has a higher one (etcd, TestFreeStuckCandidate).
    """
    me, to, term = state.id, message.sender, state.term
    match message:
        case Append():
            state.promise(AppendReply(me, to, term, False, message.prev_index, 0, 0))
        case SnapshotOffer():
            state.promise(AppendReply(me, to, term, False, message.meta.index, 0, 0))
        case Heartbeat():
            state.promise(HeartbeatReply(me, to, term, message.round))
        case Vote():
            state.promise(VoteReply(me, to, term, False))
        case ReadIndex():
            state.send(ReadIndexReply(me, to, term, message.context, -1))
        case _:
            pass  # answers to what this member asked in an earlier term: void
