"""Elections: pre-vote, vote, and the counting of both (paper 5.2 and 5.4.1, thesis 9.6).

Three rules of this module: votes are never refused for want of membership (rule 10), only this member's own candidacy
depends on it; a vote is counted when it is durable, this member's own like any other (E4); answers to a pre-vote are
never taken for votes, nor those of one term for another's.
"""

from __future__ import annotations

from oarlock.raft import quorum
from oarlock.raft.messages import PreVote, PreVoteReply, TimeoutNow, Vote, VoteReply
from oarlock.raft.quorum import Verdict
from oarlock.raft.roles import become_candidate, become_follower, become_leader, become_pre_candidate
from oarlock.raft.state import Role, State
from oarlock.raft.types import NOBODY, NodeId

# -- campaigning ---------------------------------------------------------------------------------------------------


def may_campaign(state: State) -> bool:
    """A voter, of either half, with a whole state and a disk that answers (E20, D12).

    One that only an *uncommitted* configuration leaves out may as well, and must (thesis 4.2.2). Example: voters a
    become b. a has appended the final entry, b has not, and both restart. b needs a's vote and does not get it, its
    log being shorter; a alone can win, and commit the configuration that drops it.
    """
    committed = quorum.halves(state.configurations.at(state.commit).configuration)
    has_seat = state.is_voter(state.id) or any(state.id in half for half in committed)
    return has_seat and not state.removed and state.installing is None and not state.disk_hangs


def on_timeout(state: State) -> None:
    """No leader was heard of for an election timeout."""
    if may_campaign(state):
        become_pre_candidate(state)
        state.votes[state.id] = True
        for voter in _others(state):
            state.send(PreVote(state.id, voter, state.term + 1, state.log.last_index, state.log.last_term))
    else:
        become_follower(state, state.term, NOBODY)


def on_timeout_now(state: State, message: TimeoutNow) -> None:
    """The leader hands over (thesis 3.10): campaign at once, without pre-vote."""
    if state.role is Role.FOLLOWER and state.leader in (NOBODY, message.sender) and may_campaign(state):
        _campaign(state, transfer=True)


def _campaign(state: State, *, transfer: bool) -> None:
    become_candidate(state)
    for voter in _others(state):
        # A promise: its own vote must be durable before anyone can answer, else a restart could vote twice in the term.
        state.promise(Vote(state.id, voter, state.term, state.log.last_index, state.log.last_term, transfer))


def _others(state: State) -> list[NodeId]:
    return [voter for voter in dict.fromkeys(id for half in state.halves for id in half) if voter != state.id]


def conclude(state: State) -> None:
    """See how the election stands."""
    if state.role is Role.PRE_CANDIDATE:
        match quorum.verdict(state.halves, state.votes):
            case Verdict.WON:
                _campaign(state, transfer=False)
            case Verdict.LOST:
                become_follower(state, state.term, NOBODY)
            case Verdict.OPEN:
                pass
    if state.role is Role.CANDIDATE:
        if state.durability.state_is_durable(state.term, state.vote):
            state.votes[state.id] = True
        match quorum.verdict(state.halves, state.votes):
            case Verdict.WON:
                become_leader(state)
            case Verdict.LOST:
                become_follower(state, state.term, NOBODY)
            case Verdict.OPEN:
                pass


# -- voting --------------------------------------------------------------------------------------------------------


def _is_up_to_date(state: State, message: PreVote | Vote) -> bool:
    """The paper's order: the last term decides, the length only among equals (E2)."""
    return (message.last_term, message.last_index) >= (state.log.last_term, state.log.last_index)


def on_pre_vote(state: State, message: PreVote) -> None:
    """Nothing changes here, neither term nor vote nor timer (E7). A grant names the term asked about, a refusal this
    member's own, from which a candidate that is behind learns it (E8, E11, E15)."""
    granted = (
        not state.has_leader_lease
        and (message.term > state.term or (message.term == state.term and _vote_is_free_for(state, message.sender)))
        and _is_up_to_date(state, message)
    )
    if granted:
        state.send(PreVoteReply(state.id, message.sender, message.term, True))
    else:
        state.promise(PreVoteReply(state.id, message.sender, state.term, False))


def _vote_is_free_for(state: State, candidate: NodeId) -> bool:
    return state.vote == candidate or (state.vote == NOBODY and state.leader == NOBODY)


def on_vote(state: State, message: Vote) -> None:
    granted = _vote_is_free_for(state, message.sender) and _is_up_to_date(state, message)
    if granted:
        state.vote = message.sender
        state.draw_election_deadline()
    state.promise(VoteReply(state.id, message.sender, state.term, granted))


# -- answers -------------------------------------------------------------------------------------------------------


def on_pre_vote_reply(state: State, message: PreVoteReply) -> None:
    if state.role is Role.PRE_CANDIDATE and (not message.granted or message.term == state.term + 1):
        _count(state, message.sender, message.granted)


def on_vote_reply(state: State, message: VoteReply) -> None:
    if state.role is Role.CANDIDATE:
        _count(state, message.sender, message.granted)


def _count(state: State, voter: NodeId, granted: bool) -> None:
    if state.is_voter(voter):
        state.votes.setdefault(voter, granted)
