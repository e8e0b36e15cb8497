"""Rule 26: states are compared at equal indices; who is judged, by whom, and who never is."""

from __future__ import annotations

import pytest
from tests.member_cluster import Cluster
from tests.raft_cluster import node_id

from oarlock.peers.messages import Diverged, Report
from oarlock.raft.types import Configuration, Member, PlacedConfiguration, SnapshotMeta
from oarlock.runtime.divergence import (
    CHECKPOINT_ENTRIES,
    CHECKPOINTS_KEPT,
    CHECKPOINTS_TOLD,
    RECENT_KEPT,
    RECENT_TOLD,
    STATES_TAKEN,
    WITNESS_SECONDS,
    Finding,
    Odd,
    StateDiverged,
    States,
    compare,
    heard,
    job_length,
)

A, B, C, D, E = map(node_id, "abcde")


def configuration(voters: str, learners: str = "", outgoing: str = "") -> Configuration:
    def members(names: str) -> tuple[Member, ...]:
        return tuple(Member(node_id(n), f"http://{n}:2380", f"http://{n}:2379") for n in names)

    return Configuration(voters=members(voters), learners=members(learners), outgoing=members(outgoing))


def states(*, since: int = 0, **at: str) -> States:
    """`i5="x"`: the hash at index 5. `since`: the state that this member began with."""
    made = States(since)
    for name, state_hash in at.items():
        made.note(int(name[1:]), state_hash)
    return made


def found(
    own: States,
    reports: dict[str, States],
    members: Configuration,
    present: str = "bcde",
    before: dict[str, int] | None = None,
) -> Finding:
    return compare(A, own, reports, set(map(node_id, present)), members, before or {})


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
    assert own.since == 1
    assert own.at(last + 7) == f"h{last + 7}"
    assert own.at(last) == f"h{last}"
    assert own.at(last - CHECKPOINT_ENTRIES + 1) is None  # neither a checkpoint nor one of the last
    assert len(own.known) == CHECKPOINTS_KEPT + RECENT_KEPT
    assert len(own.told()) == CHECKPOINTS_TOLD + RECENT_TOLD <= STATES_TAKEN
    assert own.told()[-1] == (last + 7, f"h{last + 7}")
    assert len(heard(None, 0, [(i, "x") for i in range(100_000)]).known) == STATES_TAKEN


def test_what_a_peer_told_before_it_began_anew_is_forgotten() -> None:
    first = heard(None, 0, [(256, "x"), (300, "y")])
    more = heard(first, 0, [(256, "x"), (301, "z")])
    assert more.known == {256: "x", 300: "y", 301: "z"}
    assert heard(more, 0, [(301, "another")]).known == {301: "another"}  # another life, that began at the same place
    assert heard(more, 302, [(302, "w")]).known == {302: "w"}  # a snapshot took the place of the state that told this


def test_equal_states_and_states_that_cannot_be_compared_say_nothing() -> None:
    own = states(i256="x", i300="y")
    three = configuration("abc")
    assert found(own, {}, three) == Finding()
    assert found(own, {B: states(i256="x", i300="y"), C: states(i256="x")}, three) == Finding()
    assert found(own, {B: states(i299="z"), C: states(i512="z")}, three) == Finding()  # where the leader knows none
    assert found(own, {D: states(i256="z")}, three) == Finding()  # of no member


def test_the_odd_one_out_is_who_a_majority_contradicts() -> None:
    own, x, z = states(i256="x"), states(i256="x"), states(i256="z")
    three = configuration("abc")
    assert found(own, {B: x, C: z}, three) == Finding({C: 256}, {C: Odd(256, "x")})
    assert found(own, {B: z, C: z}, three) == Finding({B: 256, C: 256}, {A: Odd(256, "z")})  # the leader itself
    assert found(own, {B: x, C: x, D: z}, configuration("abc", "d")).odd == {D: Odd(256, "x")}  # a learner
    five = configuration("abcde")
    assert found(own, {B: x, C: x, D: z, E: states(i256="w")}, five).odd == {D: Odd(256, "x"), E: Odd(256, "x")}


def test_it_is_told_at_a_checkpoint_where_that_is_known() -> None:
    own, x = states(i256="x", i300="x"), states(i256="x", i300="x")
    assert found(own, {B: x, C: states(i256="z", i300="z")}, configuration("abc")).odd == {C: Odd(256, "x")}
    assert found(own, {B: x, C: states(i256="x", i300="z")}, configuration("abc")).odd == {C: Odd(300, "x")}


def test_an_alarm_ends_when_the_last_states_known_are_alike() -> None:
    own = states(i256="x", i300="y", i512="z")
    two = configuration("ab")
    assert found(own, {B: states(i256="x", i300="w")}, two).differing == {B: 300}
    assert found(own, {B: states(i256="x", i300="w", i512="z")}, two).differing == {}


def test_an_alarm_does_not_end_because_nothing_can_be_compared_any_more() -> None:
    """Who is away while the others write on, beyond what is kept."""
    own, two = states(i512="z"), configuration("ab")
    assert found(own, {B: states(i256="w")}, two).differing == {}
    assert found(own, {B: states(i256="w")}, two, before={B: 256}).differing == {B: 256}
    assert found(own, {B: states(i256="w")}, configuration("ac"), before={B: 256}).differing == {}  # no member
    assert found(own, {B: states(since=400, i400="v")}, two, before={B: 256}).differing == {}  # it began anew
    assert found(own, {B: states(i256="w", i512="z")}, two, before={B: 256}).differing == {}


