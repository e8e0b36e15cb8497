"""Members that hold different states: it is said, and nothing is done that could remove the right copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.test_planner import decide, reason
from tests.operator.worlds import answer, configuration, node_id, volume, world

from oarlock.wire.admin import PeerModel, State
from oarlock_operator import conditions, names
from oarlock_operator.actions import IDLE, Configure, DeleteVolume, Transfer
from oarlock_operator.diagnose import diagnose
from oarlock_operator.world import World


def peers(*diverged: int, of: int) -> dict[str, PeerModel]:
    return {
        node_id(o): PeerModel(match_index=100, contact_age_seconds=0.1, progress="replicate", diverged=o in diverged)
        for o in range(of)
    }


def differing(*diverged: int, of: int = 2, answers: dict[int, Any] | None = None, **changes: Any) -> World:
    """Member 0 leads, and these hold another state than it does."""
    config = changes.pop("config", configuration(range(of)))
    leads = answer(0, config, 0, peers=peers(*diverged, of=of))
    return world(spec=changes.pop("spec", of), config=config, answers={0: leads, **(answers or {})}, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": 1},  # the copy that would go may be the right one
        {
            "volumes": [volume(o) for o in range(3)],
            "storage": {"retention": {"whenScaled": "Delete"}},
        },  # of one that left
        {"spec": 3, "idle": [2]},  # the one that comes would copy the leader's state, right or wrong
        {"image": "a:2", "live_image": "a:1"},
        {},
    ],
)
def test_while_states_differ_nothing_is_added_removed_or_updated(changes: dict[str, Any]) -> None:
    found = differing(1, **changes)
    decision = decide(found)
    assert reason(decision) == "StatesDiffer"
    said = conditions.degraded(found, diagnose(found))
    assert (said.status, said.reason) == (True, "StatesDiffer")
    assert node_id(1) in said.message
    assert f"{names.REPLACE_ANNOTATION}=ID" in said.message
    progress = conditions.progressing(found, diagnose(found), decision, "")
    assert (progress.status, progress.reason) == (False, "StatesDiffer")


def test_a_volume_that_is_being_deleted_is_not_helped_on_its_way() -> None:
    disks = [volume(0), volume(1), volume(2, terminating=True)]
    idle = {2: answer(2, None, None)}
    found = differing(1, spec=3, answers=idle, config=configuration([0, 1]), volumes=disks)
    assert reason(decide(found)) == "StatesDiffer"


def test_while_they_are_alike_all_goes_on() -> None:
    assert isinstance(decide(differing(spec=1)), Configure)
    assert decide(differing()) is IDLE
    left = [volume(o) for o in range(3)]
    assert isinstance(decide(differing(volumes=left, storage={"retention": {"whenScaled": "Delete"}})), DeleteVolume)


def test_who_is_judged_is_replaced_and_why_is_told() -> None:
    config = configuration(range(3))
    why = "the state at index 512 differs from that of a majority of the voters: replace this member"
    odd = answer(2, config, None, state=State.CORRUPT, reason=why)
    decision = decide(differing(2, of=3, config=config, answers={2: odd}))
    assert isinstance(decision, Configure)
    assert {m.id for m in decision.voters} == {node_id(0), node_id(1)}
    assert why in decision.why


def given_up(found: World, ordinal: int) -> World:
    return replace(found, cluster=replace(found.cluster, annotations={names.REPLACE_ANNOTATION: node_id(ordinal)}))


def test_a_cluster_that_is_not_whole_grows_once_the_wrong_one_is_given_up() -> None:
    """The right one leads: what joins copies its state. Only then does the wrong one go."""
    found = differing(1, spec=3, idle=[2])
    assert reason(decide(found)) == "StatesDiffer"
    decision = decide(given_up(found, 1))
    assert isinstance(decision, Configure)
    assert [m.id for m in decision.learners] == [node_id(2)]


@pytest.mark.parametrize(("right", "changes"), [(1, {"spec": 2}), (1, {"spec": 3, "idle": [2]}), (2, {"of": 3})])
def test_a_leader_that_is_given_up_hands_over_to_who_differs_from_it(right: int, changes: dict[str, Any]) -> None:
    """Whatever else is to be done: what joins would copy its state, and so may others have."""
    decision = decide(given_up(differing(right, **changes), 0))
    assert isinstance(decision, Transfer)
    assert decision.target == node_id(right)


def test_a_member_that_was_removed_is_no_reason_to_hold() -> None:
    """The leader still sees it for a moment."""
    config = configuration([0, 1], tombstones=[node_id(2)])
    found = differing(2, of=3, config=config, spec=2)
    assert decide(found) is IDLE
    assert conditions.degraded(found, diagnose(found)).status is False


def test_a_follower_that_is_given_up_is_replaced() -> None:
    decision = decide(given_up(differing(1), 1))
    assert isinstance(decision, Configure)
    assert {m.id for m in decision.voters} == {node_id(0)}
