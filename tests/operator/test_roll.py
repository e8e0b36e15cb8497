"""The rolling update, rule by rule on worlds made by hand: what may be restarted, when, and what is given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.worlds import NOW, REVISION, answer, configuration, node_id, volume, world

from oarlock.wire.admin import State
from oarlock_operator import names, rollout
from oarlock_operator.actions import Decision, RemovePod, Transfer, Wait, WriteOperation, WriteRollout
from oarlock_operator.api.status import OperationStatus, RolloutStatus
from oarlock_operator.diagnose import diagnose
from oarlock_operator.ensure import Apply, ensure
from oarlock_operator.operation import latched
from oarlock_operator.plan import plan
from oarlock_operator.resources import statefulset
from oarlock_operator.rules.roll import NAMED_SECONDS, SILENT_SECONDS
from oarlock_operator.turns import Turns
from oarlock_operator.world import World, quorum

OLD = "demo-older-revision"
PULL = {"ready": False, "why": "its container waits: ImagePullBackOff", "waiting": "ImagePullBackOff"}


def decide(found: World) -> Decision:
    diagnosis = diagnose(found)
    return latched(found, diagnosis, plan(found, diagnosis))


def hash_of(image: str | None) -> str:
    return statefulset.template(world().cluster.with_spec(image=image), "").hash


def good(image: str = "a:1", **changes: Any) -> RolloutStatus:
    return RolloutStatus(revision=OLD, good_image=image, good_hash=hash_of(image), **changes)


def operation(image: str = "a:2") -> OperationStatus:
    return OperationStatus(type="RollingUpdate", target=hash_of(image), step="", started_time="2026-01-01T00:00:00Z")


def rolling(*new: int, size: int = 3, **changes: Any) -> World:
    """A rolling update to a:2 under way, its template written; `new` ordinals run it already."""
    pods = {o: {"revision": REVISION if o in new else OLD} for o in range(size)}
    for ordinal, change in changes.pop("pods", {}).items():
        pods[ordinal] |= change
    status = {"operation": operation(), "rollout": good(), **changes.pop("status", {})}
    return world(spec=size, image="a:2", pods=pods, status=status, **changes)


def waits(decision: Decision, reason: str = "RollingUpdate") -> str:
    assert isinstance(decision, Wait), decision
    assert decision.reason == reason
    return decision.message


def removed(decision: Decision) -> int:
    assert isinstance(decision, RemovePod), decision
    return decision.pod.ordinal


# ---- beginning


def test_what_is_good_is_latched_then_the_operation_then_the_template_is_written() -> None:
    """Invariant 19: each step is read back before the next."""
    found = world(image="a:2", live_image="a:1")
    first = decide(found)
    assert isinstance(first, WriteRollout)
    assert (first.rollout.revision, first.rollout.good_hash) == (REVISION, hash_of("a:1"))
    assert (first.rollout.good_image, first.resource_version) == ("a:1", "7")
    found = world(image="a:2", live_image="a:1", status={"rollout": first.rollout})
    second = decide(found)
    assert isinstance(second, WriteOperation)
    assert second.operation is not None
    assert (second.operation.type, second.operation.target) == ("RollingUpdate", hash_of("a:2"))
    assert rollout.to_write(found).hash == hash_of("a:1")
    found = world(image="a:2", live_image="a:1", status={"rollout": first.rollout, "operation": second.operation})
    assert rollout.to_write(found).hash == hash_of("a:2")
    assert "written" in waits(decide(found))


def test_until_the_latch_a_pod_that_is_made_anew_comes_back_as_it_was() -> None:
    found = world(image="a:2", live_image="a:1", live=2, spec=3, gone=[2])
    made = [s.manifest for s in ensure(found, diagnose(found)) if isinstance(s, Apply)]
    (sts,) = [m for m in made if m["kind"] == "StatefulSet"]
    assert sts["spec"]["template"]["spec"]["containers"][0]["image"] == "a:1"
    assert sts["metadata"]["annotations"][names.TEMPLATE_ANNOTATION] == hash_of("a:1")


def test_a_template_that_waits_is_no_difference() -> None:
    """Kept as it stands, defaults and all: a cluster that waits for its turn causes no writes."""
    found = world(image="a:1")
    made = statefulset.statefulset(found.cluster, 3, rollout.to_write(found), found.statefulset)
    made["spec"]["template"]["spec"] |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always"}
    waiting = replace(world(image="a:2", barrier=False), statefulset=made, children={"StatefulSet/demo": made}, now=NOW)
    steps = ensure(waiting, diagnose(waiting))
    assert "StatefulSet" not in [s.manifest["kind"] for s in steps if isinstance(s, Apply)]


@pytest.mark.parametrize("away", [1, 2])
def test_no_update_begins_while_a_quorum_hangs_on_everybody(away: int) -> None:
    found = world(image="a:2", live_image="a:1", answers={away: None})
    assert "2 must" in waits(decide(found))
    assert rollout.to_write(found).hash == hash_of("a:1")


def test_five_members_are_updated_around_one_that_is_away() -> None:
    away = rolling(3, size=5, answers={4: None})
    assert removed(decide(away)) == 2


def test_other_clusters_come_first_when_as_many_are_under_way() -> None:
    full = replace(world(image="a:2", live_image="a:1"), may_roll=False)
    waits(decide(full), "WaitingForOtherClusters")
    begun = replace(rolling(), may_roll=False)
    assert removed(decide(begun)) == 2


def test_turns_are_held_and_given_back() -> None:
    turns = Turns(1)
    assert turns.free("a")
    turns.hold("a")
    assert turns.free("a")
    assert not turns.free("b")
    turns.give("a")
    assert turns.free("b")


def test_a_newer_operator_that_renders_otherwise_rolls() -> None:
    found = world()
    assert found.statefulset is not None
    found.statefulset["metadata"]["annotations"][names.TEMPLATE_ANNOTATION] = "of-an-older-operator"
    assert isinstance(decide(found), WriteRollout)


# ---- the next pod


def test_followers_go_one_by_one_and_the_leader_last() -> None:
    """Invariant 16."""
    assert removed(decide(rolling())) == 2
    assert removed(decide(rolling(2))) == 1
    assert removed(decide(rolling(leader=2))) == 1
    assert removed(decide(rolling(1, leader=2))) == 0
    last = decide(rolling(1, 2))
    assert isinstance(last, Transfer)
    assert last.target in (node_id(1), node_id(2))
    assert removed(decide(rolling(1, 2, leader=1))) == 0
    assert isinstance(decide(rolling(0, 1, 2)), WriteOperation)  # done: the slot is cleared


def test_the_leadership_goes_to_whoever_has_most_of_the_log() -> None:
    three = configuration(range(3))
    peers = answer(0, three, 0).peers
    behind = {**peers, node_id(1): peers[node_id(1)].model_copy(update={"match_index": 7})}
    last = decide(rolling(1, 2, answers={0: answer(0, three, 0, peers=behind)}))
    assert isinstance(last, Transfer)
    assert last.target == node_id(2)


@pytest.mark.parametrize("state", [State.REPLAYING, State.LAGGING, State.ISOLATED, State.DRAINING])
def test_nobody_is_disturbed_before_a_restarted_member_takes_part(state: State) -> None:
    back = {2: answer(2, configuration(range(3)), 0, state=state)}
    assert "must take part first" in waits(decide(rolling(2, answers=back)))
    assert "must take part first" in waits(decide(rolling(2, answers={2: None})))
    five = {4: answer(4, configuration(range(5)), 0, state=state)}
    waits(decide(rolling(4, size=5, answers=five)))


def test_nobody_is_disturbed_before_a_restarted_member_is_ready_for_clients() -> None:
    assert "must be Ready first" in waits(decide(rolling(2, pods={2: {"ready": False}})))


@pytest.mark.parametrize("broken", ["ending", "missing", "claim"])
def test_nothing_is_removed_while_a_pod_is_on_its_way(broken: str) -> None:
    if broken == "ending":
        found = rolling(size=5, pods={4: {"terminating": True}})
    elif broken == "missing":
        found = rolling(size=5, gone=[4])
    else:
        disks = [volume(o, terminating=o == 1) for o in range(5)]
        found = rolling(size=5, volumes=disks)
    assert not isinstance(decide(found), RemovePod | Transfer)


def test_a_revision_is_believed_only_when_the_controller_has_seen_the_template() -> None:
    found = rolling()
    assert found.statefulset is not None
    found.statefulset["metadata"]["generation"] = 2
    assert "has not seen" in waits(decide(found))


def test_one_member_and_two_are_restarted_with_a_warning() -> None:
    only = decide(rolling(size=1))
    assert isinstance(only, RemovePod)
    assert "nothing is served" in only.warning
    two = decide(rolling(size=2))
    assert isinstance(two, RemovePod)
    assert "no write is accepted" in two.warning
    assert isinstance(decide(rolling(1, size=2)), Transfer)
    three = decide(rolling())
    assert isinstance(three, RemovePod)
    assert three.warning == ""
    waits(decide(rolling(size=2, answers={1: None})))


# ---- what needs no quorum


def test_a_corrected_template_reaches_a_cluster_that_a_bad_one_broke() -> None:
    down = dict.fromkeys(range(3))
    broken = world(image="a:2", live_image="bad:1", leader=None, answers=down, pods=dict.fromkeys(range(3), PULL))
    begun = decide(broken)
    assert isinstance(begun, WriteOperation)
    going = rolling(leader=None, answers=down, pods=dict.fromkeys(range(3), PULL), status={"rollout": None})
    assert removed(decide(going)) == 2
    ending = rolling(leader=None, answers=down, pods={0: PULL, 1: PULL, 2: {**PULL, "terminating": True}})
    assert not isinstance(decide(ending), RemovePod)


def test_a_cluster_that_was_never_founded_takes_a_corrected_template() -> None:
    down = dict.fromkeys(range(3))
    never = world(
        image="a:2", live_image="bad:1", leader=None, answers=down, pods=dict.fromkeys(range(3), PULL), founded=False
    )
    assert isinstance(decide(never), WriteOperation)


def test_a_mended_cluster_does_not_wait_for_others() -> None:
    down = dict.fromkeys(range(3))
    broken = world(image="a:2", live_image="bad:1", leader=None, answers=down, pods=dict.fromkeys(range(3), PULL))
    assert isinstance(decide(replace(broken, may_roll=False)), WriteOperation)


@pytest.mark.parametrize("pod", [{"ready": True}, {"ready": False}])
def test_a_member_that_is_only_silent_is_left_alone(pod: dict[str, Any]) -> None:
    """We may be the ones who are cut off: Kubernetes must name an error too."""
    silent = rolling(leader=None, answers=dict.fromkeys(range(3)), pods=dict.fromkeys(range(3), pod))
    assert not isinstance(decide(silent), RemovePod)


@pytest.mark.parametrize("state", [State.REPLAYING, State.LAGGING, State.DRAINING, State.CORRUPT])
def test_a_member_that_works_on_something_is_left_alone(state: State) -> None:
    busy = {2: answer(2, configuration(range(3)), 0, state=state)}
    assert not isinstance(decide(rolling(leader=None, answers=busy)), RemovePod)


def test_isolated_members_are_restarted_only_where_nobody_leads() -> None:
    """A flag that keeps them apart leaves them all Ready and Isolated: the budget lets one go at a time."""
    apart = {o: answer(o, configuration(range(3)), None, state=State.ISOLATED) for o in range(3)}
    assert removed(decide(rolling(leader=None, barrier=False, answers=apart))) == 2
    one = {2: apart[2]}
    assert not isinstance(decide(rolling(answers=one)), RemovePod)


# ---- giving up


def test_a_first_member_that_does_not_come_up_is_given_up() -> None:
    late = {**PULL, "created": NOW - NAMED_SECONDS - 1}
    action = decide(rolling(2, answers={2: None}, pods={2: late}))
    assert isinstance(action, WriteRollout)
    assert action.rollout.failed_hash == hash_of("a:2")
    assert action.rollout.good_hash == hash_of("a:1")
    assert "ImagePullBackOff" in action.rollout.failed_reason


@pytest.mark.parametrize(
    ("pod", "given_up"),
    [
        ({**PULL, "created": NOW - NAMED_SECONDS + 1}, False),
        ({"ready": False, "why": "its pod is Pending", "created": NOW - SILENT_SECONDS + 1}, False),
        ({"ready": False, "why": "its pod is Pending", "created": NOW - SILENT_SECONDS - 1}, True),
        ({"ready": False, "created": NOW - SILENT_SECONDS - 1}, True),
        ({**PULL, "terminating": True, "created": NOW - SILENT_SECONDS - 1}, False),
        ({"ready": True, "created": NOW - SILENT_SECONDS - 1}, False),
    ],
)
def test_the_bound_of_a_first_member(pod: dict[str, Any], given_up: bool) -> None:
    found = rolling(2, answers={2: None}, pods={2: pod})
    assert isinstance(decide(found), WriteRollout) is given_up


def test_a_member_that_answers_is_never_given_up_unless_it_cannot_read_its_log() -> None:
    late = {"ready": False, "created": NOW - 3600}
    three = configuration(range(3))
    replaying = {2: answer(2, three, 0, state=State.REPLAYING)}
    assert not isinstance(decide(rolling(2, answers=replaying, pods={2: late})), WriteRollout)
    outdated = {2: answer(2, three, 0, state=State.OUTDATED)}
    assert isinstance(decide(rolling(2, answers=outdated, pods={2: late})), WriteRollout)


def test_a_template_that_one_member_runs_is_not_given_up() -> None:
    late = {**PULL, "created": NOW - 3600}
    assert "must take part first" in waits(decide(rolling(1, 2, answers={1: None}, pods={1: late})))


def test_with_nothing_to_go_back_to_nothing_is_given_up() -> None:
    late = {**PULL, "created": NOW - 3600}
    found = rolling(2, answers={2: None}, pods={2: late}, status={"rollout": RolloutStatus()})
    assert not isinstance(decide(found), WriteRollout)


def taken_back(**changes: Any) -> World:
    """a:2 failed on demo-2; the StatefulSet still holds it."""
    failed = good(failed_hash=hash_of("a:2"), failed_reason="demo-2 did not come up")
    status = {"rollout": failed, **changes.pop("status", {})}
    return rolling(2, answers={2: None}, pods={2: PULL}, status=status, **changes)


def test_the_last_good_template_is_written_as_kubernetes_kept_it() -> None:
    kept = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"image": "a:1", "args": ["old"]}]}}
    found = replace(taken_back(), good_template=kept)
    assert isinstance(decide(found), WriteOperation)
    back = replace(taken_back(status={"operation": operation("a:1")}), good_template=kept)
    assert rollout.to_write(back) == statefulset.Template(hash_of("a:1"), kept)


def test_without_it_the_last_good_template_is_made_of_its_image_and_resources() -> None:
    back = taken_back(status={"operation": operation("a:1")})
    assert rollout.to_write(back).body == statefulset.template(back.cluster.with_spec(image="a:1"), "").body


def test_only_the_pod_that_failed_is_made_anew_and_then_it_is_said() -> None:
    status = {"rollout": good(failed_hash=hash_of("a:2"), failed_reason="demo-2 did not come up")}
    pods: dict[int, dict[str, Any]] = {2: {**PULL, "revision": "demo-failed"}}
    back = world(
        image="a:2", live_image="a:1", answers={2: None}, pods=pods, status={**status, "operation": operation("a:1")}
    )
    assert removed(decide(back)) == 2
    healed = world(image="a:2", live_image="a:1", status=status)
    said = plan(healed, diagnose(healed))
    assert isinstance(said, Wait)
    assert said.blocked
    assert "demo-2 did not come up" in waits(said, "RolledBack")
    assert [s.manifest["kind"] for s in ensure(healed, diagnose(healed)) if isinstance(s, Apply)].count(
        "StatefulSet"
    ) <= 1
    assert rollout.to_write(healed).hash == hash_of("a:1")


def test_a_silent_pod_of_a_failed_template_is_made_anew() -> None:
    """Kubernetes names no error; it was given up all the same, and nothing else may happen before it is gone."""
    status = {"rollout": good(failed_hash=hash_of("a:2"), failed_reason="x"), "operation": operation("a:1")}
    pods: dict[int, dict[str, Any]] = {0: {"revision": OLD}, 1: {"revision": OLD}, 2: {"ready": False}}
    still = world(image="a:2", answers={2: None}, pods=pods, status={**status, "operation": operation("a:2")})
    assert isinstance(decide(still), WriteOperation)
    pods = {2: {"ready": False, "revision": "demo-failed"}}
    written = world(image="a:2", live_image="a:1", answers={2: None}, pods=pods, status=status)
    assert removed(decide(written)) == 2


def test_another_template_is_tried_at_once_and_the_failed_one_after_a_way_round() -> None:
    failed = good(failed_hash=hash_of("a:2"), failed_reason="x")
    corrected = world(image="a:3", live_image="a:1", status={"rollout": failed})
    action = decide(corrected)
    assert isinstance(action, WriteRollout)
    assert (action.rollout.failed_hash, action.rollout.good_hash) == ("", hash_of("a:1"))
    reverted = world(image="a:1", status={"rollout": failed})
    action = decide(reverted)
    assert isinstance(action, WriteRollout)
    assert action.rollout.failed_hash == ""


def test_what_was_never_finished_is_no_template_to_go_back_to() -> None:
    """From a:1 over a half-done a:2 to a:3: back is a:1."""
    half = world(image="a:3", live_image="a:2", status={"operation": operation("a:2"), "rollout": good("a:1")})
    action = decide(half)
    assert isinstance(action, WriteOperation)
    down = dict.fromkeys(range(3))
    never = world(image="a:2", live_image="bad:1", leader=None, answers=down, pods=dict.fromkeys(range(3), PULL))
    assert isinstance(decide(never), WriteOperation)  # and no rollout with bad:1 in it


# ---- pause


def test_a_paused_cluster_is_left_alone() -> None:
    """Invariant 14."""
    found = rolling()
    paused = replace(found, cluster=replace(found.cluster, annotations={names.PAUSED_ANNOTATION: "true"}))
    assert names.PAUSED_ANNOTATION in waits(decide(paused), "Paused")
    assert ensure(paused, diagnose(paused)) == []
    other = replace(found, cluster=replace(found.cluster, annotations={names.PAUSED_ANNOTATION: "false"}))
    assert removed(decide(other)) == 2


# ---- random worlds


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A rolling update at any point, with members and pods in any state."""
    size = draw(st.integers(1, 5))
    leader = draw(st.sampled_from([None, *range(size)]))
    config = configuration(range(size))
    pods, said = {}, {}
    for ordinal in range(size):
        error = draw(st.sampled_from(["", "", "ImagePullBackOff", "CrashLoopBackOff"]))
        pods[ordinal] = {
            "ready": draw(st.booleans()),
            "terminating": draw(st.sampled_from([False, False, False, True])),
            "revision": draw(st.sampled_from([REVISION, OLD])),
            "created": NOW - draw(st.sampled_from([10.0, 200.0, 1000.0])),
            "waiting": error,
            "why": error and f"its container waits: {error}",
        }
        if ordinal != leader and draw(st.booleans()):
            state = draw(st.sampled_from([None, *State]))
            said[ordinal] = None if state is None else answer(ordinal, config, leader, state=state)
    image = draw(st.sampled_from(["a:1", "a:2", "a:3"]))
    failed = draw(st.sampled_from(["", hash_of("a:2"), hash_of("a:3")]))
    return world(
        spec=size,
        image=image,
        live_image=draw(st.sampled_from(["a:1", "a:2", "a:3"])),
        leader=leader,
        barrier=draw(st.booleans()),
        answers=said,
        pods=pods,
        gone=draw(st.sampled_from([[], [], [size - 1]])) if leader != size - 1 else [],
        status={
            "operation": draw(st.sampled_from([None, operation("a:1"), operation("a:2"), operation("a:3")])),
            "rollout": draw(st.sampled_from([None, RolloutStatus(), good(failed_hash=failed)])),
        },
    )


