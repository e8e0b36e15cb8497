"""Membership: pitfalls M1 to M17 (thesis 4), and rules 10, 12, 13, 14 and 15."""

from __future__ import annotations

import pytest
from tests.raft_cluster import Cluster, configuration, member, members, node_id, say_configuration
from tests.raft_solo import Solo, change_entry, command, only, snapshot_meta

from oarlock.raft.errors import ConfigurationRefused, NotLeader
from oarlock.raft.membership import MAX_TOMBSTONES, first_step, last_step
from oarlock.raft.messages import Append, Heartbeat, HeartbeatReply, PreVoteReply, TimeoutNow, VoteReply
from oarlock.raft.state import Role
from oarlock.raft.types import Configuration, EntryKind


def change(solo: Solo, voters: str, learners: str = "", promote: str = "", if_config: str | None = None) -> list:
    wanted = (*members(learners), *members(promote, promote=True))
    solo.core.change_configuration(members(voters), wanted, if_config or solo.core.placed.id, solo.now)
    return solo.take()


def refusal(solo: Solo, *args: str, **more: str) -> str:
    last = solo.core.last_index
    with pytest.raises(ConfigurationRefused) as caught:
        change(solo, *args, **more)
    assert solo.core.last_index == last, "nothing is appended"
    return caught.value.code


def leading(voters: str = "abc", learners: str = "", quorum: str = "b") -> Solo:
    solo = Solo(voters=voters, learners=learners)
    solo.lead(*quorum)
    solo.beat(*quorum)
    return solo


def placed(solo: Solo) -> str:
    return say_configuration(solo.core.placed.configuration)


# -- the steps, as pure functions --------------------------------------------------------------------------------------


def test_steps_of_a_change() -> None:
    """Rules 12, 14, 15: a change of voters is joint, any other one entry; who is dropped becomes a tombstone."""
    old = configuration("abc", "d", tombstones="z")
    joint = first_step(old, members("abe"), members("c"))
    assert say_configuration(joint) == "voters abe, outgoing abc, learners c, tombstones zd"
    assert say_configuration(last_step(joint)) == "voters abe, learners c, tombstones zd"
    assert say_configuration(last_step(first_step(old, members("de"), ()))) == "voters de, tombstones zabc"
    assert say_configuration(first_step(old, members("cba"), members("e"))) == "voters cba, learners e, tombstones zd"


def test_promotion_clears_the_flag_and_the_bootstrap_latch_opens_once() -> None:
    old = configuration("a", min_voters=3)
    assert first_step(old, members("a"), members("bc", promote=True)).min_voters == 3
    joint = first_step(old, members("abc", promote=True), ())
    assert not any(voter.promote for voter in joint.voters)
    assert joint.min_voters == last_step(joint).min_voters == 0
    assert first_step(last_step(joint), members("a"), ()).min_voters == 0


def test_tombstones_are_bounded() -> None:
    many = Configuration(voters=members("ab"), tombstones=tuple(f"n-{n:016x}" for n in range(MAX_TOMBSTONES)))
    last = last_step(first_step(many, members("a"), ())).tombstones
    assert len(last) == MAX_TOMBSTONES
    assert (last[0], last[-1]) == (f"n-{1:016x}", node_id("b"))


# -- preconditions -----------------------------------------------------------------------------------------------------


def test_conf_change_requires_commit_in_term() -> None:
    """M1, rule 12."""
    solo = Solo()
    solo.time_out()
    solo.step(PreVoteReply, "b", 2, True)
    solo.step(VoteReply, "b", 2, True)
    assert solo.core.role is Role.LEADER
    assert refusal(solo, "ab") == "precondition_failed"
    solo.accept("b")
    solo.beat("b")
    change(solo, "ab")


def test_second_conf_change_rejected() -> None:
    """M2, rule 12: while one is uncommitted, while one is joint, and by a new leader that finds one in its log."""
    solo = leading(quorum="bc")
    change(solo, "abc", "d")
    assert refusal(solo, "abc", "de") == "precondition_failed"
    solo.accept("b")
    change(solo, "ab", "d")
    assert refusal(solo, "abc", "d") == "precondition_failed"
    solo.accept("b")
    assert placed(solo) == "voters ab, learners d, tombstones c"
    assert refusal(solo, "ab") == "precondition_failed", "the final one is not yet committed"

    joint = configuration("abd", outgoing="abc")
    found = Solo(entries=[change_entry(1, 1, configuration("abc", "d")), change_entry(2, 1, joint)])
    found.lead("b")
    assert refusal(found, "abc") == "precondition_failed"


