"""Elections and terms: pitfalls E1 to E20 (paper 5.1, 5.2, 5.4.1; thesis 3.10, 4.2.3, 9.6), and rule 10."""

from __future__ import annotations

import pytest
from tests.raft_cluster import Cluster, configuration, node_id
from tests.raft_solo import Solo, change_entry, only, snapshot_meta

from oarlock.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    VoteReply,
)
from oarlock.raft.options import Options
from oarlock.raft.state import Role


def cut_off(cluster: Cluster, *links: str) -> None:
    """`ab`: nothing passes between a and b, either way."""
    for one, other in links:
        cluster.cut += [(node_id(one), node_id(other)), (node_id(other), node_id(one))]


def test_vote_once_per_term_and_regrant_same_candidate() -> None:
    """E1."""
    solo = Solo()
    assert solo.ask_vote("b", 2, 1, 1) is True
    assert solo.ask_vote("c", 2, 1, 1) is False
    assert solo.ask_vote("b", 2, 1, 1) is True
    assert solo.core.vote == node_id("b")


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"),
    [(1, 99, False), (2, 3, False), (2, 4, True), (2, 5, True), (3, 1, True)],
)
def test_vote_compares_last_term_before_last_index(last_term: int, last_index: int, granted: bool) -> None:
    """E2: ours ends at 2.4."""
    solo = Solo(terms=[1, 2, 2])
    assert solo.ask_vote("b", 4, last_index, last_term) is granted
    reply = Solo(terms=[1, 2, 2]).ask_pre_vote("b", 4, last_index, last_term)
    assert reply is not None
    assert reply.granted is granted


@pytest.mark.parametrize("message", [(Append, 1, 1, 1, ()), (Heartbeat, 1, 1)])
def test_candidate_falls_back_on_current_leader(message: tuple) -> None:
    """E3: at its own term it follows, at a lower one it does not."""
    kind, *fields = message
    for term, role in ((2, Role.FOLLOWER), (1, Role.CANDIDATE)):
        solo = Solo()
        solo.time_out()
        solo.step(PreVoteReply, "b", 2, True)
        assert (solo.core.role, solo.core.term) == (Role.CANDIDATE, 2)
        solo.step(kind, "c", term, *fields)
        assert solo.core.role is role
        assert solo.core.leader == (node_id("c") if role is Role.FOLLOWER else "")


def test_self_vote_waits_for_persist() -> None:
    """E4: neither asked for votes nor elected before its own vote is durable, with one voter too."""
    solo = Solo(voters="a")
    solo.now = solo.core.deadline
    solo.core.tick(solo.now)
    assert solo.pull() == []
    assert solo.core.role is Role.CANDIDATE
    solo.persist()
    assert solo.core.role is Role.LEADER

    solo = Solo()
    solo.time_out()
    solo.give(PreVoteReply, "b", 2, True)
    assert only(solo.pull(), Vote) == []
    solo.give(VoteReply, "b", 2, True)
    assert solo.core.role is Role.CANDIDATE, "one vote of three, its own not yet counted"
    assert len(only(solo.persist(), Vote)) == 2
    assert solo.core.role is Role.LEADER


def test_stale_self_vote_ignored() -> None:
    """E5: the disk answers for a candidacy that is over, or was for another term."""
    solo = Solo()
    solo.time_out()
    solo.give(PreVoteReply, "b", 2, True)
    solo.pull()
    solo.give(Heartbeat, "c", 2, 1, 1)
    solo.pull()
    solo.persist()
    assert (solo.core.role, solo.core.leader) == (Role.FOLLOWER, node_id("c"))

    solo = Solo(voters="a")
    solo.core.tick(solo.core.deadline)
    solo.pull()  # term 2 is on its way to the disk
    solo.give(Heartbeat, "b", 5, 1, 1)
    solo.persist()
    assert (solo.core.role, solo.core.term) == (Role.FOLLOWER, 5)


