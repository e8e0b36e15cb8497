"""Snapshots by the clock, by entries and by annotation: who is asked, in which order, and what stands in status."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.operator.sim import NAME, Crash, Sim
from tests.operator.worlds import answer, configuration, node_id, world

from oarlock.wire.admin import SnapshotModel
from oarlock_operator import names, snapshots, status
from oarlock_operator.actions import IDLE, TakeSnapshot, Wait
from oarlock_operator.api.spec import Snapshots
from oarlock_operator.api.status import LastSnapshot, MemberStatus, OperationStatus, Status
from oarlock_operator.diagnose import diagnose
from oarlock_operator.plan import plan
from oarlock_operator.world import SnapshotTry, World

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def asked(
    *,
    request: str = "",
    wanted: dict[str, int] | None = None,
    taken: dict[int, int] | None = None,
    failing: dict[int, str] | None = None,
    known: tuple[MemberStatus, ...] = (),
    done: str = "",
    now: float = NOW,
    **parts: Any,
) -> World:
    """A healthy three, led by 0, whose members applied 100 entries and have snapshots at `taken` (by ordinal)."""
    config = configuration(range(3))
    answers = {
        o: answer(
            o,
            config,
            0,
            snapshot=SnapshotModel(
                index=(taken or {}).get(o, 0), term=1, size_bytes=1, digest="d", failure=(failing or {}).get(o)
            ),
        )
        for o in range(3)
    }
    found = world(config=config, answers=answers, **parts)
    cluster = replace(
        found.cluster,
        annotations={names.SNAPSHOT_ANNOTATION: request} if request else {},
        spec=found.cluster.spec.model_copy(update={"snapshots": Snapshots(**wanted) if wanted else None}),
        status=found.cluster.status.model_copy(update={"members": known, "snapshot_now": done}),
    )
    return replace(found, cluster=cluster, now=now)


def member(ordinal: int, seconds_ago: float, index: int = 50, request: str = "", failure: str = "") -> MemberStatus:
    """As it stood in status."""
    then = datetime.fromtimestamp(NOW - seconds_ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    last = LastSnapshot(index=index, time=then, request=request, failure=failure)
    pod = names.pod("demo", ordinal)
    return MemberStatus(node_id=node_id(ordinal), pod=pod, suffrage="Voter", role="", state="", last_snapshot=last)


def victim(found: World) -> int | None:
    decision = plan(found, diagnose(found))
    assert isinstance(decision, TakeSnapshot | Wait), decision
    return int(decision.pod.name[-1]) if isinstance(decision, TakeSnapshot) else None


def told(found: World) -> Status:
    diagnosis = diagnose(found)
    return status.status(found, diagnosis, plan(found, diagnosis), "", datetime.fromtimestamp(found.now, UTC))


def test_nothing_is_asked_for_by_default() -> None:
    assert victim(asked()) is None


def test_a_new_request_goes_to_followers_first_and_the_leader_last() -> None:
    order, known = [], [member(o, 1000) for o in range(3)]
    while (who := victim(asked(request="a", taken={0: 50, 1: 50, 2: 50}, known=tuple(known)))) is not None:
        order.append(who)
        known[who] = member(who, 0, 100, request="a")
    assert order == [1, 2, 0]


def test_a_request_is_carried_out_once() -> None:
    """Also by an operator that was restarted: it stands in status whom it asked, and when all have done it."""
    known = tuple(member(o, 1000, 50, request="a") for o in range(3))
    found = asked(request="a", taken={0: 50, 1: 50, 2: 50}, known=known)
    assert victim(found) is None
    assert told(found).snapshot_now == "a"
    assert victim(asked(request="a", done="a")) is None  # a member that came later is not asked for an old one
    assert victim(asked(request="b", done="a", known=known)) == 1


def test_a_request_is_not_carried_out_before_all_participants_have() -> None:
    two = (member(0, 9, 50, "a"), member(1, 9, 50, "a"), member(2, 9, 50, "old"))
    assert told(asked(request="a", taken={0: 50, 1: 50, 2: 50}, known=two, done="old")).snapshot_now == "old"
    failed = (member(0, 9, 50, "a"), member(1, 9, 50, "a"), member(2, 9, 50, "a", failure="disk full"))
    assert told(asked(request="a", taken={0: 50, 1: 50, 2: 50}, known=failed)).snapshot_now == ""


def test_a_member_that_is_away_is_not_waited_for() -> None:
    known = (member(0, 9, 50, "a"), member(1, 9, 50, "a"))
    found = asked(request="a", taken={0: 50, 1: 50}, known=known)
    silent = replace(found, seen=tuple(replace(s, status=None) if s.pod.ordinal == 2 else s for s in found.seen))
    assert told(silent).snapshot_now == "a"


@pytest.mark.parametrize(
    ("wanted", "ago", "index", "due"),
    [
        ({"interval_seconds": 60}, 59, 50, False),
        ({"interval_seconds": 60}, 60, 50, True),
        ({"interval_seconds": 60}, 600, 100, False),  # nothing was applied since
        ({"entries": 100}, 600, 1, False),
        ({"entries": 100}, 600, 0, True),
        ({"entries": 100}, 29, 0, False),  # each copies the whole state
        ({"interval_seconds": 60}, -600, 50, True),  # the clock was set back
    ],
)
def test_due(wanted: dict[str, int], ago: float, index: int, due: bool) -> None:
    known = tuple(member(o, ago, index) for o in range(3))
    assert victim(asked(wanted=wanted, taken=dict.fromkeys(range(3), index), known=known)) == (1 if due else None)


def test_one_that_a_member_took_by_itself_counts() -> None:
    known = tuple(member(o, 600, 50) for o in range(3))
    found = asked(wanted={"interval_seconds": 60}, taken={0: 90, 1: 90, 2: 90}, known=known)
    assert victim(found) is None
    assert {m.last_snapshot.index for m in told(found).members if m.last_snapshot} == {90}


def test_never_while_something_is_under_way() -> None:
    operation = OperationStatus(type="ScaleOut", target="5", step="x", started_time="2026-01-01T00:00:00Z")
    found = asked(request="a")
    busy = replace(
        found,
        cluster=replace(found.cluster, status=found.cluster.status.model_copy(update={"operation": operation})),
    )
    assert not isinstance(plan(busy, diagnose(busy)), TakeSnapshot)
    growing = asked(request="a", spec=4, idle=[3])
    assert not isinstance(plan(growing, diagnose(growing)), TakeSnapshot)
    leaderless = asked(request="a", barrier=False)
    assert isinstance(plan(leaderless, diagnose(leaderless)), Wait)


def test_healing_comes_first() -> None:
    """A disk that came back empty: another identity answers in the place of a voter."""
    found = asked(request="a")
    empty = answer(2, None, None, node_id=node_id(2, 7))
    lost = replace(found, seen=tuple(replace(s, status=empty) if s.pod.ordinal == 2 else s for s in found.seen))
    decision = plan(lost, diagnose(lost))
    assert decision is not IDLE
    assert not isinstance(decision, TakeSnapshot)


def test_a_failure_waits_a_minute_and_lets_the_others_pass() -> None:
    known = (member(0, 9), member(1, 59, request="a", failure="disk full"), member(2, 9))
    taken = {0: 50, 1: 50, 2: 50}
    assert victim(asked(request="a", taken=taken, known=known)) == 2
    later = (member(0, 9), member(1, 60, request="a", failure="disk full"), member(2, 9))
    assert victim(asked(request="a", taken=taken, known=later)) == 1


def test_a_failure_is_a_sentence_and_one_event() -> None:
    before = asked(request="a", taken={0: 50, 1: 50, 2: 50}, known=tuple(member(o, 9) for o in range(3)))
    after = replace(before, tried=SnapshotTry(node_id(1), "a", failure="No space left on device."))
    wanted = told(after)
    (record,) = [m.last_snapshot for m in wanted.members if m.pod == "demo-1"]
    assert record is not None
    assert (record.failure, record.index, record.request) == ("No space left on device", 50, "a")
    (degraded,) = [c for c in wanted.conditions if c.type == "Degraded"]
    assert (degraded.status, degraded.reason) == ("True", "SnapshotFailed")
    assert f"{node_id(1)} could not take a snapshot: No space left on device." in degraded.message
    found = status.happenings(told(before), wanted)
    assert [(h.reason, h.type) for h in found] == [("SnapshotFailed", "Warning")]
    assert not status.happenings(wanted, wanted)


def test_status_moves_only_when_a_snapshot_was_taken() -> None:
    """Neither with the clock, nor with what was applied, nor with a failure told in other words."""
    first = told(asked(taken={0: 50, 1: 50, 2: 50}, failing={2: "disk full"}))
    again = asked(taken={0: 50, 1: 50, 2: 50}, failing={2: "errno 28"}, known=first.members, now=NOW + 3600)
    assert told(again).members == first.members
    fresh = told(asked(taken={0: 50, 1: 60, 2: 50}, known=first.members, now=NOW + 3600))
    moved = [m.pod for m, old in zip(fresh.members, first.members, strict=True) if m != old]
    assert moved == ["demo-1"]


def test_success_clears_a_failure_even_if_nothing_is_new() -> None:
    known = (member(1, 100, 50, "a", failure="disk full"),)
    found = replace(asked(request="a", taken={1: 50}, known=known), tried=SnapshotTry(node_id(1), "a", index=50))
    record = snapshots.records(found)[node_id(1)]
    assert (record.failure, record.index) == ("", 50)


def test_progressing_does_not_flicker_with_each() -> None:
    (progressing,) = [c for c in told(asked(request="a")).conditions if c.type == "Progressing"]
    assert (progressing.status, progressing.reason) == ("False", "Idle")


def test_an_overlong_request_is_cut() -> None:
    found = asked(request="x" * 1000)
    assert len(snapshots.requested(found.cluster)) == snapshots.REQUEST_LENGTH


@pytest.mark.parametrize("effects", range(1, 9))
async def test_a_request_is_carried_out_though_the_operator_dies(effects: int) -> None:
    """After any of its side effects; whoever comes next asks again at most the one whose answer was not written."""
    sim = Sim(3)
    await sim.run()
    sim.objects[(names.KIND, NAME)]["metadata"]["annotations"] = {names.SNAPSHOT_ANNOTATION: "a"}
    before = len(sim.calls)
    sim.fail_after = effects
    with contextlib.suppress(Crash):
        await sim.run(12)
    sim.fail_after = None
    sim.now += 60  # the Lease of the dead one ends
    await sim.run(40, sim.reconciler("operator-2"))
    taken = [call for call in sim.calls[before:] if call.startswith("snapshot")]
    assert set(taken) == {f"snapshot {names.pod(NAME, o)}" for o in range(3)}
    assert len(taken) <= 4
    status = sim.objects[(names.KIND, NAME)]["status"]
    assert status["snapshotNow"] == "a"
    assert all(member["lastSnapshot"]["request"] == "a" for member in status["members"])
