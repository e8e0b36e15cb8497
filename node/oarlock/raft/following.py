"""The follower's side of replication (paper, figure 2, AppendEntries).

Three rules of this module: nothing is truncated unless an entry really conflicts, since a late or repeated append must
not undo what was acknowledged; nothing at or below the commit index is ever replaced, a member that would have to is
`Corrupt`; the commit index follows only as far as this very message proves that the logs agree.
"""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.raft.configurations import placed_in
from oarlock.raft.errors import InvariantViolated, RemoteError
from oarlock.raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply
from oarlock.raft.state import State
from oarlock.raft.types import Entry


def on_append(state: State, message: Append) -> None:
    _check(message)
    state.hear_of_commit(message.commit)
    previous, previous_term, entries = message.prev_index, message.prev_term, message.entries
    if previous < state.commit:
        # A repeated or late append. What it says of the committed part must be what we have; only the rest is news.
        skipped = entries[: state.commit - previous]
        _must_match(state, skipped)
        if len(skipped) < state.commit - previous or len(entries) == len(skipped):
            _accept(state, message, state.commit)
            return
        previous, previous_term, entries = state.commit, skipped[-1].term, entries[len(skipped) :]
    if not state.log.matches(previous, previous_term):
        if previous == state.commit:
            raise InvariantViolated(
                f"{previous_term}.{previous} was sent, but {previous} is committed with another term"
            )
        hint_index, hint_term = state.log.last_not_above(previous, previous_term)
        state.promise(
            AppendReply(state.id, message.sender, state.term, False, message.prev_index, hint_index, hint_term)
        )
        return
    _take(state, entries)
    last_new = previous + len(entries)
    state.commit_to(min(message.commit, last_new))
    _accept(state, message, last_new)


def _check(message: Append) -> None:
    """Raises RemoteError for what no leader sends (F7)."""
    index, term, time_ms = message.prev_index, message.prev_term, 0
    if term > message.term or (index == 0) != (term == 0):
        raise RemoteError("impossible anchor of an append")
    for entry in message.entries:
        if entry.index != index + 1 or not max(term, 1) <= entry.term <= message.term or entry.time_ms < time_ms:
            raise RemoteError("entries out of order")
        index, term, time_ms = entry.index, entry.term, entry.time_ms


def _must_match(state: State, entries: Sequence[Entry]) -> None:
    for entry in entries:
        known = state.log.term_at(entry.index)
        if known is not None and known != entry.term:
            raise InvariantViolated(
                f"entry {entry.term}.{entry.index} was sent, but {entry.index} is committed with term {known}"
            )


def _take(state: State, entries: Sequence[Entry]) -> None:
    """Append what is new; truncate first where an entry conflicts."""
    for position, entry in enumerate(entries):
        known = state.log.term_at(entry.index)
        if known == entry.term:
            continue
        placed = placed_in(entries[position:])  # may raise, so before anything has changed
        changed = bool(placed)
        if known is not None:
            state.durability.cap(entry.index - 1)
            state.log.truncate(entry.index)
            changed = state.configurations.truncate(entry.index) or changed
        state.log.append(entries[position:])
        for configuration in placed:
            state.configurations.append(configuration)
        if changed:
            state.configuration_changed()
        return


def _accept(state: State, message: Append, index: int) -> None:
    state.promise(AppendReply(state.id, message.sender, state.term, True, index, 0, 0))


def on_heartbeat(state: State, message: Heartbeat) -> None:
    if message.commit > state.log.last_index:
        raise RemoteError("commit beyond the log")
    state.commit_to(message.commit)
    state.promise(HeartbeatReply(state.id, message.sender, state.term, message.round))