def test_prevote_responses_not_counted_as_votes() -> None:
    """E6."""
    solo = Solo(voters="abcde")
    solo.time_out()
    for voter in "bc":
        solo.step(PreVoteReply, voter, 2, True)
    assert solo.core.role is Role.CANDIDATE
    for voter in "de":
        solo.step(PreVoteReply, voter, 2, True)
        solo.step(PreVoteReply, voter, 3, True)
    assert solo.core.role is Role.CANDIDATE
    solo.step(VoteReply, "b", 2, True)
    solo.step(VoteReply, "c", 2, True)
    assert solo.core.role is Role.LEADER


def test_prevote_request_has_no_side_effect() -> None:
    """E7: neither term nor vote nor timer, whatever the answer."""
    for index in (0, 9):
        solo = Solo()
        before = (solo.core.term, solo.core.vote, solo.core.deadline, solo.core.leader, solo.core.role)
        assert solo.ask_pre_vote("b", 7, index, 1) is not None
        assert (solo.core.term, solo.core.vote, solo.core.deadline, solo.core.leader, solo.core.role) == before


def test_prevote_response_terms() -> None:
    """E8: a grant names the future term, a refusal the own."""
    solo = Solo(terms=[3], term=4)
    granted = solo.ask_pre_vote("b", 6, 2, 3)
    refused = solo.ask_pre_vote("b", 6, 1, 1)
    assert (granted.granted, granted.term) == (True, 6)
    assert (refused.granted, refused.term) == (False, 4)


def test_precandidate_clears_leader_and_votes() -> None:
    """E9."""
    solo = Solo(voters="abcde")
    solo.step(Heartbeat, "c", 1, 1, 1)
    assert solo.core.leader == node_id("c")
    solo.time_out()
    assert (solo.core.role, solo.core.leader) == (Role.PRE_CANDIDATE, "")
    solo.step(PreVoteReply, "b", 2, True)
    solo.time_out()  # a second pre-candidacy: the grant above is of the first
    solo.step(PreVoteReply, "c", 2, True)
    assert solo.core.role is Role.PRE_CANDIDATE


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ((Append, 1, 1, 1, ()), AppendReply),
        ((Heartbeat, 1, 7), HeartbeatReply),
        ((SnapshotOffer, snapshot_meta(9, 1)), AppendReply),
    ],
)
def test_stuck_candidate_freed_by_term_reply(message: tuple, answer: type) -> None:
    """E10: a leader of an old term hears of the newer one from whoever has it, and gives way."""
    kind, *fields = message
    stuck = Solo(term=5)
    (reply,) = stuck.step(kind, "b", 2, *fields)
    assert isinstance(reply, answer)
    assert reply.term == 5
    leader = Solo("b")
    leader.lead("c")
    leader.core.step(reply, leader.now)
    assert (leader.core.role, leader.core.term) == (Role.FOLLOWER, 5)


def test_lower_term_prevote_is_rejected_not_dropped() -> None:
    """E11."""
    reply = Solo(term=5).ask_pre_vote("b", 3, 9, 3)
    assert reply is not None
    assert (reply.granted, reply.term) == (False, 5)


def test_vote_ignored_while_leader_lease_valid() -> None:
    """E12: not even its term is taken; a transfer passes; and after the minimum timeout it is a vote like any other."""
    solo = Solo()
    solo.step(Heartbeat, "b", 1, 1, 1)
    assert solo.ask_vote("c", 9, 9, 9) is None
    assert solo.core.term == 1
    reply = solo.ask_pre_vote("c", 9, 9, 9)
    assert reply is None or not reply.granted
    solo.now += 0.99
    assert solo.ask_vote("c", 9, 9, 9) is None
    assert Solo().ask_vote("c", 9, 9, 9) is True, "no leader known"
    solo.now += 0.02
    assert solo.ask_vote("c", 9, 9, 9) is True

    solo = Solo()
    solo.step(Heartbeat, "b", 1, 1, 1)
    assert solo.ask_vote("c", 2, 1, 1, transfer=True) is True

    leader = Solo()
    leader.lead("b")
    assert leader.ask_vote("c", 9, 9, 9) is None, "a leader that has its quorum is its own lease"