def test_conf_change_cas() -> None:
    """M17, rule 12: on the term and index of the latest configuration; an index alone can name two entries."""
    solo = leading()
    for other in ("1", "2.1", "1.2", "x"):
        assert refusal(solo, "ab", if_config=other) == "precondition_failed"
    change(solo, "abc", "d", if_config="1.1")
    solo.accept("b")
    assert refusal(solo, "ab", if_config="1.1") == "precondition_failed"
    assert solo.core.placed.id == "2.3"


def test_only_a_leader_changes_members() -> None:
    with pytest.raises(NotLeader):
        Solo().core.change_configuration(members("ab"), (), "1.1", 0.0)


def test_malformed_changes_are_refused() -> None:
    solo = leading(learners="d")
    assert refusal(solo, "") == "bad_request"
    assert refusal(solo, "aab") == "bad_request"
    assert refusal(solo, "abc", "c") == "bad_request"
    with pytest.raises(ConfigurationRefused) as caught:
        solo.core.change_configuration((*members("abc"), type(member("a"))("d", "u", "u")), (), "1.1", solo.now)
    assert caught.value.code == "bad_request"


def test_change_to_what_is_already_so_appends_nothing() -> None:
    solo = leading()
    assert solo.core.change_configuration(members("abc"), (), "1.1", solo.now) == (1, 1)
    assert solo.core.last_index == 2


def test_address_change_is_one_simple_entry() -> None:
    """Rule 12: the same call changes an address; the id is the identity."""
    solo = leading()
    moved = tuple(type(v)(v.id, "https://new:2380", v.client_url) if v.id == solo.id else v for v in members("abc"))
    solo.core.change_configuration(moved, (), "1.1", solo.now)
    configured = solo.core.placed.configuration
    assert (configured.voters[0].peer_url, configured.outgoing) == ("https://new:2380", ())


def test_voter_that_is_not_caught_up_is_refused() -> None:
    """Rule 13: neither a stranger nor a learner that is behind what was committed one heartbeat ago."""
    solo = leading(learners="d")
    assert refusal(solo, "abce") == "not_caught_up"
    assert refusal(solo, "abcd") == "not_caught_up", "never heard of"
    solo.accept("d")
    for _ in range(3):
        solo.core.propose(b"x", solo.now)
        solo.take()
        solo.accept("b")
    solo.beat("b", "d")
    solo.beat("b", "d")
    assert refusal(solo, "abcd") == "not_caught_up"
    solo.accept("d", index=4)
    assert refusal(solo, "abcd") == "not_caught_up"
    solo.accept("d", index=5)
    assert solo.core.is_caught_up(node_id("d"))
    solo.tick(0.3)
    solo.beat("b")
    for _ in range(8):
        solo.beat("b")
    assert refusal(solo, "abcd") == "not_caught_up", "not heard of for an election timeout"
    solo.beat("b", "d")
    change(solo, "abcd")
    assert placed(solo) == "voters abcd, outgoing abc"


def test_caught_up_is_measured_one_heartbeat_back() -> None:
    """Rule 13: under load a learner is never at the commit index itself; one heartbeat back is close enough."""
    solo = leading(learners="d")
    solo.accept("d")
    solo.beat("b", "d")
    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("b")
    assert solo.core.commit_index == 3
    change(solo, "abcd")


def test_add_voter_refused_without_healthy_quorum() -> None:
    """M13: three of four would be needed, and c is not there."""
    solo = leading("ab", "cde", quorum="b")
    solo.accept("c", "d", "e")
    solo.beat("b", "c", "d", "e")
    for _ in range(11):
        solo.beat("b", "d")
    assert refusal(solo, "abcd") == "not_caught_up"
    solo = leading("abc", "de", quorum="b")
    solo.accept("d", "e")
    solo.beat("b", "d", "e")
    assert refusal(solo, "ac") == "would_lose_quorum"
    change(solo, "abde")


def test_learners_may_always_be_added() -> None:
    """M13: they have no vote, so that no quorum depends on them."""
    solo = leading()
    change(solo, "abc", "defg")
    assert placed(solo) == "voters abc, learners defg"


def test_two_node_remove_dead_needs_recovery() -> None:
    """M14: of two, the survivor cannot drop the other: the joint entry needs both. It is refused or never commits."""
    solo = Solo(voters="ab")
    solo.lead("b")
    solo.beat("b")
    change(solo, "a")
    for _ in range(12):
        solo.beat()
    assert solo.core.commit_index == 2
    assert solo.core.role is Role.FOLLOWER


