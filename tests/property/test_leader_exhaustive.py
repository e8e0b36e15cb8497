"""Small cases of a start, of a vote, of a leader's time-outs, its changes of members and its hand-overs, all of them.

Rules of this module: what is expected is worked out from the case, and never by the code under test; where a schedule
needs a cluster, its faults are listed and not drawn.
"""

from __future__ import annotations

from itertools import product

import pytest
from tests.raft_cluster import Cluster, members, node_id
from tests.raft_solo import Solo, command, only

from oarlock.raft.errors import Busy, ConfigurationRefused
from oarlock.raft.log import Log, size_of
from oarlock.raft.messages import Heartbeat, TimeoutNow
from oarlock.raft.options import Options
from oarlock.raft.state import Role

TERM = 2
CHANGES = (("abc", "d"), ("abc", ""), ("ab", "d"), ("abe", "d"), ("bc", ""), ("abc", "de"))  # voters, learners


def test_every_start_with_a_commit_index_of_its_own() -> None:
    """Pitfall D11: the stored commit index may be beyond the log, whose end was cut; never beyond what is there."""
    for length, stored in product(range(4), range(8)):
        solo = Solo(terms=[1] * length, commit=stored)
        held = 1 + length
        assert solo.core.commit_index == min(stored, held)
        assert [entry.index for entry in solo.committed] == list(range(1, min(stored, held) + 1))


def test_every_run_of_a_small_log() -> None:
    """Pitfall L11: the longest one that fits, one entry at least, wherever the log begins."""
    met = {"all": 0, "cut": 0, "too large alone": 0}
    for start, sizes in product((0, 6), product((0, 90, 400), repeat=4)):
        entries = [command(start + number, 1, b"x" * size) for number, size in enumerate(sizes, 1)]
        log = Log(start, 1 if start else 0, 0, entries)
        for skipped, limit in product(range(len(entries)), (1, 130, 300, 600, 5000)):
            rest = entries[skipped:]
            fitting = [n for n in range(1, len(rest) + 1) if sum(map(size_of, rest[:n])) <= limit]
            expected = rest[: max(fitting, default=1)]
            assert list(log.batch(start + skipped + 1, limit)) == expected, f"{sizes} after {skipped}, {limit} bytes"
            met["all"] += expected == rest
            met["cut"] += expected != rest
            met["too large alone"] += not fitting
    assert all(met.values()), met


def test_every_vote_beside_a_leader() -> None:
    """Pitfalls E2 and E12 (thesis 4.2.3): while a leader was heard of within the least election time-out, nobody else
    gets a vote, nor is its term taken; but for whom that leader itself hands over to."""
    granted = 0
    for leads, silent, ahead, index, last_term, transfer in product(
        (False, True), (0.0, 0.5, 0.99, 1.01), (1, 7), (1, 2, 3), (0, 1, 2), (False, True)
    ):
        solo = Solo(terms=[1])
        if leads:
            solo.lead("b", "c")
        else:
            solo.step(Heartbeat, "b", 1, 1, 1)
        term, last = solo.core.term, (solo.core.last_term, solo.core.last_index)
        solo.tick(silent)
        answer = solo.ask_vote("c", term + ahead, index, last_term, transfer=transfer)
        case = f"leads {leads}, silent for {silent}, asked for term +{ahead} with {last_term}.{index}, {transfer}"
        if silent < 1.0 and not transfer:
            assert (answer, solo.core.term) == (None, term), case
        else:
            assert answer is ((last_term, index) >= last), case
            assert solo.core.term == term + ahead, case
            granted += answer
    assert granted


def test_every_election_timeout() -> None:
    """Pitfall E19: a leader with its quorum stays, one without it steps down between one time-out and two; with those
    of less than a second, too."""
    for timeout in (0.05, 0.1, 0.2, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0):
        solo = Solo(options=Options(election_timeout_seconds=timeout, heartbeat_seconds=timeout / 10))
        solo.lead("b")
        for _ in range(40):
            solo.beat("b")
            assert solo.core.role is Role.LEADER, timeout
        for _ in range(9):
            solo.beat()
            assert solo.core.role is Role.LEADER, timeout
        for _ in range(11):
            solo.beat()
        assert solo.core.role is not Role.LEADER, timeout


