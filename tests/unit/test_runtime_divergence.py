"""Rule 26: states are compared at equal indices; who is judged, by whom, and who never is."""

from __future__ import annotations

import pytest
from tests.member_cluster import Cluster
from tests.raft_cluster import node_id

from oarlock.peers.messages import Diverged, Report
from oarlock.raft.types import Configuration, Member
from oarlock.runtime.divergence import (
    CHECKPOINT_ENTRIES,
    CHECKPOINTS_KEPT,
    CHECKPOINTS_TOLD,
    STATES_TAKEN,
    Finding,
    Odd,
    StateDiverged,
    States,
    compare,
    job_length,
    states_of,
)

A, B, C, D, E = map(node_id, "abcde")


def configuration(voters: str, learners: str = "", outgoing: str = "") -> Configuration:
    def members(names: str) -> tuple[Member, ...]:
        return tuple(Member(node_id(n), f"http://{n}:2380", f"http://{n}:2379") for n in names)

    return Configuration(voters=members(voters), learners=members(learners), outgoing=members(outgoing))


def states(**at: str) -> States:
    """`i5="x"`: the hash at index 5."""
    made = States()
    for name, state_hash in at.items():
        made.note(int(name[1:]), state_hash)
    return made


def test_jobs_end_at_checkpoints() -> None:
    assert job_length(1) == CHECKPOINT_ENTRIES
    assert job_length(CHECKPOINT_ENTRIES) == 1
    assert job_length(CHECKPOINT_ENTRIES + 1) == CHECKPOINT_ENTRIES
    for first in range(1, 3 * CHECKPOINT_ENTRIES):
        assert (first + job_length(first) - 1) % CHECKPOINT_ENTRIES == 0
        assert 1 <= job_length(first) <= CHECKPOINT_ENTRIES


def test_what_a_member_remembers_and_tells_is_bounded() -> None:
    """Rule 33."""
    own = States()
    assert own.told() == ()
    last = 500 * CHECKPOINT_ENTRIES
    for index in range(1, last + 8):
        own.note(index, f"h{index}")
    assert own.at(last + 7) == f"h{last + 7}"
    assert own.at(last) == f"h{last}"
    assert own.at(last + 6) is None  # neither a checkpoint nor now
    known = [i for i in range(last + 8) if own.at(i)]
    assert len(known) == CHECKPOINTS_KEPT + 1
    assert len(own.told()) == CHECKPOINTS_TOLD + 1
    assert own.told()[-1] == (last + 7, f"h{last + 7}")
    assert len(states_of([(i, "x") for i in range(100_000)])) == STATES_TAKEN


def test_equal_states_and_states_that_cannot_be_compared_say_nothing() -> None:
    own = states(i256="x", i300="y")
    three = configuration("abc")
    assert compare(A, own, {}, three) == Finding()
    assert compare(A, own, {B: {256: "x", 300: "y"}, C: {256: "x"}}, three) == Finding()
    assert compare(A, own, {B: {299: "z"}, C: {512: "z"}}, three) == Finding()  # where the leader knows none
    assert compare(A, own, {D: {256: "z"}}, three) == Finding()  # of no member


def test_the_odd_one_out_is_who_a_majority_contradicts() -> None:
    own = states(i256="x")
    three = configuration("abc")
    found = compare(A, own, {B: {256: "x"}, C: {256: "z"}}, three)
    assert found == Finding(frozenset({C}), {C: Odd(256, "x")})
    found = compare(A, own, {B: {256: "z"}, C: {256: "z"}}, three)
    assert found == Finding(frozenset({B, C}), {A: Odd(256, "z")})  # the leader itself
    found = compare(A, own, {B: {256: "x"}, C: {256: "x"}, D: {256: "z"}}, configuration("abc", "d"))
    assert found.odd == {D: Odd(256, "x")}  # a learner
    found = compare(A, own, {B: {256: "x"}, C: {256: "x"}, D: {256: "z"}, E: {256: "w"}}, configuration("abcde"))
    assert found.odd == {D: Odd(256, "x"), E: Odd(256, "x")}


@pytest.mark.parametrize(
    ("voters", "learners", "outgoing", "heard"),
    [
        ("ab", "", "", {B: {256: "z"}}),  # one against one
        ("abc", "", "", {C: {256: "z"}}),  # b has not been heard
        ("abc", "", "", {B: {256: "w"}, C: {256: "z"}}),  # three opinions
        ("ab", "cd", "", {B: {256: "z"}, C: {256: "z"}, D: {256: "z"}}),  # learners are no majority
        ("abcde", "", "", {B: {256: "x"}, C: {256: "z"}, D: {256: "z"}}),
        ("abc", "", "a", {B: {256: "x"}, C: {256: "z"}}),  # joint
    ],
)
def test_without_a_majority_there_is_an_alarm_and_nobody_is_judged(
    voters: str, learners: str, outgoing: str, heard: dict[str, dict[int, str]]
) -> None:
    found = compare(A, states(i256="x"), heard, configuration(voters, learners, outgoing))
    assert found.differing
    assert found.odd == {}


# -- the member ----------------------------------------------------------------------------------------------------


def at_rest() -> tuple[Cluster, str, list[str]]:
    cluster = Cluster("abc")
    leader = cluster.elect()
    cluster.submit(leader, b"one")
    cluster.settle()
    return cluster, leader, [n for n in "abc" if n != leader]


def note(cluster: Cluster, name: str, state_hash: str) -> None:
    """What the engine does after each job."""
    cluster[name].states.note(cluster[name].applied_index, state_hash)


def test_a_member_that_a_majority_contradicts_is_told_and_stops() -> None:
    cluster, leader, (right, odd) = at_rest()
    for name, state_hash in ((leader, "x"), (right, "x"), (odd, "z")):
        note(cluster, name, state_hash)
    with pytest.raises(StateDiverged, match="majority of the voters") as caught:
        cluster.run(3.0)
    assert "hash z, theirs x" in str(caught.value)
    assert cluster[leader].finding.odd.keys() == {node_id(odd)}
    told = [m for m in cluster.sent if isinstance(m, Diverged)]
    assert {m.to for m in told} == {node_id(odd)}


def test_a_leader_that_a_majority_contradicts_stops() -> None:
    cluster, leader, others = at_rest()
    note(cluster, leader, "z")
    for name in others:
        note(cluster, name, "x")
    with pytest.raises(StateDiverged, match="hash z, theirs x"):
        cluster.run(3.0)
    assert not [m for m in cluster.sent if isinstance(m, Diverged)]


def test_only_the_leader_of_this_term_is_believed_and_only_about_what_was_had() -> None:
    cluster, leader, (one, other) = at_rest()
    member = cluster[one]
    note(cluster, one, "x")
    term, index = member.core.term, member.applied_index
    for message in (
        Diverged(node_id(other), node_id(one), term, index, "z"),  # leads nothing
        Diverged(node_id(leader), node_id(one), term - 1, index, "z"),  # once
        Diverged(node_id(leader), node_id(one), term, index - 1, "z"),  # no state of that index is known here
        Diverged(node_id(leader), node_id(one), term, index, "x"),  # the same
    ):
        member.receive(message, cluster.now)
    with pytest.raises(StateDiverged):
        member.receive(Diverged(node_id(leader), node_id(one), term, index, "z"), cluster.now)


def test_a_report_of_an_older_member_says_nothing_of_states() -> None:
    cluster, leader, (one, _) = at_rest()
    note(cluster, leader, "x")
    cluster[leader].receive(Report(node_id(one), node_id(leader), False), cluster.now)
    assert cluster[leader].finding == Finding()