def test_reused_id_rejected() -> None:
    """M15, rule 15."""
    solo = leading(learners="d")
    change(solo, "abc")
    assert placed(solo) == "voters abc, tombstones d"
    solo.accept("b")
    assert refusal(solo, "abc", "d") == "tombstoned"
    assert refusal(solo, "abcd") == "tombstoned"
    solo.beat("b")
    change(solo, "ab")
    solo.accept("b")
    solo.accept("b")
    assert placed(solo) == "voters ab, tombstones dc"
    assert refusal(solo, "ab", "c") == "tombstoned"


# -- what is in force --------------------------------------------------------------------------------------------------


def test_config_effective_on_append() -> None:
    """M4, rule 14: on the leader and on the follower, committed or not."""
    solo = leading(quorum="b")
    change(solo, "ab")
    assert placed(solo) == "voters ab, outgoing abc"
    assert solo.core.committed_placed.id == "1.1"
    follower = Solo("b")
    follower.step(Append, "a", 1, 1, 1, 1, (change_entry(2, 1, configuration("a", outgoing="abc")),))
    assert placed(follower) == "voters a, outgoing abc"
    assert follower.core.commit_index == 1


def test_truncation_rolls_back_configuration() -> None:
    """M3, rule 14: to the one before, to the initial one, and to a snapshot's."""
    entries = (change_entry(2, 1, configuration("ab", outgoing="abc")), change_entry(3, 1, configuration("ab")))
    solo = Solo("b")
    solo.step(Append, "a", 1, 1, 1, 1, entries)
    assert placed(solo) == "voters ab"
    assert list(solo.core.participants()) == [node_id(name) for name in "abc"], "c may be in force again"
    solo.step(Append, "c", 2, 2, 1, 1, (command(3, 2),))
    assert placed(solo) == "voters ab, outgoing abc"
    solo.step(Append, "c", 3, 1, 1, 1, (command(2, 3),))
    assert placed(solo) == "voters abc"

    solo = Solo("b")
    solo.step(Append, "a", 1, 1, 1, 2, (command(2, 1), *[change_entry(3, 1, configuration("ab", outgoing="abc"))]))
    solo.core.snapshot_taken(snapshot_meta(2, 1, configuration("abc")))
    solo.core.compact(2)
    solo.step(Append, "c", 2, 2, 1, 2, (command(3, 2),))
    assert placed(solo) == "voters abc"


def test_joint_demote_uses_learners_next() -> None:
    """M6: a demoted voter stands in learners and outgoing at once, votes in the old half, and is a learner after."""
    solo = leading(quorum="bc")
    change(solo, "ab", "c")
    assert placed(solo) == "voters ab, outgoing abc, learners c"
    voter = Solo("c", entries=[change_entry(1, 1, solo.core.placed.configuration)])
    voter.time_out()
    assert voter.core.role is Role.PRE_CANDIDATE
    solo.accept("b")
    assert placed(solo) == "voters ab, learners c"
    assert list(solo.core.peers) == [node_id("b"), node_id("c")]


def test_joint_quorum_everywhere() -> None:
    """M7, rule 14: election, commit, check-quorum and reads need a majority of both halves."""
    joint = change_entry(1, 1, configuration("abc", outgoing="ade"))
    for half in ("bc", "de"):
        solo = Solo(entries=[joint])
        solo.time_out()
        for voter in half:
            solo.step(PreVoteReply, voter, 2, True)
        assert solo.core.role is Role.PRE_CANDIDATE

    solo = Solo(entries=[joint])
    solo.time_out()
    for voter in "bd":
        solo.step(PreVoteReply, voter, 2, True)
    for voter in "bc":
        solo.step(VoteReply, voter, 2, True)
    assert solo.core.role is Role.CANDIDATE
    solo.step(VoteReply, "d", 2, True)
    assert solo.core.role is Role.LEADER
    solo.accept("b", "c")
    assert solo.core.commit_index == 1
    solo.accept("d")
    assert solo.core.commit_index == 2

    solo = leading(learners="de", quorum="bc")
    solo.accept("d", "e")
    solo.beat("b", "c", "d", "e")
    change(solo, "ade")
    assert placed(solo) == "voters ade, outgoing abc"
    solo.core.read(1, solo.now)
    number = only(solo.take(), Heartbeat)[-1].round
    for peer in "bc":
        solo.step(HeartbeatReply, peer, 2, number)
    assert solo.reads == []
    solo.step(HeartbeatReply, "e", 2, number)
    assert solo.reads == [(1, 2)]


