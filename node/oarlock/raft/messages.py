"""What members say to each other. One frozen Struct per message; `sender` and `to` are node ids, `term` the sender's.

CONTROL messages are small and travel on a stream of their own, never behind appended data (rule 11).
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from oarlock.raft.types import Entry, NodeId, SnapshotMeta


class Message(Struct, frozen=True, array_like=True):
    sender: NodeId
    to: NodeId
    term: int


class PreVote(Message, frozen=True, tag=1):
    """Would you vote for me in `term` (my term + 1)? Changes nothing at the receiver (thesis 9.6)."""

    last_index: int
    last_term: int


class PreVoteReply(Message, frozen=True, tag=2):
    """`term` is the requested one when granted, the answering member's own when not."""

    granted: bool


class Vote(Message, frozen=True, tag=3):
    """Paper, figure 2, RequestVote. `transfer`: the leader asked for it, so the lease does not refuse (thesis 3.10)."""

    last_index: int
    last_term: int
    transfer: bool


class VoteReply(Message, frozen=True, tag=4):
    granted: bool


class Append(Message, frozen=True, tag=5):
    """Paper, figure 2, AppendEntries. `entries` are contiguous and start at `prev_index` + 1."""

    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...]


class AppendReply(Message, frozen=True, tag=6):
    """Accepted: everything up to `index` matches and is durable. Refused: `index` is the refused `prev_index`, and
    `hint_index`/`hint_term` the highest place at which the follower's log could agree (fast backtracking)."""

    accepted: bool
    index: int
    hint_index: int
    hint_term: int


class Heartbeat(Message, frozen=True, tag=7):
    """Keeps leadership, carries a commit index capped at the receiver's match, and confirms read round `round`."""

    commit: int
    round: int


class HeartbeatReply(Message, frozen=True, tag=8):
    round: int


class SnapshotOffer(Message, frozen=True, tag=9):
    """The log does not reach back: fetch this file from me, then install it."""

    meta: SnapshotMeta


class SnapshotRefusal(Message, frozen=True, tag=10):
    """The offered snapshot could not be fetched or verified; `index` names it. Success is an AppendReply."""

    index: int


class TimeoutNow(Message, frozen=True, tag=11):
    """Campaign at once (thesis 3.10)."""


class ReadIndex(Message, frozen=True, tag=12):
    """A follower's reads, `context` its own number for them (thesis 6.4)."""

    context: int


class ReadIndexReply(Message, frozen=True, tag=13):
    """`index` to wait for, or -1: refused, ask again."""

    context: int
    index: int


RaftMessage: TypeAlias = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | SnapshotOffer
    | SnapshotRefusal
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
)

DATA_MESSAGES = (Append,)
"""Sent on the data stream; every other Raft message is control."""
