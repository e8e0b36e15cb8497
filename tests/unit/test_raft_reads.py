"""Linearizable reads: pitfalls R1 to R3, R5 and R11 (thesis 6.4), and rules 9 and 14."""

from __future__ import annotations

import pytest
from tests.raft_cluster import Cluster, configuration, node_id
from tests.raft_solo import Solo, only

from oarlock.raft.errors import Busy, NotLeader
from oarlock.raft.messages import (
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    VoteReply,
)
from oarlock.raft.reads import MAX_WAITING_READS
from oarlock.raft.state import Role


def number_of(messages: list) -> int:
    return only(messages, Heartbeat)[-1].round


def answer(solo: Solo, peer: str, number: int) -> list:
    return solo.step(HeartbeatReply, peer, solo.core.term, number)


def test_read_index_waits_for_term_commit() -> None:
    """R1, rule 9: before its own no-op is committed a leader does not know what is."""
    solo = Solo(voters="abc", terms=[1, 1])
    solo.time_out()
    solo.step(PreVoteReply, "b", 2, True)
    solo.step(VoteReply, "b", 2, True)
    assert solo.core.role is Role.LEADER
    solo.core.read(1, solo.now)
    solo.step(ReadIndex, "c", 2, 8)
    out = solo.beat("b", "c")
    assert (solo.reads, only(out, ReadIndexReply)) == ([], [])
    out = solo.accept("b")
    assert solo.reads == [], "and the round begins only then"
    out += answer(solo, "b", number_of(out))
    assert solo.reads == [(1, 4)]
    assert [(m.context, m.index) for m in only(out, ReadIndexReply)] == [(8, 4)]


def test_singleton_read_index() -> None:
    """R11, rule 9: one voter alone waits for its no-op too, and then answers at once."""
    solo = Solo(voters="a", terms=[1])
    solo.core.tick(solo.core.deadline)
    solo.pull()
    solo.persist()
    assert solo.core.role is Role.LEADER
    solo.core.read(1, solo.now)
    solo.pull()
    assert solo.reads == []
    solo.take()
    assert solo.reads == [(1, 3)]
    solo.core.read(2, solo.now)
    solo.take()
    assert solo.reads == [(1, 3), (2, 3)]


def test_read_joins_the_next_round() -> None:
    """Rule 9: acknowledgements of heartbeats that were sent before it arrived do not count for it."""
    solo = Solo()
    solo.lead("b")
    early = number_of(solo.tick(0.1))
    solo.core.read(1, solo.now)
    first = number_of(solo.take())
    assert first > early
    solo.core.read(2, solo.now)
    assert only(solo.take(), Heartbeat) == [], "one round in flight, one forming"
    answer(solo, "b", early)
    assert solo.reads == []
    solo.core.propose(b"x", solo.now)
    solo.take()
    solo.accept("b")
    second = number_of(answer(solo, "b", first))
    assert solo.reads == [(1, 2)], "the commit index of when its round started"
    assert second > first
    answer(solo, "b", first)
    assert solo.reads == [(1, 2)]
    answer(solo, "b", second)
    assert solo.reads == [(1, 2), (2, 3)]


def test_read_retry_uses_new_context() -> None:
    """R2, rule 9: a repeat has a number of its own, and confirms the round like the first."""
    solo = Solo()
    solo.lead("b")
    solo.core.read(1, solo.now)
    numbers = [number_of(solo.take())]
    for _ in range(3):
        numbers.append(number_of(solo.tick(0.1)))
    assert numbers == sorted(set(numbers))
    answer(solo, "c", numbers[2])
    assert solo.reads == [(1, 2)]


def test_read_index_quorum_changes() -> None:
    """R3, rule 14: the voters in force decide; learners do not count, nor a leader that is not one of them."""
    solo = Solo(voters="abcd", learners="e")
    solo.lead("b", "c")
    solo.beat("b", "c", "d", "e")
    solo.core.read(1, solo.now)
    number = number_of(solo.take())
    answer(solo, "b", number)
    answer(solo, "e", number)
    assert solo.reads == []
    answer(solo, "c", number)
    assert solo.reads == [(1, 2)]

    solo = Solo(voters="abc")
    solo.lead("b", "c")
    solo.beat("b", "c")
    solo.core.change_configuration(configuration("bc").voters, (), "1.1", solo.now)
    solo.take()
    solo.accept("b", "c")
    assert solo.core.placed.configuration == configuration("bc", tombstones="a")
    solo.core.read(1, solo.now)
    number = number_of(solo.take())
    answer(solo, "b", number)
    assert solo.reads == [], "itself and b are one of two"
    answer(solo, "c", number)
    assert solo.reads == [(1, 3)]


