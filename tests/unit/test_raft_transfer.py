"""Handing leadership over: pitfalls T1 to T6 (thesis 3.10)."""

from __future__ import annotations

import pytest
from tests.raft_cluster import Cluster, configuration, node_id
from tests.raft_solo import Solo, only

from oarlock.raft.errors import Busy, NotLeader, TransferRefused
from oarlock.raft.messages import PreVote, TimeoutNow, Vote
from oarlock.raft.state import Role


def leading(voters: str = "abc", learners: str = "") -> Solo:
    solo = Solo(voters=voters, learners=learners)
    solo.lead("b", "c")
    solo.beat("b", "c")
    return solo


def hand_over(solo: Solo, target: str) -> list[str]:
    solo.core.transfer(node_id(target), solo.now)
    return [message.to for message in only(solo.take(), TimeoutNow)]


def test_transfer_blocks_then_times_out() -> None:
    """T1: no proposal meanwhile, and an end after one election timeout."""
    solo = leading()
    assert hand_over(solo, "b") == [node_id("b")]
    with pytest.raises(Busy):
        solo.core.propose(b"x", solo.now)
    with pytest.raises(Busy):
        solo.core.change_configuration(configuration("ab").voters, (), "1.1", solo.now)
    for _ in range(9):
        solo.beat("b", "c")
    assert solo.core.transferring == node_id("b")
    solo.beat("b", "c")
    solo.beat("b", "c")
    assert (solo.core.transferring, solo.core.role) == ("", Role.LEADER)
    solo.core.propose(b"x", solo.now)


def test_transfer_waits_for_catch_up() -> None:
    """T2: TimeoutNow goes out when the target has the last entry, once."""
    solo = leading()
    solo.core.propose(b"x", solo.now)
    solo.core.propose(b"y", solo.now)
    solo.take()
    assert hand_over(solo, "b") == []
    assert only(solo.accept("b", index=3), TimeoutNow) == []
    assert only(solo.accept("c"), TimeoutNow) == []
    assert [message.to for message in only(solo.accept("b"), TimeoutNow)] == [node_id("b")]
    assert only(solo.beat("b", "c"), TimeoutNow) == []


def test_transfer_skips_prevote_and_lease() -> None:
    """T3: the target asks for votes at once, with the flag that passes everyone's lease."""
    target = Solo("b")
    out = target.step(TimeoutNow, "a", 1)
    assert only(out, PreVote) == []
    assert [(vote.term, vote.transfer) for vote in only(out, Vote)] == [(2, True), (2, True)]

    cluster = Cluster("abc")
    cluster.elect("a")
    cluster.run(0.2)
    node = cluster.nodes[node_id("a")]
    cluster.input(node, lambda core: core.transfer(node_id("c"), cluster.now))
    cluster.settle()
    assert (cluster["c"].role, cluster["c"].term, cluster["a"].leader) == (Role.LEADER, 3, node_id("c"))


def test_transfer_target_validation() -> None:
    """T4: neither self, nor a learner, nor a stranger; a second target replaces the first."""
    solo = leading(learners="d")
    for target in "adz":
        with pytest.raises(TransferRefused):
            solo.core.transfer(node_id(target), solo.now)
    with pytest.raises(NotLeader):
        Solo().core.transfer(node_id("b"), 0.0)
    assert hand_over(solo, "b") == [node_id("b")]
    assert hand_over(solo, "b") == [], "the same one again changes nothing"
    assert hand_over(solo, "c") == [node_id("c")]
    assert solo.core.transferring == node_id("c")


def test_transfer_aborts_on_membership_change() -> None:
    """T5, turned round: no change begins while a transfer lasts, nor does a joint one go on, so that the target stays a
    voter; both do afterwards."""
    solo = leading()
    solo.core.change_configuration(configuration("ab").voters, (), "1.1", solo.now)
    solo.core.transfer(node_id("b"), solo.now)
    solo.accept("c")
    joint = solo.core.placed
    assert [message.to for message in only(solo.accept("b"), TimeoutNow)] == [node_id("b")]
    assert (solo.core.commit_index, solo.core.placed) == (3, joint)
    with pytest.raises(Busy):
        solo.core.change_configuration(configuration("abc").voters, (), joint.id, solo.now)
    for _ in range(11):
        solo.beat("b", "c")
    assert solo.core.placed.configuration == configuration("ab", tombstones="c")


def test_transfer_to_a_member_that_is_being_dropped_is_refused() -> None:
    """T5 by the front door: it is a voter of the old half only."""
    solo = leading()
    solo.core.change_configuration(configuration("ab").voters, (), "1.1", solo.now)
    with pytest.raises(TransferRefused):
        solo.core.transfer(node_id("c"), solo.now)


def test_transfer_higher_term_vote() -> None:
    """T6: whoever asks for votes with a higher term and the flag gets an answer, and the transfer is over."""
    solo = leading()
    hand_over(solo, "b")
    assert solo.ask_vote("c", 9, 9, 9, transfer=True) is True
    assert (solo.core.role, solo.core.term, solo.core.transferring) == (Role.FOLLOWER, 9, "")


def test_timeout_now_is_only_for_followers_that_may_campaign() -> None:
    learner = Solo("d", voters="abc", learners="d")
    learner.step(TimeoutNow, "a", 1)
    assert learner.core.role is Role.FOLLOWER
    follower = Solo("b")
    follower.step(TimeoutNow, "a", 1)
    term = follower.core.term
    follower.step(TimeoutNow, "a", term)
    assert (follower.core.role, follower.core.term) == (Role.CANDIDATE, term)
