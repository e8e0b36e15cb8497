"""Linearizable reads on their way through a member (rules 9, 10, 33)."""

from __future__ import annotations

import pytest
from tests.member_cluster import Cluster
from tests.raft_cluster import node_id

from oarlock.raft.messages import ReadIndex, ReadIndexReply
from oarlock.raft.state import Role
from oarlock.runtime.errors import Refused
from oarlock.runtime.turn import Limits


def others(cluster: Cluster, name: str) -> str:
    return "".join(id[0] for id in cluster.sites if id[0] != name)


def test_read_waits_for_apply() -> None:
    """R4: the index is confirmed at once; the answer waits until the machine of this member has reached it."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.site(name).apply_waits = True
    cluster.submit(leader, b"x")
    cluster.run(0.5)
    revision = cluster.results[b"x"].revision
    cluster.read(name, b"read")
    cluster.run(5.0)
    assert not cluster.readable
    cluster.heal()
    cluster.run(0.1)
    assert cluster.readable[b"read"] >= revision


def test_reads_of_a_turn_share_one_question() -> None:
    """Rule 9: however many clients ask, the leader is asked once."""
    cluster = Cluster("abc")
    name = cluster.follower(cluster.elect())
    for number in range(100):
        cluster[name].read(b"%d" % number, cluster.now)
    cluster._turns()
    cluster.run(0.5)
    assert len(cluster.readable) == 100
    assert sum(isinstance(m, ReadIndex) for m in cluster.sent) == 1


def test_read_retry_uses_new_context() -> None:
    """R2: a question whose answer was lost is asked again, under another number; the late answer is nobody's."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    late: list[ReadIndexReply] = []

    def hold(message: object) -> bool:
        if isinstance(message, ReadIndexReply):
            late.append(message)
        return isinstance(message, ReadIndexReply)

    cluster.eat = hold
    cluster.read(name, b"read")
    cluster.run(1.2)
    contexts = [m.context for m in cluster.sent if isinstance(m, ReadIndex)]
    assert len(contexts) >= 2
    assert len(set(contexts)) == len(contexts)
    cluster.submit(leader, b"newer")
    cluster.run(0.2)
    cluster[name].receive(late[0], cluster.now)
    cluster._turns()
    assert not cluster.readable
    cluster.heal()
    cluster.run(1.5)
    assert cluster.readable[b"read"] >= cluster.results[b"newer"].revision


