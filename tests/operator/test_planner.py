"""The diagnosis and the planner, rule by rule, on worlds made by hand; and their invariants on random ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.worlds import (
    CLUSTER_ID,
    NAME,
    answer,
    configuration,
    member,
    node_id,
    volume,
    world,
)

from oarlock.wire.admin import State
from oarlock_operator import events, names
from oarlock_operator.actions import (
    Bootstrap,
    Configure,
    Decision,
    DeleteVolume,
    Note,
    Reset,
    Transfer,
    Wait,
    WriteLatch,
)
from oarlock_operator.diagnose import Verdict, diagnose
from oarlock_operator.ensure import Apply, DeleteChild, ensure
from oarlock_operator.operation import latched
from oarlock_operator.plan import IDLE, plan
from oarlock_operator.world import World, quorum


def decide(world_: World) -> Decision:
    return plan(world_, diagnose(world_))


def voters(action: Decision) -> list[int]:
    assert isinstance(action, Configure), action
    return [names.ordinal_of_member(NAME, m.id) or 0 for m in action.voters]


def reason(decision: Decision) -> str:
    assert isinstance(decision, Wait), decision
    return decision.reason


def test_a_healthy_cluster_is_left_alone() -> None:
    assert decide(world()) is IDLE
    assert diagnose(world()).verdict is Verdict.HEALTHY


# ---- replicas


def test_replicas_are_not_lowered_without_a_barrier() -> None:
    """Invariant 9: the newest configuration that somebody told may be an old one."""
    told = world(spec=3, live=5, config=configuration(range(3)), barrier=False)
    assert diagnose(told).replicas == 5


def test_replicas_are_not_lowered_while_a_change_is_joint() -> None:
    joint = configuration(range(3), committed=False, outgoing=[member(o) for o in range(5)])
    assert diagnose(world(spec=3, live=5, config=joint)).replicas == 5


def test_replicas_are_lowered_by_a_confirmed_configuration() -> None:
    assert diagnose(world(spec=3, live=5, config=configuration(range(3)))).replicas == 3


def test_replicas_cover_every_member_whatever_the_spec() -> None:
    assert diagnose(world(spec=1, live=1, config=configuration(range(5)))).replicas == 5


def test_a_removed_member_does_not_bring_its_pod_back() -> None:
    """It still has the configuration in which it stood; the tombstones of the others outvote it."""
    now = configuration(range(3), id="1.20", tombstones=[node_id(3), node_id(4)])
    before = configuration(range(5))
    late = {4: answer(4, before, 0, state=State.REMOVED)}
    assert diagnose(world(spec=3, live=3, config=now, answers=late, barrier=False)).replicas == 3


def test_an_old_disk_gets_its_pod_until_somebody_leads() -> None:
    """Before a cluster is adopted, only a member can say what is on its disk."""
    disks = [volume(o, cluster_uid="another") for o in range(5)]
    assert diagnose(world(spec=3, live=3, founded=False, leader=None, volumes=disks)).replicas == 5


# ---- gates


def test_nothing_without_a_leader_that_passed_the_barrier() -> None:
    assert (
        reason(decide(world(spec=5, idle=[3, 4], config=configuration(range(3)), barrier=False))) == "WaitingForLeader"
    )


def test_nothing_while_a_change_is_uncommitted() -> None:
    """Invariant 1."""
    pending = configuration(range(3), committed=False)
    assert reason(decide(world(spec=5, idle=[3, 4], config=pending))) == "ChangeInProgress"


def test_two_identities_stop_everything() -> None:
    other = {1: answer(1, configuration(range(3)), None, cluster_id="other+nonce")}
    undecided = world(founded=False, answers=other, leader=None)
    assert diagnose(undecided).verdict is Verdict.SPLIT_IDENTITY
    assert reason(decide(undecided)) == "SplitIdentity"


# ---- founding


def idle_world(**changes: Any) -> World:
    """Three empty members of a cluster that is not founded."""
    said = {o: answer(o, None, None) for o in range(3)}
    return world(founded=False, leader=None, answers={**said, **changes.pop("answers", {})}, **changes)


def test_founding_is_latched_before_it_is_asked_for() -> None:
    """Invariant 19: the intent is written, on the version it was decided on, before the act."""
    latch = decide(idle_world())
    assert isinstance(latch, WriteLatch)
    assert latch.resource_version == "7"
    assert latch.latch.node_id == node_id(0)
    assert latch.latch.min_voters == 3


def test_a_latch_for_another_disk_is_written_anew() -> None:
    """The seed's disk vanished before it answered: its identity is part of the request."""
    before = decide(idle_world())
    assert isinstance(before, WriteLatch)
    status = idle_world().cluster.status.model_copy(update={"bootstrap": before.latch})
    latched = replace(idle_world(), cluster=replace(idle_world().cluster, status=status))
    assert isinstance(decide(latched), Bootstrap)
    fresh = answer(0, None, None, node_id=node_id(0, 2))
    moved = idle_world(answers={0: fresh})
    moved = replace(moved, cluster=replace(moved.cluster, status=status))
    again = decide(moved)
    assert isinstance(again, WriteLatch)
    assert again.latch.request_id != before.latch.request_id