@pytest.mark.parametrize(
    ("voters", "learners", "outgoing", "reports"),
    [
        ("ab", "", "", {B: states(i256="z")}),  # one against one
        ("a", "b", "", {B: states(i256="z")}),  # a majority of one is nobody but itself
        ("a", "bc", "", {B: states(i256="z"), C: states(i256="z")}),
        ("abc", "", "", {C: states(i256="z")}),  # b has not been heard
        ("abc", "", "", {B: states(i256="w"), C: states(i256="z")}),  # three opinions
        ("ab", "cd", "", {B: states(i256="z"), C: states(i256="z"), D: states(i256="z")}),  # learners are no majority
        ("abcde", "", "", {B: states(i256="x"), C: states(i256="z"), D: states(i256="z")}),
        ("abc", "", "a", {B: states(i256="x"), C: states(i256="z")}),  # joint
    ],
)
def test_without_a_majority_there_is_an_alarm_and_nobody_is_judged(
    voters: str, learners: str, outgoing: str, reports: dict[str, States]
) -> None:
    finding = found(states(i256="x"), reports, configuration(voters, learners, outgoing))
    assert finding.differing
    assert finding.odd == {}


@pytest.mark.parametrize("copied_from_leader", [True, False])
def test_a_copied_state_is_no_second_opinion(copied_from_leader: bool) -> None:
    """The leader's state is wrong, or another's; whoever installed a snapshot of it has no word against who did not."""
    three = configuration("abc")
    wrong = states(since=500, i500="z", i512="z")  # it installed a snapshot at 500, and applied the log since
    if copied_from_leader:
        finding = found(states(i256="x", i512="z"), {B: states(i256="x", i512="y"), C: wrong}, three)
        assert finding == Finding({B: 512}, {})
    else:
        finding = found(states(i256="x", i512="y"), {B: states(i256="x", i512="z"), C: wrong}, three)
        assert finding == Finding({B: 512, C: 512}, {})


def test_who_was_of_one_mind_with_it_since_sees_it_go_astray() -> None:
    """The same after a snapshot that was right: it has a state of its own again once both have told the same."""
    copied = states(since=500, i500="x", i512="x", i768="x")
    own, astray = states(i512="x", i768="x"), states(i512="x", i768="z")
    assert found(own, {B: copied, C: astray}, configuration("abc")).odd == {C: Odd(768, "x")}
    later = states(since=600, i600="x", i768="x")  # no index where it was alike: c may have been wrong before
    assert found(own, {B: later, C: astray}, configuration("abc")).odd == {}
    assert found(own, {B: later, C: astray}, configuration("abc")).differing == {C: 768}


def test_nobody_is_judged_by_those_who_may_be_gone() -> None:
    """Without the odd one those who judge it must be a quorum."""
    own, x, z = states(i256="x"), states(i256="x"), states(i256="z")
    assert found(own, {B: x, C: z}, configuration("abc"), present="c") == Finding({C: 256}, {})
    assert found(own, {B: x, C: z}, configuration("abc"), present="b").odd.keys() == {C}


# -- the member ----------------------------------------------------------------------------------------------------


def at_rest() -> tuple[Cluster, str, list[str]]:
    cluster = Cluster("abc")
    for name in "abc":
        cluster[name].states.note(0, "empty")
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


def test_a_member_begins_anew_with_the_snapshot_that_it_installs() -> None:
    cluster, leader, (one, _) = at_rest()
    member = cluster[one]
    note(cluster, one, "x")
    meta = SnapshotMeta(member.applied_index, 1, 0, PlacedConfiguration(0, 0, Configuration()), 1, 1, "d")
    member.installed(meta)
    member.states.note(meta.index, "y")
    cluster.sent.clear()
    cluster.run(1.5)
    report = next(m for m in reversed(cluster.sent) if isinstance(m, Report) and m.sender == node_id(one))
    assert (report.since, report.states) == (meta.index, ((meta.index, "y"),))
    assert cluster[leader].finding == Finding()


def test_a_voter_that_is_long_silent_does_not_judge() -> None:
    cluster, leader, (silent, odd) = at_rest()
    member, now = cluster[leader], cluster.now
    note(cluster, leader, "x")
    index = member.applied_index

    def tell(name: str, state_hash: str, at: float) -> None:
        member.receive(Report(node_id(name), node_id(leader), False, ((index, state_hash),), 0), at)

    tell(silent, "x", now)
    tell(odd, "z", now + WITNESS_SECONDS + 1)
    assert member.finding == Finding({node_id(odd): index}, {})
    tell(silent, "x", now + WITNESS_SECONDS + 1)
    assert member.finding.odd.keys() == {node_id(odd)}


def test_what_was_found_is_of_one_term_and_of_members() -> None:
    cluster, leader, (one, _) = at_rest()
    member = cluster[leader]
    note(cluster, leader, "x")
    report = Report(node_id(one), node_id(leader), False, ((member.applied_index, "z"),), 0)
    member.receive(report, cluster.now)
    assert member.finding.differing.keys() == {node_id(one)}
    member._found = (member.core.term - 1, member._found[1])  # of when it led before
    assert member.finding == Finding()


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