def test_an_answer_to_an_earlier_process_is_nobodys_index() -> None:
    """Rule 9: a member asks, crashes, comes back and asks again. The old answer has an older index: with the same
    number it would be taken for the new question's, and the read would miss what was written between."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster.eat = lambda m: isinstance(m, ReadIndexReply)
    cluster.read(name, b"before")
    cluster.run(0.01)
    (old,) = [m for m in cluster.sent if isinstance(m, ReadIndexReply)]
    cluster.kill(name)
    cluster.restart(name)
    cluster.until(lambda: cluster[name].core.leader == node_id(leader))
    cluster.submit(leader, b"x")
    cluster.run(0.2)
    cluster.read(name, b"after")
    cluster[name].receive(old, cluster.now)
    cluster._turns()
    assert not cluster.readable
    cluster.heal()
    cluster.run(1.5)
    assert cluster.readable[b"after"] >= cluster.results[b"x"].revision


def test_pending_reads_failed_on_stepdown() -> None:
    """R5: a leader that lost its quorum answers nothing; whoever leads next is asked, and a read is safe to repeat."""
    cluster = Cluster("abc")
    old = cluster.elect()
    cluster.split(old, others(cluster, old))
    cluster.read(old, b"read")
    cluster.run(0.5)
    new = cluster.elect(others(cluster, old))
    cluster.submit(new, b"x")
    cluster.run(0.3)
    assert b"read" not in cluster.readable
    cluster.heal()
    cluster.run(3.0)
    if b"read" in cluster.readable:
        assert cluster.readable[b"read"] >= cluster.results[b"x"].revision
    else:
        assert cluster.refusals[b"read"].code == "no_leader"
    assert not cluster[old]._reads


def test_a_read_without_a_leader_is_refused_in_time() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.split(*"abc")
    cluster.until(lambda: cluster[leader].core.leader == "")
    cluster.read(leader, b"read")
    cluster.run(2.5)
    assert not cluster.refusals
    cluster.run(1.0)
    assert (cluster.refusals[b"read"].code, cluster.refusals[b"read"].outcome) == ("no_leader", "not_applied")
    assert not cluster[leader]._reads


def test_a_read_whose_leader_never_answers_is_refused_in_time() -> None:
    """F4, rule 33: heartbeats come in, nothing goes out. Such reads must not pile up until the bound refuses all."""
    cluster = Cluster("abc", limits=Limits(undecided_seconds=5.0))
    name = cluster.follower(cluster.elect())
    cluster.eat = lambda m: isinstance(m, ReadIndex)
    cluster.read(name, b"read")
    cluster.run(4.0)
    assert not cluster.refusals
    cluster.run(3.0)
    assert cluster.refusals[b"read"].code == "no_leader"
    assert not cluster[name]._reads


def test_a_leader_that_refuses_a_read_is_not_asked_in_a_loop() -> None:
    """A former leader that has heard of no other says no at once. Asking it again at once would spin both."""
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)

    def refuse(message: object) -> bool:
        if isinstance(message, ReadIndex):
            no = ReadIndexReply(message.to, message.sender, message.term, message.context, -1)
            cluster[name].receive(no, cluster.now)
            return True
        return False

    cluster.eat = refuse
    cluster.read(name, b"read")
    cluster.run(1.0)
    assert 2 <= sum(isinstance(m, ReadIndex) for m in cluster.sent) <= 10
    cluster.heal()
    cluster.run(1.0)
    assert b"read" in cluster.readable


def test_a_core_that_can_take_no_more_questions_makes_nobody_spin() -> None:
    """Rule 33: the core bounds the contexts that wait; `has_work` must not promise a turn that could do nothing."""
    cluster = Cluster("abc")
    name = cluster.follower(cluster.elect())
    cluster.eat = lambda m: isinstance(m, ReadIndex)
    member = cluster[name]
    for number in range(5000):
        member.read(b"%d" % number, cluster.now)
        member.turn(cluster.now, 0)
    assert not member.has_work()
    cluster.heal()
    cluster.run(3.0)
    assert len(cluster.readable) == 5000


def test_waiting_reads_are_bounded() -> None:
    """Rule 33."""
    cluster = Cluster("abc", limits=Limits(waiting_reads=10))
    leader = cluster.elect()
    cluster.split(*"abc")
    for number in range(10):
        cluster.read(leader, b"%d" % number)
    with pytest.raises(Refused) as refusal:
        cluster.read(leader, b"too many")
    assert (refusal.value.code, refusal.value.status) == ("overloaded", 429)
    assert cluster[leader].waiting_reads == 10
    cluster.heal()
    cluster.run(5.0)
    assert len(cluster.readable) + len(cluster.refusals) == 10
    assert cluster[leader].waiting_reads == 0
    cluster.read(leader, b"room again")


def test_reads_go_on_while_leadership_is_handed_over() -> None:
    cluster = Cluster("abc")
    leader = cluster.elect()
    name = cluster.follower(leader)
    cluster[leader].core.transfer(node_id(name), cluster.now)
    cluster.read(leader, b"read")
    cluster.run(1.0)
    assert b"read" in cluster.readable


def test_read_index_waits_for_term_commit() -> None:
    """R1: with one voter too, nothing is answered before the leader's own no-op is committed."""
    cluster = Cluster("a")
    cluster.until(lambda: cluster["a"].core.role is Role.CANDIDATE)
    cluster.until(lambda: cluster.leads("a"))
    cluster.site("a").disk_hangs = True
    cluster.read("a", b"read")
    cluster.run(0.3)
    assert not cluster.readable
    cluster.heal()
    cluster.run(0.3)
    assert b"read" in cluster.readable