def test_check_quorum_needs_both_halves() -> None:
    """M7."""
    for half, stays in (("bcd", True), ("bc", False), ("de", False)):
        solo = Solo(entries=[change_entry(1, 1, configuration("abc", outgoing="ade"))])
        solo.time_out()
        for voter in "bd":
            solo.step(PreVoteReply, voter, 2, True)
        for voter in "bd":
            solo.step(VoteReply, voter, 2, True)
        assert solo.core.role is Role.LEADER
        for _ in range(12):
            solo.beat(*half)
        assert (solo.core.role is Role.LEADER) is stays


def test_concurrent_changes_end_uniform() -> None:
    """M8: a joint configuration always leads to its own final one, whatever else was asked for meanwhile."""
    cluster = Cluster("abc", "")
    leader = cluster.elect("a")
    cluster.add("d")
    cluster.change("a", "abc", "d")
    cluster.run(0.5)
    cluster.change("a", "abd", "")
    with pytest.raises(ConfigurationRefused):
        cluster.change("a", "abc", "d")
    cluster.run(1)
    assert say_configuration(leader.committed_placed.configuration) == "voters abd, tombstones c"
    for name in "bd":
        assert cluster[name].committed_placed == leader.committed_placed


def test_auto_leave_retried_after_leader_change() -> None:
    """M9, rule 14: a new leader leaves the joint configuration; and so does one that was handing over meanwhile."""
    joint = configuration("abd", outgoing="abc")
    solo = Solo("b", entries=[change_entry(1, 1, configuration("abc", "d")), change_entry(2, 1, joint)])
    solo.lead("a", "d")
    assert placed(solo) == "voters abd, tombstones c"
    assert solo.core.placed.term == 2

    solo = leading(quorum="bc")
    solo.core.propose(b"x", solo.now)
    change(solo, "ab")
    solo.core.transfer(node_id("b"), solo.now)
    solo.accept("c", index=4)
    solo.accept("b", index=3)
    assert solo.core.transferring
    solo.accept("b", index=4)
    assert placed(solo) == "voters ab, outgoing abc", "not while leadership is handed over"
    for _ in range(11):
        solo.beat("b", "c")
    assert placed(solo) == "voters ab, tombstones c"


def test_removed_leader_steps_down_after_commit() -> None:
    """M10, rule 14: it leads until the final entry is committed, then tells the best voter and steps down."""
    solo = leading(quorum="bc")
    change(solo, "bc")
    solo.accept("b", "c")
    assert (placed(solo), solo.core.role) == ("voters bc, tombstones a", Role.LEADER)
    solo.accept("b", index=3)
    assert solo.core.role is Role.LEADER
    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("c")
    (message,) = only(solo.accept("b", index=4), TimeoutNow)
    assert message.to == node_id("c"), "the one that has most"
    assert solo.core.removed
    assert solo.core.role is Role.FOLLOWER
    solo.time_out()
    assert solo.core.role is Role.FOLLOWER, "removed for good"


def test_removed_leader_hands_over_at_once() -> None:
    """M10 in a cluster: writes go on within a fraction of an election timeout."""
    cluster = Cluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.change("a", "bc")
    cluster.run(0.2)
    leader = cluster.leader()
    assert leader is not None
    assert leader.node_id in (node_id("b"), node_id("c"))
    assert leader.noop_committed
    assert cluster["a"].removed


def test_removed_node_learns_removal() -> None:
    """M11: a dropped member is told that the configuration without it is committed, and then left alone."""
    cluster = Cluster("abc")
    leader = cluster.elect("a")
    cluster.run(0.3)
    cluster.change("a", "ab")
    cluster.run(0.3)
    assert cluster["c"].removed
    assert node_id("c") not in leader.peers
    term = leader.term
    cluster.run(10)
    assert leader.term == term

    solo = leading(quorum="b")
    change(solo, "ab")
    solo.accept("b")
    solo.accept("b")
    assert solo.core.peers[node_id("c")].leaving == solo.core.commit_index
    assert list(solo.core.participants()) == [node_id(name) for name in "abc"], "to tell it, a connection is kept"
    for _ in range(11):
        solo.beat("b")
    assert node_id("c") not in solo.core.peers, "one that does not answer is told for one election timeout"
    assert list(solo.core.participants()) == [node_id(name) for name in "ab"]


def test_new_leader_tells_those_the_old_one_dropped() -> None:
    """M11: the leader that appended the final entry is gone before anyone was told."""
    entries = [
        change_entry(1, 1, configuration("abc")),
        change_entry(2, 1, configuration("ab", outgoing="abc")),
        change_entry(3, 1, configuration("ab", tombstones="c")),
    ]
    solo = Solo(entries=entries)
    solo.lead("b")
    assert solo.core.peers[node_id("c")].leaving == 3


