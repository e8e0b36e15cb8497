"""What a user reads: status, its conditions as sentences, and Events for what changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.operator.worlds import answer, configuration, member, node_id, volume, world

from oarlock.wire.admin import PeerModel, State
from oarlock_operator import status
from oarlock_operator.api.status import CatchUp, MemberStatus, Status
from oarlock_operator.diagnose import diagnose
from oarlock_operator.plan import plan
from oarlock_operator.world import World

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(found: World, error: str = "", now: datetime = NOW) -> Status:
    diagnosis = diagnose(found)
    return status.status(found, diagnosis, plan(found, diagnosis), error, now)


def condition(found: Status, kind: str) -> tuple[str, str, str]:
    (one,) = [c for c in found.conditions if c.type == kind]
    return one.status, one.reason, one.message


def test_a_healthy_cluster() -> None:
    found = told(world())
    assert (found.replicas, found.ready_replicas, found.leader, found.term, found.version) == (
        3,
        3,
        "demo-0",
        1,
        "0.1.0",
    )
    assert [(m.pod, m.suffrage, m.role, m.state) for m in found.members] == [
        ("demo-0", "Voter", "leader", "Participating"),
        ("demo-1", "Voter", "follower", "Participating"),
        ("demo-2", "Voter", "follower", "Participating"),
    ]
    assert {c.type for c in found.conditions} == {"Available", "Progressing", "Degraded"}
    assert all(c.message.endswith(".") for c in found.conditions)
    assert found.selector == "app.kubernetes.io/name=oarlock,oarlock.dev/cluster=demo"


def test_available_means_that_a_barrier_was_passed() -> None:
    """Invariant 15: a leader that says so is not enough."""
    assert condition(told(world()), "Available")[0] == "True"
    assert condition(told(world(barrier=False)), "Available")[:2] == ("False", "QuorumUncertain")


def test_not_available_while_writes_are_refused() -> None:
    growing = told(world(config=configuration([0], min_voters=3), idle=[1, 2]))
    kind, reason, message = condition(growing, "Available")
    assert (kind, reason) == ("False", "WaitingForVoters")
    assert "3 voters" in message


def test_a_member_that_is_away_is_named() -> None:
    kind, reason, message = condition(told(world(answers={1: None})), "Degraded")
    assert (kind, reason) == ("True", "MembersUnhealthy")
    assert message == f"{node_id(1)} does not take part; no more may fail."
    five = told(world(spec=5, config=configuration(range(5)), answers={1: None}))
    assert condition(five, "Degraded")[2] == f"{node_id(1)} does not take part; 1 more may fail."


def test_an_error_is_told() -> None:
    assert condition(told(world(), error="It failed."), "Progressing") == ("False", "ReconcileError", "It failed.")


def test_a_claim_that_cannot_go_blocks_pods() -> None:
    disks = [volume(0), volume(1, terminating=True), volume(2)]
    assert condition(told(world(volumes=disks)), "Degraded")[1] == "PodCreationBlocked"


def test_a_transition_time_moves_with_the_status_alone() -> None:
    from dataclasses import replace

    first = told(world())
    found = world(answers={1: None})
    found = replace(found, cluster=replace(found.cluster, status=first))
    later = told(found, now=NOW + timedelta(hours=1))
    times = {c.type: c.last_transition_time for c in later.conditions}
    assert times["Available"] == "2026-01-01T12:00:00Z"
    assert times["Degraded"] == "2026-01-01T13:00:00Z"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (PeerModel(match_index=50_000, contact_age_seconds=0.1, progress="replicate"), CatchUp.CAUGHT_UP),
        (PeerModel(match_index=10, contact_age_seconds=0.1, progress="replicate"), CatchUp.BEHIND),
        (PeerModel(match_index=10, contact_age_seconds=0.1, progress="snapshot"), CatchUp.SNAPSHOTTING),
        (PeerModel(match_index=10, contact_age_seconds=None, progress="probe"), CatchUp.UNKNOWN),
    ],
)
def test_how_far_a_member_is(peer: PeerModel, expected: CatchUp) -> None:
    three = configuration(range(3))
    leading = answer(0, three, 0, commit_index=50_000, peers={node_id(1): peer})
    found = told(world(answers={0: leading}))
    assert found.members[1].catch_up is expected


def test_nothing_in_status_moves_with_a_write() -> None:
    """Else every write to the store would be a write to the API server."""
    three = configuration(range(3))
    busy = {o: answer(o, three, 0, commit_index=999, applied_index=990, last_index=1001, revision=7) for o in range(3)}
    assert told(world(answers=busy)) == told(world())


def test_the_latch_is_not_in_what_is_applied() -> None:
    """It has a field manager of its own: no status write can take it away."""
    found = world()
    assert "bootstrap" not in status.manifest(found, told(found))["status"]  # type: ignore[operator]  # a dict, as JSON


def seen(*members: tuple[int, str], leader: str = "demo-0", cluster_id: str = "c") -> Status:
    return Status(
        leader=leader,
        term=2,
        cluster_id=cluster_id,
        members=tuple(
            MemberStatus(node_id=node_id(o), pod=f"demo-{o}", suffrage=s, role="", state="") for o, s in members
        ),
    )


def test_each_membership_change_and_each_change_of_leader_is_an_event() -> None:
    before = seen((0, "Voter"), (1, "Learner"), (2, "Voter"), (3, "Voter"))
    after = seen((0, "Voter"), (1, "Voter"), (2, "Learner"), (4, "Learner"), leader="demo-1")
    happened = [(h.reason, h.kind) for h in status.happenings(before, after)]
    assert happened == [
        ("MemberAdded", "added"),
        ("MemberPromoted", "promoted"),
        ("MemberDemoted", "demoted"),
        ("MemberRemoved", "removed"),
        ("LeaderChanged", None),
    ]


def test_no_news_is_no_event() -> None:
    same = seen((0, "Voter"))
    assert status.happenings(same, same) == []
    assert status.happenings(same, seen(leader="")) == []


def test_the_lowest_version_of_a_voter_is_told() -> None:
    three = configuration(range(3))
    mixed = {1: answer(1, three, 0, version="0.10.0"), 2: answer(2, three, 0, version="0.9.1")}
    assert told(world(answers=mixed)).version == "0.1.0"
    newer = {o: answer(o, three, 0, version=v) for o, v in enumerate(["0.10.0", "0.9.1", "0.11.0"])}
    assert told(world(answers=newer)).version == "0.9.1"


def test_a_lost_member_is_told_as_lost() -> None:
    gone = {2: answer(2, None, None, node_id=node_id(2, 2))}
    assert told(world(answers=gone)).members[2].state == "Lost"
    growing = configuration(range(3), learners=[member(3, promote=True)])
    assert told(world(config=growing)).members[3].suffrage == "Learner"
    stale = {2: answer(2, configuration(range(3)), 0, state=State.LAGGING)}
    assert told(world(answers=stale)).members[2].state == "Lagging"