@pytest.mark.parametrize(
    "broken", ["silent", "no pod", "still reading", "no volume", "foreign volume", "not told its volume"]
)
def test_nothing_is_founded_unless_everybody_is_up_and_empty(broken: str) -> None:
    disks = [volume(0), volume(1), volume(2)]
    if broken == "silent":
        found = idle_world(answers={2: None})
    elif broken == "still reading":
        found = idle_world(answers={2: answer(2, None, None, state=State.REPLAYING)})
    elif broken == "no pod":
        found = idle_world(spec=4, config=configuration(range(3)), live=4)
    elif broken == "no volume":
        found = idle_world(volumes=disks[:2])
    elif broken == "foreign volume":
        found = idle_world(volumes=[*disks[:2], volume(2, cluster_uid="another")])
    else:
        found = idle_world(answers={1: answer(1, None, None, volume_uid=None)})
    decision = decide(found)
    assert isinstance(decision, Note if broken == "not told its volume" else Wait)


def test_an_old_cluster_is_adopted_only_with_a_quorum() -> None:
    disks = [volume(o, cluster_uid="another") for o in range(3)]
    without = world(founded=False, volumes=disks, barrier=False)
    assert reason(decide(without)) == "ForeignVolumes"
    adopted = decide(world(founded=False, volumes=disks))
    assert isinstance(adopted, WriteLatch)
    assert adopted.latch.adopted
    assert adopted.latch.cluster_id == CLUSTER_ID


# ---- growing


def test_missing_members_are_added_together_as_learners_to_promote() -> None:
    action = decide(world(spec=5, idle=[3, 4], config=configuration(range(3))))
    assert voters(action) == [0, 1, 2]
    assert isinstance(action, Configure)
    assert [(m.id, m.promote) for m in action.learners] == [(node_id(3), True), (node_id(4), True)]
    assert action.if_config == "1.10"


def test_one_pod_of_two_is_not_enough_for_an_even_size() -> None:
    assert reason(decide(world(spec=5, idle=[3], config=configuration(range(3))))) == "WaitingForPods"


def test_an_event_about_what_waits_ends_with_one_full_stop() -> None:
    """What a decision says is a sentence where it waits, and a phrase where it acts."""
    found = world(spec=5, idle=[3], config=configuration(range(3)))
    (told,) = events.of(latched(found, diagnose(found), decide(found)))
    assert told.message.endswith(" before adding them.")


def test_a_missing_place_is_filled_though_others_are_not_there_yet() -> None:
    """Two of three are left and five are wanted: the third comes back now, the others when their pods are there."""
    action = decide(world(spec=5, idle=[2], config=configuration(range(2))))
    assert isinstance(action, Configure)
    assert [m.id for m in action.learners] == [node_id(2)]


def test_a_leftover_is_reset_before_it_is_added() -> None:
    """Its id has a tombstone and may not return (rule 15)."""
    now = configuration([0], tombstones=[node_id(1), node_id(2)])
    left = {o: answer(o, configuration(range(3)), 0, state=State.REMOVED) for o in (1, 2)}
    action = decide(world(spec=3, config=now, answers=left))
    assert action == Reset(action.pod, node_id(1), action.why)  # type: ignore[union-attr]  # equal only to a Reset


def test_a_leftover_above_the_target_is_left_to_go() -> None:
    now = configuration([0], tombstones=[node_id(1)])
    left = {1: answer(1, configuration(range(2)), 0, state=State.REMOVED)}
    assert decide(world(spec=1, config=now, answers=left)) is IDLE


def test_members_are_told_their_volume_before_they_are_added() -> None:
    new = {o: answer(o, None, None, volume_uid=None) for o in (3, 4)}
    action = decide(world(spec=5, config=configuration(range(3)), answers=new))
    assert isinstance(action, Note)
    assert action.volume_uid == "volume-3"


# ---- shrinking


def test_those_that_leave_go_in_one_change() -> None:
    assert voters(decide(world(spec=1, config=configuration(range(3))))) == [0]


def test_the_leader_moves_to_one_that_stays() -> None:
    action = decide(world(spec=3, config=configuration(range(5)), leader=4))
    assert isinstance(action, Transfer)
    assert action.target in {node_id(o) for o in range(3)}