def test_pending_reads_failed_on_stepdown() -> None:
    """R5: those in flight and those forming, its own and those of followers."""
    solo = Solo()
    solo.lead("b")
    solo.core.read(1, solo.now)
    solo.step(ReadIndex, "c", 2, 5)
    solo.core.read(2, solo.now)
    out = solo.step(Heartbeat, "b", 9, 1, 1)
    assert solo.reads == [(1, -1), (2, -1)]
    assert [(m.to, m.term, m.context, m.index) for m in only(out, ReadIndexReply)] == [(node_id("c"), 9, 5, -1)]


def test_follower_reads_through_its_leader() -> None:
    """Thesis 6.4: the follower's question joins a round of the leader's."""
    cluster = Cluster("abc")
    cluster.elect("a")
    index, _ = cluster.propose("a")
    cluster.settle()
    cluster.read("b", 7)
    cluster.settle()
    assert cluster.answered == {(node_id("b"), 7): index}


def test_followers_reads_fail_with_their_leader() -> None:
    """R5: on a change of leader, on losing it, and when no answer comes within an election timeout."""
    for end in ("another leader", "no leader", "silence"):
        solo = Solo()
        solo.step(Heartbeat, "b", 1, 1, 1)
        solo.core.read(1, solo.now)
        (question,) = only(solo.take(), ReadIndex)
        assert question.to == node_id("b")
        if end == "another leader":
            solo.step(Heartbeat, "c", 2, 1, 1)
        elif end == "no leader":
            solo.time_out()
        else:
            for _ in range(11):
                solo.step(Heartbeat, "b", 1, 1, 1)
                solo.tick(0.1)
        assert solo.reads == [(1, -1)]
        solo.step(ReadIndexReply, "b", solo.core.term, 1, 1)
        assert solo.reads == [(1, -1)], "once"


def test_read_without_a_leader_is_refused() -> None:
    with pytest.raises(NotLeader):
        Solo().core.read(1, 0.0)
    (reply,) = Solo().step(ReadIndex, "b", 1, 3)
    assert (reply.context, reply.index) == (3, -1)
    (reply,) = Solo(term=4).step(ReadIndex, "b", 1, 3)
    assert (reply.term, reply.index) == (4, -1)


def test_refusal_by_the_leader_is_passed_on() -> None:
    solo = Solo()
    solo.step(Heartbeat, "b", 1, 1, 1)
    solo.core.read(1, solo.now)
    solo.step(ReadIndexReply, "c", 1, 1, 9)
    assert solo.reads == [], "only the leader's word counts"
    solo.step(ReadIndexReply, "b", 1, 1, -1)
    assert solo.reads == [(1, -1)]


def test_waiting_reads_are_bounded() -> None:
    """Rule 33: on the leader, its own and others'; and on a follower."""
    solo = Solo()
    solo.lead("b")
    for context in range(MAX_WAITING_READS + 1):
        solo.core.read(context, solo.now)
    with pytest.raises(Busy):
        solo.core.read(-1, solo.now)
    out = solo.step(ReadIndex, "c", 2, 5)
    assert [message.index for message in only(out, ReadIndexReply)] == [-1]
    follower = Solo()
    follower.step(Heartbeat, "b", 1, 1, 1)
    for context in range(MAX_WAITING_READS):
        follower.core.read(context, follower.now)
    with pytest.raises(Busy):
        follower.core.read(-1, follower.now)


def test_deposed_leader_never_answers() -> None:
    """The stale read of a leader that does not know yet: its heartbeats are not echoed in its term any more."""
    cluster = Cluster("abc")
    cluster.elect("a")
    for other in "bc":
        cluster.cut += [(node_id("a"), node_id(other)), (node_id(other), node_id("a"))]
    cluster.read("a", 1)
    cluster.settle()
    cluster.nodes[node_id("a")].up = False  # asleep
    cluster.run(5)
    leader = cluster.leader()
    assert leader is not None
    cluster.propose(leader.node_id)
    cluster.run(0.2)
    cluster.nodes[node_id("a")].up = True
    cluster.cut.clear()
    cluster.run(1)
    assert cluster.answered[node_id("a"), 1] == -1


def test_append_replies_do_not_confirm_reads() -> None:
    """Only an echoed round does: an acknowledged append may have been sent before the read arrived."""
    solo = Solo()
    solo.lead("b")
    solo.core.read(1, solo.now)
    solo.take()
    solo.step(AppendReply, "b", 2, True, 2, 0, 0)
    solo.step(AppendReply, "c", 2, True, 2, 0, 0)
    assert solo.reads == []