@given(worlds())
def test_no_pod_is_removed_that_a_quorum_hangs_on(found: World) -> None:
    """Invariants 4, 16, 17 and 19 of one decision, whatever it was made from."""
    diagnosis = diagnose(found)
    decision = decide(found)
    voters = len(diagnosis.configuration.voters) if diagnosis.configuration else 0
    if isinstance(decision, Transfer):
        assert decision.target in diagnosis.participating
        old = {node_id(pod.ordinal) for pod in rollout.outdated(found)} & diagnosis.participating
        assert old == {node_id(decision.leader.ordinal)}, "to one that is updated, and the leader last"
        assert rollout.latched(found)
    if not isinstance(decision, RemovePod):
        return
    assert rollout.latched(found), "the operation was written down first"
    assert rollout.live_hash(found) == rollout.wanted(found).hash
    assert rollout.updated(found, decision.pod) is False
    assert not any(pod.terminating for pod in found.pods)
    assert len(found.pods) >= diagnosis.replicas
    left = diagnosis.participating - {node_id(decision.pod.ordinal)}
    if left == diagnosis.participating:
        return  # it takes no part
    assert len(left) >= quorum(voters) or (voters == 2 and len(left) == 1) or voters == 1
    for pod in found.pods:
        if rollout.updated(found, pod):
            assert node_id(pod.ordinal) in diagnosis.participating
    if diagnosis.leader is not None and diagnosis.leader.pod == decision.pod:
        assert voters == 1