def test_nobody_who_was_away_deposes_a_leader() -> None:
    """Pitfall E14 (thesis 9.6): whoever was away, for however long, deaf, dumb or both."""
    for who, seconds, deaf, dumb in product("bc", (0.5, 1.2, 2.5, 6.0), (False, True), (False, True)):
        cluster = Cluster("abc")
        leader = cluster.elect("a")
        others = [node_id(name) for name in "abc" if name != who]
        cluster.cut += [(other, node_id(who)) for other in others if deaf]
        cluster.cut += [(node_id(who), other) for other in others if dumb]
        cluster.run(seconds)
        cluster.cut.clear()
        cluster.run(3)
        case = f"{who} away for {seconds} s, deaf {deaf}, dumb {dumb}"
        assert (leader.role, leader.term) == (Role.LEADER, 2), case
        assert cluster[who].leader == leader.node_id, case


def accepted(solo: Solo, voters: str, learners: str) -> bool:
    """Whether nothing that is under way keeps the change from beginning; what is refused appends nothing."""
    last = solo.core.last_index
    try:
        solo.core.change_configuration(members(voters), members(learners), solo.core.placed.id, solo.now)
    except ConfigurationRefused as refused:
        code = refused.code
    else:
        solo.take()
        return True
    assert solo.core.last_index == last
    assert code in ("precondition_failed", "not_caught_up", "tombstoned")
    return code != "precondition_failed"  # another reason than what is under way


def test_every_change_of_members_after_every_other() -> None:
    """Pitfalls M1 and M2, rule 12: none before the leader has committed an entry of its term, none while one is not
    committed whole; the next at once after that."""
    met = {"in two steps": 0, "in one": 0}
    for first, second in product(CHANGES, repeat=2):
        case = f"{second} after {first}"
        solo = Solo(voters="abc", learners="e")
        solo.win("b", "c")
        assert not accepted(solo, *second), f"{second} before the first commit"
        solo.accept("b", "c", "e")
        before = solo.core.placed.id
        assert accepted(solo, *first)
        if solo.core.placed.id == before:
            continue  # a newcomer that is not caught up
        steps = 0
        while solo.core.commit_index < solo.core.last_index:
            steps += 1
            assert not accepted(solo, *second), f"{case}, before step {steps} is committed"
            solo.accept("b", "c", "e")
            assert steps < 4, case
        met["in two steps"] += steps == 2
        met["in one"] += steps == 1
        assert solo.core.role is not Role.LEADER or accepted(solo, *second), case
    assert all(met.values()), met


def test_every_lag_of_a_successor() -> None:
    """Pitfalls T1 and T2 (thesis 3.10): it is told when it has the last entry, not before, and once; nothing is taken
    meanwhile that it would not have."""
    for entries, behind, other_behind in product(range(4), range(4), range(4)):
        solo = Solo()
        solo.lead("b", "c")
        for _ in range(entries):
            solo.core.propose(b"x", solo.now)
        solo.take()
        last = solo.core.last_index
        solo.accept("c", index=max(2, last - other_behind))
        solo.accept("b", index=max(2, last - behind))
        solo.core.transfer(node_id("b"), solo.now)
        told = len(only(solo.take(), TimeoutNow))
        for index in range(max(2, last - behind), last + 1):
            case = f"{entries} entries, b {behind} behind and at {index}, c {other_behind}"
            told += len(only(solo.accept("b", index=index), TimeoutNow))
            assert told == (index == last), case
            with pytest.raises(Busy):
                solo.core.propose(b"y", solo.now)
            assert solo.core.last_index == last, case
        assert not only(solo.beat("b", "c"), TimeoutNow)
