"""Every invariant can fail: each test plants one wrong, and its check must fire."""

from __future__ import annotations

import pytest
from tests.raft_cluster import Cluster, configuration, node_id
from tests.raft_solo import Solo, command, snapshot_meta

from oarlock.raft.errors import InvariantViolated
from oarlock.raft.invariants import Witness, check_basic, check_delta, glimpse
from oarlock.raft.quorum import halves
from oarlock.raft.state import Role


def leading() -> Solo:
    solo = Solo()
    solo.lead("b")
    check_basic(solo.core)
    return solo


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("handed_out", 9, "handed out <= commit"),
        ("commit", 9, "commit <= last"),
        ("applied", 9, "applied <= handed out"),
        ("removed", True, "removed by a committed tombstone"),
        ("halves", (("x",),), "halves are those in force"),
        ("leader", "x", "a leader voted for itself"),
        ("vote", "", "a leader voted for itself"),
        ("uncommitted_bytes", 5, "uncommitted bytes"),
        ("peers", {}, "a progress for each member"),
        ("term", 1, "terms never decrease, nor pass"),
        ("asked", {1: 0.0}, "only a follower asks"),
    ],
)
def test_wrong_state_is_found(field: str, value: object, what: str) -> None:
    solo = leading()
    setattr(solo.core._state, field, value)
    with pytest.raises(InvariantViolated, match=what):
        check_basic(solo.core)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [("match", 3, "match < next"), ("inflight_bytes", 7, "window adds up"), ("offer", snapshot_meta(1, 1), "offer")],
)
def test_wrong_progress_is_found(field: str, value: object, what: str) -> None:
    solo = leading()
    setattr(solo.core.peers[node_id("b")], field, value)
    with pytest.raises(InvariantViolated, match=what):
        check_basic(solo.core)


def test_wrong_log_is_found() -> None:
    for index, term, time_ms, what in ((4, 2, 0, "contiguous"), (3, 1, 0, "terms"), (3, 2, -1, "time")):
        solo = leading()
        solo.core._state.log._entries.append(command(index, term, time_ms=time_ms))
        solo.core._state.log.last_index = 3
        with pytest.raises(InvariantViolated, match=what):
            check_basic(solo.core)


def test_configuration_out_of_step_with_the_log_is_found() -> None:
    solo = leading()
    solo.core._state.configurations.restart(type(solo.core.placed)(1, 1, configuration("ab")))
    solo.core._state.halves = halves(configuration("ab"))
    with pytest.raises(InvariantViolated, match="in force"):
        check_basic(solo.core)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("term", 1, "term never goes back"),
        ("vote", "x", "one vote a term"),
        ("commit", 1, "commit index never goes back"),
        ("applied", 0, "applied never goes back"),
    ],
)
def test_step_back_is_found(field: str, value: object, what: str) -> None:
    solo = leading()
    before = glimpse(solo.core)
    setattr(solo.core._state, field, value)
    with pytest.raises(InvariantViolated, match=what):
        check_delta(before, solo.core)


def test_commit_of_an_older_term_by_counting_is_found() -> None:
    """Figure 8, as a check of each step."""
    solo = Solo(terms=[1, 1])
    solo.win("b")
    before = glimpse(solo.core)
    solo.core._state.commit = 3
    with pytest.raises(InvariantViolated, match="only the own term"):
        check_delta(before, solo.core)


def test_witness_finds_two_leaders() -> None:
    witness = Witness()
    for name in "ab":
        solo = Solo(name, voters=name)
        solo.win()
        if name == "a":
            witness._check_leader(solo.core)
    with pytest.raises(InvariantViolated, match="two leaders in term 2"):
        witness._check_leader(solo.core)


def test_witness_finds_logs_that_do_not_match() -> None:
    witness = Witness()
    witness.observe(Solo("a", entries=[command(1, 1, b"x")], commit=0).core)
    with pytest.raises(InvariantViolated, match="log matching"):
        witness.observe(Solo("b", entries=[command(1, 1, b"y")], commit=0).core)


def test_witness_finds_two_entries_committed_at_one_index() -> None:
    witness = Witness()
    witness.observe(Solo("a", terms=[2], commit=2).core)
    with pytest.raises(InvariantViolated, match=r"3\.2 committed, 2\.2 elsewhere"):
        witness.observe(Solo("b", terms=[3], commit=2).core)


def test_witness_finds_a_leader_that_lacks_a_committed_entry() -> None:
    witness = Witness()
    witness.observe(Solo("a", terms=[2], commit=2).core)
    behind = Solo("b", term=5)
    behind.win("c")
    with pytest.raises(InvariantViolated, match=r"leader completeness: 2\.2 is missing"):
        witness.observe(behind.core)


def test_cluster_finds_a_commit_without_disks_and_machines_that_differ() -> None:
    cluster = Cluster("abc")
    cluster.elect("a")
    cluster.run(0.2)
    for node in cluster.nodes.values():
        node.disk.entries.clear()
    with pytest.raises(InvariantViolated, match="without a quorum of disks"):
        cluster.check_committed_on_quorum(cluster["a"], cluster["a"].placed)
    cluster.nodes[node_id("b")].machine.digest = "another"
    with pytest.raises(InvariantViolated, match="another state"):
        cluster._check_machine(cluster.nodes[node_id("b")])


def test_cluster_finds_a_stale_read() -> None:
    cluster = Cluster("abc")
    cluster.elect("a")
    id = node_id("a")
    cluster.asked[id, 1] = 2
    with pytest.raises(InvariantViolated, match="after 2 was committed"):
        cluster.answer(id, 1, 1)


def test_pre_candidate_and_follower_are_checked_too() -> None:
    solo = Solo()
    solo.time_out()
    assert solo.core.role is Role.PRE_CANDIDATE
    solo.core._state.leader = "x"
    with pytest.raises(InvariantViolated, match="knows no leader"):
        check_basic(solo.core)
    follower = Solo()
    follower.core._state.leader = follower.id
    with pytest.raises(InvariantViolated, match="does not follow itself"):
        check_basic(follower.core)