def test_partial_partition_has_stable_leader() -> None:
    """E13: d and e reach only c; the rest reach each other. One leader, and it stays."""
    cluster = Cluster("abcde")
    cluster.elect("d")
    cut_off(cluster, "ad", "ae", "bd", "be", "de")
    cluster.run(8)
    settled = cluster.leader()
    assert settled is not None
    term = settled.term
    cluster.run(20)
    assert cluster.leader() is settled
    assert settled.term == term
    index, _ = cluster.propose(settled.node_id)
    cluster.run(0.2)
    assert settled.commit_index >= index


def test_rejoining_node_does_not_bump_term() -> None:
    """E14."""
    cluster = Cluster("abc")
    leader = cluster.elect("a")
    cut_off(cluster, "ac", "bc")
    cluster.run(10)
    assert cluster["c"].role is Role.PRE_CANDIDATE
    cluster.cut.clear()
    cluster.run(5)
    assert (leader.role, leader.term) == (Role.LEADER, 2)
    assert cluster["c"].leader == leader.node_id


def test_low_term_node_can_complete_election() -> None:
    """E15: two of three are left, with terms far apart; the one behind has the longer log."""
    behind, ahead = Solo("a", terms=[1, 1]), Solo("b", term=7)
    requests = behind.time_out()
    (request,) = [m for m in only(requests, PreVote) if m.to == ahead.id]
    ahead.core.step(request, ahead.now)
    (reply,) = only(ahead.take(), PreVoteReply)
    behind.core.step(reply, behind.now)
    behind.take()
    assert behind.core.term == 7
    (request,) = [m for m in only(behind.time_out(), PreVote) if m.to == ahead.id]
    ahead.core.step(request, ahead.now)
    (reply,) = only(ahead.take(), PreVoteReply)
    assert reply.granted
    behind.core.step(reply, behind.now)
    (vote,) = [m for m in only(behind.take(), Vote) if m.to == ahead.id]
    ahead.core.step(vote, ahead.now)
    (granted,) = only(ahead.take(), VoteReply)
    behind.core.step(granted, behind.now)
    assert behind.core.role is Role.LEADER


def test_timeouts_cover_range_and_redrawn() -> None:
    """E17: between T and 2 T, and another one for each change of role."""
    waits = [Solo(seed=seed).core.deadline - 100.0 for seed in range(200)]
    assert all(1.0 <= wait < 2.0 for wait in waits)
    assert min(waits) < 1.1
    assert max(waits) > 1.9
    solo = Solo()
    drawn = []
    for _ in range(20):
        solo.time_out()
        drawn.append(round(solo.core.deadline - solo.now, 6))
    assert len(dict.fromkeys(drawn)) == 20


def test_old_term_message_never_dispatched() -> None:
    """E18: whatever comes from an old term changes nothing."""
    solo = Solo(term=4)
    solo.lead("b")
    index, term = solo.core.propose(b"x", solo.now)
    solo.take()
    before = (solo.core.commit_index, solo.core.role, solo.core.peers[node_id("b")].match, solo.core.vote)
    solo.step(AppendReply, "b", term - 1, True, index, 0, 0)
    solo.step(HeartbeatReply, "b", term - 1, 0)
    solo.step(VoteReply, "b", term - 1, False)
    solo.step(TimeoutNow, "b", term - 1)
    solo.step(Append, "b", term - 1, 1, 1, 1, ())
    assert (solo.core.commit_index, solo.core.role, solo.core.peers[node_id("b")].match, solo.core.vote) == before