@pytest.mark.parametrize("state", [State.LAGGING, State.ISOLATED, State.REPLAYING, State.DRAINING])
def test_nobody_leaves_while_one_that_stays_does_not_take_part(state: State) -> None:
    five = configuration(range(5))
    away = {1: answer(1, five, 0, state=state)}
    assert reason(decide(world(spec=3, config=five, answers=away))) == "WaitingForMembers"
    assert reason(decide(world(spec=3, config=five, answers={1: None}))) == "WaitingForMembers"


def test_one_that_leaves_need_not_answer() -> None:
    assert voters(decide(world(spec=3, config=configuration(range(5)), answers={4: None}))) == [0, 1, 2]


def test_a_scale_out_that_was_taken_back_drops_its_learners() -> None:
    growing = configuration(range(3), learners=[member(3, promote=True), member(4, promote=True)])
    action = decide(world(spec=3, config=growing))
    assert voters(action) == [0, 1, 2]
    assert isinstance(action, Configure)
    assert action.learners == ()


def test_a_smaller_spec_waits_for_min_voters() -> None:
    growing = configuration([0], min_voters=5)
    found = diagnose(world(spec=3, config=growing, idle=[1, 2]))
    assert found.target == 5


def delete_world(**changes: Any) -> World:
    retention = {"retention": {"whenScaled": "Delete"}}
    return world(spec=1, config=configuration([0]), storage=retention, live=changes.pop("live", 1), **changes)


def test_a_volume_goes_after_its_member_and_its_pod() -> None:
    action = decide(delete_world(volumes=[volume(0), volume(1)]))
    assert isinstance(action, DeleteVolume)
    assert action.volume.name == "data-demo-1"


@pytest.mark.parametrize("kept", ["pod exists", "foreign", "terminating", "replicas not lowered", "retain"])
def test_a_volume_stays_while(kept: str) -> None:
    """Invariant 5, and what else a volume may be worth."""
    if kept == "pod exists":
        left = {1: answer(1, configuration(range(2)), 0, state=State.REMOVED)}
        found = delete_world(answers=left, live=1)
    elif kept == "foreign":
        found = delete_world(volumes=[volume(0), volume(1, cluster_uid="another")])
    elif kept == "terminating":
        found = delete_world(volumes=[volume(0), volume(1, terminating=True)])
    elif kept == "replicas not lowered":
        found = delete_world(volumes=[volume(0), volume(1)], live=2)
    else:
        found = world(spec=1, config=configuration([0]), live=1, volumes=[volume(0), volume(1)])
    assert decide(found) is IDLE


# ---- healing


def lost_world(lost: int, **changes: Any) -> World:
    """Three voters, of which some answer with a new, empty identity."""
    said = {o: answer(o, None, None, node_id=node_id(o, 2)) for o in range(3 - lost, 3)}
    return world(answers=said, **changes)


def test_a_lost_identity_is_taken_out() -> None:
    assert voters(decide(lost_world(1))) == [0, 1]


def test_a_lost_identity_stays_when_the_rest_would_be_no_quorum() -> None:
    found = lost_world(1, config=configuration(range(3)))
    one_away = world(answers={1: None, 2: answer(2, None, None, node_id=node_id(2, 2))})
    assert voters(decide(found)) == [0, 1]
    assert reason(decide(one_away)) == "CannotReplace"


def test_another_identity_with_data_is_no_proof() -> None:
    """Somebody else's disk in the place: the voter's own may come back."""
    three = configuration(range(3))
    stranger = answer(2, three, None, node_id=node_id(2, 2), cluster_id="other+nonce", state=State.ISOLATED)
    assert diagnose(world(answers={2: stranger})).lost == frozenset()


def test_quorum_lost_is_told_from_quorum_uncertain() -> None:
    silent = world(leader=None, answers={1: None, 2: None})
    assert diagnose(silent).verdict is Verdict.QUORUM_UNCERTAIN
    proven = lost_world(2, leader=None)
    assert diagnose(proven).verdict is Verdict.QUORUM_LOST


# ---- the disruption budget


@pytest.mark.parametrize(("size", "available"), [(1, None), (2, 1), (3, 2), (4, 3), (5, 3), (7, 4), (9, 5)])
def test_the_budget_keeps_a_quorum(size: int, available: int | None) -> None:
    found = world(spec=size, config=configuration(range(size)))
    steps = [s.manifest for s in ensure(found, diagnose(found)) if isinstance(s, Apply)]
    budgets = [m["spec"]["minAvailable"] for m in steps if m["kind"] == "PodDisruptionBudget"]
    assert budgets == ([] if available is None else [available])


