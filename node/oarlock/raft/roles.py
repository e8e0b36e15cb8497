"""Changes of role, each whole in one function, so that nothing of the old role is left behind.

Two rules of this module: a term is never entered without forgetting the vote of the one before; and every change draws
a new election timeout, so that a split vote is not repeated (paper 5.2).
"""

from __future__ import annotations

from oarlock.raft import reads
from oarlock.raft.errors import RemoteError
from oarlock.raft.log import size_of
from oarlock.raft.replication import append_entry
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, EntryKind, NodeId


def become_follower(state: State, term: int, leader: NodeId) -> None:
    if term > state.term:
        state.term, state.vote = term, NOBODY
    if state.role is Role.LEADER or leader != state.leader:
        reads.fail_all(state)
    _leave_role(state)
    state.role = Role.FOLLOWER
    _know_leader(state, leader)
    if leader != NOBODY:
        state.leader_contact_at = state.now
    state.draw_election_deadline()


def follow(state: State, leader: NodeId) -> None:
    """`leader` acted as the leader of this member's term. Raises RemoteError when another one leads it."""
    if state.role is Role.LEADER or state.leader not in (NOBODY, leader):
        raise RemoteError("a second leader in one term")
    if state.role is not Role.FOLLOWER or state.leader != leader:
        become_follower(state, state.term, leader)
    else:
        state.leader_contact_at = state.now
        state.draw_election_deadline()


def become_pre_candidate(state: State) -> None:
    """Term and vote stay: until a majority would follow, nothing has happened (thesis 9.6)."""
    reads.fail_all(state)
    _leave_role(state)
    state.role = Role.PRE_CANDIDATE
    _know_leader(state, NOBODY)
    state.draw_election_deadline()


def become_candidate(state: State) -> None:
    reads.fail_all(state)
    _leave_role(state)
    state.role = Role.CANDIDATE
    state.term, state.vote = state.term + 1, state.id
    _know_leader(state, NOBODY)
    state.elections_started += 1
    state.draw_election_deadline()


def become_leader(state: State) -> None:
    _leave_role(state)
    state.role = Role.LEADER
    state.elections_won += 1
    _know_leader(state, state.id)
    state.leader_contact_at = None
    state.elected_at = state.now
    state.time_base_ms = state.log.last_time_ms
    state.round = 0
    state.next_heartbeat = state.now + state.options.heartbeat_seconds
    state.noop_index = state.caught_up_from = state.log.last_index + 1
    state.commit_at_heartbeat = state.commit
    state.uncommitted_bytes = sum(map(size_of, state.log.entries(state.commit + 1, state.log.last_index)))
    state.match_peers()
    _inherit_farewells(state)
    append_entry(state, EntryKind.NOOP, state.id.encode())


def _inherit_farewells(state: State) -> None:
    """An uncommitted configuration of an earlier leader may drop members: telling them is this leader's duty now."""
    latest, previous = state.configurations.latest, state.configurations.previous
    if latest.index <= state.commit:
        return
    before, after = previous.configuration, latest.configuration
    kept = [member.id for group in (after.voters, after.learners, after.outgoing) for member in group]
    for member in (*before.voters, *before.learners, *before.outgoing):
        if member.id not in kept and member.id not in state.peers and member.id != state.id:
            state.add_peer(member.id).leaving = latest.index


def _leave_role(state: State) -> None:
    state.votes = {}
    state.peers = {}
    state.uncommitted_bytes = 0
    state.notice_at = None
    state.transferring = NOBODY


def _know_leader(state: State, leader: NodeId) -> None:
    state.leader = leader
    if leader not in (NOBODY, state.last_leader):
        state.last_leader = leader
        state.leader_changes += 1