def test_check_quorum_with_subsecond_timeout() -> None:
    """E19: with 0.2 s it neither flaps nor stays without a quorum."""
    cluster = Cluster("abc", options=Options(election_timeout_seconds=0.2, heartbeat_seconds=0.02))
    leader = cluster.elect("a")
    cluster.run(3)
    assert (leader.role, leader.term) == (Role.LEADER, 2)
    cut_off(cluster, "ab", "ac")
    cluster.run(0.15)
    assert leader.role is Role.LEADER
    cluster.run(0.1)
    assert leader.role is not Role.LEADER


def test_leader_without_quorum_steps_down() -> None:
    """Check-quorum: within one election timeout and a heartbeat, and not while a bare majority answers."""
    solo = Solo(voters="abcde")
    solo.lead("b", "c")
    for _ in range(30):
        solo.beat("b", "c")
    assert solo.core.role is Role.LEADER
    for _ in range(9):
        solo.beat("b")
    assert solo.core.role is Role.LEADER
    solo.beat("b")
    solo.beat("b")
    assert (solo.core.role, solo.core.leader) == (Role.FOLLOWER, "")


def test_not_promotable_with_pending_snapshot_or_conf() -> None:
    """E20: nor as a learner, nor in no configuration at all; but a voter of the outgoing half may."""
    for solo in (Solo("c", voters="ab", learners="c"), Solo("d", voters="abc"), Solo("a", entries=[])):
        solo.time_out()
        assert solo.core.role is Role.FOLLOWER
        solo.step(TimeoutNow, "b", 1)
        assert solo.core.role is Role.FOLLOWER

    meta = snapshot_meta(9, 1, configuration("abc"))
    solo = Solo()
    assert solo.core.install(meta, solo.now)
    solo.take()
    solo.time_out()
    assert solo.core.role is Role.FOLLOWER
    solo.core.applied(9)
    solo.time_out()
    assert solo.core.role is Role.PRE_CANDIDATE

    joint = Solo("c", entries=[change_entry(1, 1, configuration("ab", outgoing="abc"))])
    joint.time_out()
    assert joint.core.role is Role.PRE_CANDIDATE


def test_split_vote_is_resolved_by_new_timeouts() -> None:
    """Paper 5.2: two candidates of one term, two of four votes each."""
    cluster = Cluster("abcd", eager=True)
    cluster.now = 5.0
    for name in "ab":
        node = cluster.nodes[node_id(name)]
        cluster.input(node, lambda core: core.tick(5.0))
    pre_votes, cluster.network = cluster.network, []
    for message in pre_votes:  # each is pre-voted for by c and d
        if message.to not in (node_id("a"), node_id("b")):
            cluster.deliver(message)
    cluster.settle()
    cluster.run(8)
    leader = cluster.leader()
    assert leader is not None
    assert leader.noop_committed


def test_lost_election_leaves_candidate_a_follower() -> None:
    """A majority that refuses ends the candidacy before its timeout; the vote stays given."""
    solo = Solo()
    solo.time_out()
    solo.step(PreVoteReply, "b", 2, True)
    solo.step(VoteReply, "b", 2, False)
    solo.step(VoteReply, "c", 2, False)
    assert (solo.core.role, solo.core.vote, solo.core.term) == (Role.FOLLOWER, solo.id, 2)


def test_learner_votes_when_asked() -> None:
    """M5, rule 10: it may be a voter in a configuration that it has not seen; so may one that is in none."""
    for solo in (Solo("c", voters="ab", learners="c"), Solo("d", voters="abc"), Solo("a", entries=[], commit=0)):
        assert solo.ask_vote("b", 2, 5, 1) is True
        assert solo.append("b", 2, (0, 0), 0, 1, 1, 1)[0].accepted


def test_votes_of_non_voters_do_not_count() -> None:
    solo = Solo(voters="abc", learners="de")
    solo.time_out()
    for voter in "de":
        solo.step(PreVoteReply, voter, 2, True)
    assert solo.core.role is Role.PRE_CANDIDATE