def test_the_budget_counts_the_larger_half() -> None:
    joint = configuration(range(3), committed=False, outgoing=[member(o) for o in range(5)])
    found = world(spec=3, live=5, config=joint)
    budgets = [
        s.manifest["spec"]["minAvailable"]
        for s in ensure(found, diagnose(found))
        if isinstance(s, Apply) and s.manifest["kind"] == "PodDisruptionBudget"
    ]
    assert budgets == [3]


# ---- random worlds


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any configuration, any answers, any volumes: most make no sense, and none may make the planner do harm."""
    present = draw(st.sets(st.integers(0, 5), min_size=1, max_size=6))
    learners = draw(st.sets(st.integers(0, 5), max_size=2)) - present
    outgoing = draw(st.sampled_from([set(), set(), draw(st.sets(st.integers(0, 5), max_size=5))]))
    config = configuration(
        sorted(present),
        committed=draw(st.booleans()) and not outgoing,
        learners=[member(o, promote=draw(st.booleans())) for o in sorted(learners)],
        outgoing=[member(o) for o in sorted(outgoing)],
        min_voters=draw(st.sampled_from([0, 0, 0, 3])),
    )
    leader = draw(st.sampled_from([None, *sorted(present)]))
    said: dict[int, Any] = {}
    for ordinal in draw(st.sets(st.integers(0, 6))):
        if ordinal == leader:
            continue
        kind = draw(st.sampled_from(["silent", "idle", "old", "state", "volume"]))
        if kind == "silent":
            said[ordinal] = None
        elif kind == "idle":
            said[ordinal] = answer(ordinal, None, None, node_id=node_id(ordinal, 2))
        elif kind == "old":
            said[ordinal] = answer(ordinal, config, leader, node_id=node_id(ordinal, 3), state=State.REMOVED)
        elif kind == "state":
            said[ordinal] = answer(ordinal, config, leader, state=draw(st.sampled_from(list(State))))
        else:
            said[ordinal] = answer(ordinal, config, leader, volume_uid="another")
    return world(
        spec=draw(st.integers(1, 6)),
        live=draw(st.integers(1, 7)),
        config=config,
        leader=leader,
        barrier=draw(st.booleans()),
        answers=said,
        founded=draw(st.booleans()),
        volumes=[
            volume(o, cluster_uid=draw(st.sampled_from(["uid-of-the-cluster", "another"])))
            for o in sorted(draw(st.sets(st.integers(0, 6))))
        ],
        storage={"retention": {"whenScaled": draw(st.sampled_from(["Retain", "Delete"]))}},
    )


@given(worlds())
def test_no_world_makes_the_planner_do_harm(found: World) -> None:
    """Invariants 1, 3, 5, 6 and 9 of one decision, whatever it was made from."""
    diagnosis = diagnose(found)
    decision = plan(found, diagnosis)
    config = diagnosis.configuration
    members = {m.id for m in (*config.voters, *config.learners, *config.outgoing)} if config else set()
    if not isinstance(decision, Wait | WriteLatch | Bootstrap | Note):
        assert diagnosis.confirmed
        assert diagnosis.leader is not None
    match decision:
        case Configure():
            assert config is not None
            assert decision.if_config == config.id
            staying = {m.id for m in decision.voters}
            assert staying <= {m.id for m in config.voters}, "a voter is only ever made by promotion"
            assert len(diagnosis.participating & staying) >= quorum(len(staying)) or staying == {
                m.id for m in config.voters
            }
            removed = members - staying - {m.id for m in decision.learners}
            for id_ in removed:
                ordinal = found.ordinal(id_)
                assert ordinal is not None
                assert id_ in diagnosis.lost or ordinal >= diagnosis.target
            added = {m.id for m in decision.learners} - members
            assert not (added and removed), "one change at a time"
        case Reset():
            assert decision.node_id not in members
        case DeleteVolume():
            assert found.volume(decision.volume.ordinal) is not None
            assert decision.volume.ordinal not in {found.ordinal(id_) for id_ in members}
            assert decision.volume.ordinal not in {p.ordinal for p in found.pods}
            assert decision.volume.cluster_uid == found.cluster.uid
        case Bootstrap():
            assert not [v for v in found.volumes if v.cluster_uid != found.cluster.uid]
            assert all(s.status is not None and s.status.state is State.IDLE for s in found.seen)
        case _:
            pass
    live = found.live_replicas or 0
    if diagnosis.replicas < live:
        assert diagnosis.confirmed
    highest = max((o for id_ in members if (o := found.ordinal(id_)) is not None), default=-1)
    if diagnosis.leader is not None:
        assert diagnosis.replicas > highest
    assert not any(isinstance(step, DeleteChild) for step in ensure(found, diagnosis)) or live