def test_removed_node_cannot_disrupt() -> None:
    """M12: one that missed its removal asks for votes for ever, and no one's term moves."""
    cluster = Cluster("abc")
    leader = cluster.elect("a")
    cluster.run(0.3)
    for one, other in (("a", "c"), ("c", "a")):
        cluster.cut.append((node_id(one), node_id(other)))
    cluster.change("a", "ab")
    cluster.run(1)
    term = leader.term
    cluster.cut.clear()
    cluster.run(10)
    assert not cluster["c"].removed, "no one told it"
    assert (cluster["c"].leader, cluster["c"].term) == ("", term)
    assert (leader.role, leader.term) == (Role.LEADER, term)


def test_removed_only_by_a_committed_tombstone() -> None:
    """Rule 10: neither absence nor an uncommitted tombstone removes."""
    solo = Solo("c")
    solo.step(Append, "a", 1, 1, 1, 1, (change_entry(2, 1, configuration("ab", tombstones="c")),))
    assert not solo.core.removed
    assert solo.append("a", 1, (2, 1), 1, 1)[0].accepted, "appends are not refused"
    solo.append("a", 1, (3, 1), 2)
    assert solo.core.removed
    assert solo.append("a", 1, (3, 1), 2, 1)[0].accepted
    assert solo.ask_vote("b", 9, 9, 9, transfer=True) is True

    absent = Solo("d", voters="abc")
    assert not absent.core.removed


def test_member_outside_an_uncommitted_configuration_may_campaign() -> None:
    """Thesis 4.2.2: it may be the only one that can win; once the configuration is committed, it may not."""
    cluster = Cluster("ab")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.change("a", "b")
    for _ in range(3):  # joint goes out, is acknowledged, and the final entry is appended
        held, cluster.network = cluster.network, []
        for message in held:
            if not any(e.index >= 4 for e in getattr(message, "entries", ())):
                cluster.deliver(message)
    assert (cluster["a"].last_index, cluster["b"].last_index) == (4, 3)
    for name in "ab":
        cluster.crash(node_id(name))
    for name in "ab":
        cluster.restart(node_id(name))
    cluster.run(6)
    assert cluster["b"].role is Role.LEADER
    assert say_configuration(cluster["b"].committed_placed.configuration) == "voters b, tombstones a"


# -- promotion ---------------------------------------------------------------------------------------------------------


def test_learners_are_promoted_together() -> None:
    """Rule 13: when every one of them is caught up, in one joint change, never through an even size."""
    solo = leading("a", quorum="")
    change(solo, "a", "", "bc")
    assert placed(solo) == "voters a, learners b*c*"
    solo.beat("b", "c")
    solo.accept("b")
    solo.beat("b", "c")
    assert placed(solo) == "voters a, learners b*c*"
    solo.accept("c")
    solo.beat("b", "c")
    assert placed(solo) == "voters abc, outgoing a"
    solo.accept("b")
    assert placed(solo) == "voters abc"


def test_promotion_survives_a_change_of_leader() -> None:
    """Rule 13: the intent is in the log, whichever leader sees it acts on it; plain learners stay."""
    cluster = Cluster("abc")
    cluster.elect("a")
    for name in "def":
        cluster.add(name)
    cluster.nodes[node_id("d")].up = False
    cluster.run(0.3)
    cluster.change("a", "abc", "f", "de")
    cluster.run(1)
    assert "learners fd*e*" in say_configuration(cluster["a"].placed.configuration)
    cluster.crash(node_id("a"))
    cluster.run(4)
    cluster.restart(node_id("d"))
    cluster.run(2)
    leader = cluster.leader()
    assert leader is not None
    assert leader.node_id != node_id("a")
    assert say_configuration(leader.committed_placed.configuration) == "voters abcde, learners f"
    kinds = [entry for entry in leader.entries(1, leader.last_index) if entry.kind == EntryKind.CONFIGURATION]
    assert len(kinds) == 4, "first, learners, joint, final"


def test_cluster_goes_from_three_to_five_to_one_to_three() -> None:
    cluster = Cluster("abc")
    cluster.elect("a")
    cluster.add("d")
    cluster.add("e")
    for voters, learners, promote in (("abc", "", "de"), ("e", "", ""), ("e", "", "fg")):
        for name in promote:
            if node_id(name) not in cluster.nodes:
                cluster.add(name)
        leader = cluster.leader()
        assert leader is not None
        cluster.run(0.5)
        cluster.change(leader.node_id, voters, learners, promote)
        cluster.run(4)
    leader = cluster.leader()
    assert leader is not None
    assert leader.node_id == node_id("e")
    assert say_configuration(leader.committed_placed.configuration) == "voters efg, tombstones abcd"
