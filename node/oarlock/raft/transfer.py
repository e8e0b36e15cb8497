"""Handing leadership over (thesis 3.10).

Two rules of this module: while it lasts nothing is appended, neither proposals nor changes of members, so that the
target can catch up with the last entry; and it ends, by the target's election or after one election timeout.
"""

from __future__ import annotations

from oarlock.raft.errors import NotLeader, TransferRefused
from oarlock.raft.messages import TimeoutNow
from oarlock.raft.roles import become_follower
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, NodeId


def start(state: State, target: NodeId) -> None:
    """Raises NotLeader, or TransferRefused for this member and for no voter. A second call replaces the first."""
    if state.role is not Role.LEADER:
        raise NotLeader(state.leader)
    if target == state.id:
        raise TransferRefused("this member is the leader already")
    if target not in _heirs(state):
        raise TransferRefused(f"{target} is not a voter")
    if target != state.transferring:
        begin(state, target)


def begin(state: State, target: NodeId) -> None:
    state.transferring = target
    state.transfer_deadline = state.now + state.options.election_timeout_seconds
    state.transfer_sent = False


def advance(state: State) -> None:
    """Tell the target as soon as it has everything, once. It is a voter still: no change of members goes on (T5)."""
    if state.transferring == NOBODY or state.transfer_sent:
        return
    if state.peers[state.transferring].match == state.log.last_index:
        state.send(TimeoutNow(state.id, state.transferring, state.term))
        state.transfer_sent = True
        if leads_from_outside(state):
            become_follower(state, state.term, NOBODY)


def expire(state: State) -> None:
    """The target did not make it: lead on, or, with no seat in the configuration, leave it to an election."""
    if state.transferring != NOBODY and state.now >= state.transfer_deadline:
        state.transferring = NOBODY
        if leads_from_outside(state):
            become_follower(state, state.term, NOBODY)


def leads_from_outside(state: State) -> bool:
    """A leader that the committed configuration has no vote for (rule 14)."""
    latest = state.configurations.latest
    return latest.index <= state.commit and not state.is_voter(state.id)


def _heirs(state: State) -> list[NodeId]:
    return [voter.id for voter in state.configurations.latest.configuration.voters if voter.id != state.id]
