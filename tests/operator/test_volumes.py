"""Lost disks and volumes: what proves a loss, what is done about it, and what stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.sim import NAME, Sim
from tests.operator.test_planner import decide, reason, voters
from tests.operator.worlds import UID, answer, configuration, member, node_id, pod, volume, world

from oarlock.wire.admin import State
from oarlock_operator import conditions, names
from oarlock_operator.actions import Configure, DeleteVolume, RemovePod, Reset, Transfer, Wait
from oarlock_operator.api.status import Condition, Status
from oarlock_operator.diagnose import Verdict, diagnose
from oarlock_operator.evidence import condemned, matches
from oarlock_operator.plan import plan
from oarlock_operator.world import Around, Node, Volume, World

HOSTNAME = "kubernetes.io/hostname"
NODES = tuple(Node(f"node-{o}", {HOSTNAME: f"node-{o}"}) for o in range(3))


def disk_on(node: str) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
    return {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}}


def claim(ordinal: int, *finalizers: str, member: str = "", **changes: Any) -> Volume:
    meta = {
        "name": names.claim(NAME, ordinal),
        "uid": f"volume-{ordinal}",
        "finalizers": ["kubernetes.io/pvc-protection", *finalizers],
        "annotations": {names.MEMBER_ANNOTATION: member or node_id(ordinal)},
    }
    return volume(ordinal, manifest={"metadata": meta, "spec": {"volumeName": f"pv-{ordinal}"}}, **changes)


def silent(*, nodes: tuple[Node, ...] | None = NODES, replace_id: str = "", **changes: Any) -> World:
    """Member 1 of three does not answer; it ran on node-1, where its volume is."""
    changes.setdefault("volumes", [claim(o) for o in range(3)])
    mounts = {names.claim(NAME, o): (names.pod(NAME, o),) for o in range(3)} | changes.pop("mounts", {})
    places = {o: {"node": f"node-{o}"} | changes.get("pods", {}).get(o, {}) for o in range(3)}
    found = world(answers={1: None} | changes.pop("answers", {}), **{**changes, "pods": places})
    disks = {f"pv-{o}": disk_on(f"node-{o}") for o in range(3)}
    hidden = "" if nodes is not None else "Nodes cannot be read."
    cluster = replace(found.cluster, annotations={names.REPLACE_ANNOTATION: replace_id} if replace_id else {})
    return replace(found, cluster=cluster, around=Around(nodes, disks if nodes is not None else {}, mounts, hidden))


def removed(**changes: Any) -> World:
    """The same, once its identity is out of the configuration."""
    return silent(config=configuration([0, 2], tombstones=[node_id(1)]), spec=3, **changes)


# ---- evidence


def test_a_member_that_does_not_answer_is_not_lost() -> None:
    assert diagnose(silent()).lost == frozenset()
    assert not isinstance(decide(silent()), Configure)


@pytest.mark.parametrize("how", ["gone", "out of service", "gone, pod pending"])
def test_a_disk_on_a_node_that_is_gone_is_lost(how: str) -> None:
    nodes = NODES[::2] if how != "out of service" else (*NODES[::2], replace(NODES[1], out_of_service=True))
    pods = {1: {"node": ""}} if "pending" in how else {}
    found = silent(nodes=nodes, pods=pods)
    assert diagnose(found).lost == {node_id(1)}
    assert voters(decide(found)) == [0, 2]


@pytest.mark.parametrize(
    "why", ["the node is there", "another node can use it", "any node can use it", "not permitted"]
)
def test_a_node_that_is_gone_is_no_proof_while(why: str) -> None:
    found = silent(nodes=NODES if why == "the node is there" else None if why == "not permitted" else NODES[::2])
    assert found.around is not None
    if why == "another node can use it":
        found = replace(found, around=replace(found.around, disks={"pv-1": disk_on("node-2")}))
    if why == "any node can use it":
        found = replace(found, around=replace(found.around, disks={"pv-1": {"spec": {}}}))
    assert diagnose(found).lost == frozenset()


def test_what_cannot_be_seen_is_said() -> None:
    assert conditions.degraded(silent(nodes=None), diagnose(silent(nodes=None))).message.endswith("cannot be read.")


def test_a_claim_that_is_gone_is_a_lost_disk_unless_its_member_answers() -> None:
    left = [claim(0), claim(2)]
    assert diagnose(silent(volumes=left)).lost == {node_id(1)}
    assert diagnose(world(volumes=left)).lost == frozenset()


def test_a_persons_word_is_proof_for_that_very_id() -> None:
    assert voters(decide(silent(replace_id=node_id(1)))) == [0, 2]
    assert diagnose(silent(replace_id=node_id(1, 7))).lost == frozenset()


def test_an_outdated_member_is_never_lost() -> None:
    three = configuration(range(3))
    for changes in ({}, {"volume_uid": "another"}):
        old = answer(1, three, 0, state=State.OUTDATED, **changes)
        assert diagnose(world(answers={1: old})).lost == frozenset()


def test_two_lost_and_one_silent_is_uncertain_until_a_disk_is_gone() -> None:
    ending = [claim(0), claim(1, terminating=True), claim(2, terminating=True)]
    found = silent(volumes=ending, leader=None, answers={2: None})
    assert diagnose(found).verdict is Verdict.QUORUM_UNCERTAIN  # their pods hold the claims still


@pytest.mark.parametrize(
    ("expression", "held"),
    [
        (("In", ["a", "b"]), True),
        (("NotIn", ["a"]), False),
        (("Exists", []), True),
        (("DoesNotExist", []), False),
        (("Gt", ["1"]), False),
        (("Unheard", []), True),
    ],
)
def test_affinity_is_read_as_the_scheduler_reads_it(expression: tuple[str, list[str]], held: bool) -> None:
    term = {"matchExpressions": [{"key": "k", "operator": expression[0], "values": expression[1]}]}
    assert matches([term], Node("n", {"k": "a"})) is held
    assert matches([{}], Node("n")) is False
    assert matches([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}], Node("n"))
    number = {"matchExpressions": [{"key": "k", "operator": "Lt", "values": ["5"]}]}
    assert matches([number], Node("n", {"k": "4"}))


# ---- a claim that is being deleted under a member that takes part


def ending(*finalizers: str, **changes: Any) -> World:
    disks = [claim(0), claim(1, *finalizers, terminating=True), claim(2)]
    return silent(volumes=disks, answers={1: answer(1, configuration(range(3)), changes.get("leader", 0))}, **changes)


def test_a_mounted_claim_that_is_being_deleted_is_a_lost_disk() -> None:
    diagnosis = diagnose(ending())
    assert diagnosis.lost == {node_id(1)}
    assert diagnosis.participating == {node_id(o) for o in range(3)}, "it counts for as long as it runs"
    assert voters(decide(ending())) == [0, 2]


def test_a_leader_whose_disk_goes_hands_over_first() -> None:
    action = decide(ending(leader=1))
    assert isinstance(action, Transfer)
    assert action.target in (node_id(0), node_id(2))


def test_all_claims_deleted_at_once_are_replaced_one_by_one() -> None:
    """`kubectl delete pvc --all`: nobody is gone yet, and nobody need be."""
    disks = [claim(o, terminating=True) for o in range(3)]
    said = {1: answer(1, configuration(range(3)), 2)}
    assert voters(decide(silent(volumes=disks, leader=2, answers=said))) == [1, 2]


@pytest.mark.parametrize("how", ["foreign finalizer", "another pod", "one is away", "not seen"])
def test_a_member_stays_on_its_ending_disk_while(how: str) -> None:
    if how == "foreign finalizer":
        found = ending("example.com/hold")
    elif how == "another pod":
        found = ending(mounts={names.claim(NAME, 1): ("demo-1", "debug")})
    elif how == "one is away":
        five = configuration(range(5))
        disks = [claim(o, terminating=o == 1) for o in range(5)]
        found = silent(spec=5, config=five, volumes=disks, answers={1: answer(1, five, 0), 4: None})
    else:
        found = replace(ending(), around=None)
    decision = decide(found)
    assert reason(decision) == "PodCreationBlocked"
    assert isinstance(decision, Wait)
    said = conditions.degraded(found, diagnose(found))
    assert (said.status, said.reason) == (True, "PodCreationBlocked")
    words = {"foreign finalizer": "finalizer example.com/hold", "another pod": "debug", "one is away": node_id(4)}
    assert words.get(how, "not seen yet") in said.message
    assert words.get(how, "not seen yet") in decision.message


def test_scaling_in_goes_past_a_claim_that_hangs() -> None:
    """It may be the way out: the place itself is given up."""
    five = configuration(range(5))
    disks = [claim(o, *(["example.com/hold"] if o == 4 else []), terminating=o == 4) for o in range(5)]
    said = {1: answer(1, five, 0)}
    action = decide(silent(spec=3, config=five, volumes=disks, answers=said))
    assert isinstance(action, Configure)
    assert node_id(4) not in {one.id for one in action.voters}


# ---- the disk itself


@pytest.mark.parametrize("replace_id", ["", node_id(1)])
def test_claim_first_then_pod(replace_id: str) -> None:
    nodes = NODES if replace_id else NODES[::2]
    first = decide(removed(nodes=nodes, replace_id=replace_id))
    assert isinstance(first, DeleteVolume)
    assert first.volume.ordinal == 1
    gone = [claim(0), claim(1, terminating=True), claim(2)]
    second = decide(removed(nodes=nodes, replace_id=replace_id, volumes=gone))
    assert isinstance(second, RemovePod)
    assert second.pod.ordinal == 1
    third = decide(removed(nodes=nodes, replace_id=replace_id, volumes=gone, pods={1: {"terminating": True}}))
    assert reason(third) == "WaitingForPods"


def test_a_new_disk_is_not_condemned_for_the_old_ones_sake() -> None:
    """The annotation stands there still, and the new pod does not answer yet."""
    fresh = [claim(0), claim(1, member="nobody"), claim(2)]
    found = removed(replace_id=node_id(1), volumes=fresh)
    assert condemned(found, 1) == ""
    assert reason(decide(found)) == "WaitingForPods"


def test_what_answers_is_reset_and_its_claim_kept() -> None:
    left = {1: answer(1, configuration(range(3)), 0, state=State.REMOVED)}
    found = removed(nodes=NODES[::2], replace_id=node_id(1), answers=left)
    assert isinstance(decide(found), Reset)


def test_no_disk_is_replaced_while_another_voter_is_away() -> None:
    four = configuration([0, 2, 3, 4], tombstones=[node_id(1)])
    disks = [claim(o) for o in range(5)]
    found = silent(spec=5, config=four, nodes=NODES[::2], volumes=disks, answers={4: None})
    decision = decide(found)
    assert reason(decision) == "WaitingForPods"
    assert isinstance(decision, Wait)
    assert f"{node_id(4)} must take part" in decision.message


def test_an_idle_member_on_an_ending_disk_is_not_added() -> None:
    gone = [claim(0), claim(1, "example.com/hold", terminating=True), claim(2)]
    fresh = {1: answer(1, None, None, node_id=node_id(1, 2))}
    decision = decide(removed(volumes=gone, answers=fresh))
    assert reason(decision) == "WaitingForPods"


# ---- placement


@pytest.mark.parametrize(("nodes", "shared"), [("abc", False), ("aab", True), ("aabbc", False), ("aaabc", True)])
def test_a_node_that_holds_the_quorum_is_told(nodes: str, shared: bool) -> None:
    size = len(nodes)
    found = world(spec=size, config=configuration(range(size)), pods={o: {"node": n} for o, n in enumerate(nodes)})
    said = conditions.degraded(found, diagnose(found))
    assert (said.reason == "SharedNode") is shared
    if shared:
        assert "Node a" in said.message


# ---- whole passes


def told(sim: Sim, kind: str) -> Condition:
    status = Status.model_validate(sim.objects[(names.KIND, NAME)]["status"])
    return next(one for one in status.conditions if one.type == kind)


def healthy(sim: Sim) -> None:
    group = sim.group()
    assert group is not None
    assert sorted(names.ordinal_of_member(NAME, one.id) or 0 for one in group.voters) == [0, 1, 2]
    assert not group.learners
    assert told(sim, "Available").status == "True"
    assert told(sim, "Degraded").status == "False", told(sim, "Degraded")


def ids(sim: Sim) -> set[str]:
    group = sim.group()
    assert group is not None
    return {one.id for one in group.voters}


async def founded() -> Sim:
    sim = Sim(3)
    sim.add_node("spare")
    await sim.run(40)
    healthy(sim)
    return sim


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("how", ["node deleted", "out of service", "claim deleted", "annotation"])
async def test_a_lost_disk_is_replaced(how: str, which: int) -> None:
    sim = await founded()
    before = ids(sim)
    node = sim.node_of(which)
    assert node is not None
    lost = next(id_ for id_ in before if names.ordinal_of_member(NAME, id_) == which)
    if how == "claim deleted":
        sim.delete_claim(which)
    elif how == "annotation":
        sim.down.add(names.pod(NAME, which))
        await sim.run(5)
        assert ids(sim) == before
        sim.annotate(names.REPLACE_ANNOTATION, lost)
        await sim.run(10)
        sim.down.discard(names.pod(NAME, which))
    else:
        sim.power_off(node)
        await sim.run(10)
        assert ids(sim) == before, "unreachable alone is no proof"
        if how == "node deleted":
            sim.delete_node(node)
        else:
            sim.taint_out_of_service(node)
    await sim.run(60)
    healthy(sim)
    assert len(ids(sim) - before) == 1
    assert lost not in ids(sim)
    writes = len(sim.writes)
    await sim.run(5)
    assert len(sim.writes) == writes, sim.writes[writes:]


async def test_a_foreign_finalizer_stops_everything_and_its_end_heals() -> None:
    sim = await founded()
    before = ids(sim)
    sim.hold_claim(1)
    sim.delete_claim(1)
    await sim.run(20)
    assert ids(sim) == before
    assert told(sim, "Degraded").reason == "PodCreationBlocked"
    assert "example.com/hold" in told(sim, "Degraded").message
    assert sim.objects[("PodDisruptionBudget", NAME)]["spec"]["minAvailable"] == 3
    sim.hold_claim(1, None)
    await sim.run(60)
    healthy(sim)
    assert sim.objects[("PodDisruptionBudget", NAME)]["spec"]["minAvailable"] == 2


async def test_claims_deleted_all_at_once_lose_nothing() -> None:
    sim = await founded()
    for ordinal in range(3):
        sim.delete_claim(ordinal)
    await sim.run(120)
    healthy(sim)


async def test_a_cluster_made_again_without_claim_0_is_adopted() -> None:
    sim = await founded()
    group = sim.group()
    sim.delete_cluster()
    sim.delete_claim(0)
    sim.settle()
    assert ("PersistentVolumeClaim", names.claim(NAME, 0)) not in sim.objects
    sim.calls.clear()
    sim.make_cluster(3)
    await sim.run(60)
    assert sim.group() is group
    assert not [call for call in sim.calls if call.startswith("bootstrap")]
    healthy(sim)


async def test_orphans_are_taken_over_without_a_restart() -> None:
    sim = await founded()
    pods = {key: pod["metadata"]["uid"] for key, pod in sim.objects.items() if key[0] == "Pod"}
    group = sim.group()
    sim.delete_cluster(orphan=True)
    sim.make_cluster(3)
    await sim.run(60)
    healthy(sim)
    assert sim.group() is group
    assert {key: pod["metadata"]["uid"] for key, pod in sim.objects.items() if key[0] == "Pod"} == pods
    uid = sim.objects[(names.KIND, NAME)]["metadata"]["uid"]
    (template,) = sim.objects[("StatefulSet", NAME)]["spec"]["volumeClaimTemplates"]
    assert template["metadata"]["labels"][names.CLUSTER_UID_LABEL] == uid, "new volumes are born with the new uid"
    writes = len(sim.writes)
    await sim.run(5)
    assert len(sim.writes) == writes, sim.writes[writes:]


async def test_a_grown_volume_renews_the_statefulset_around_its_pods() -> None:
    sim = await founded()
    pods = {key: pod["metadata"]["uid"] for key, pod in sim.objects.items() if key[0] == "Pod"}
    before = sim.objects[("StatefulSet", NAME)]["metadata"]["uid"]
    sim.edit(storage={"size": "2Gi", "retention": {"whenDeleted": "Retain", "whenScaled": "Retain"}})
    await sim.run(30)
    healthy(sim)
    sts = sim.objects[("StatefulSet", NAME)]
    assert sts["metadata"]["uid"] != before
    assert sts["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert {key: pod["metadata"]["uid"] for key, pod in sim.objects.items() if key[0] == "Pod"} == pods
    sizes = [
        item["spec"]["resources"]["requests"]["storage"]
        for (kind, _), item in sim.objects.items()
        if kind == "PersistentVolumeClaim"
    ]
    assert sizes == ["2Gi"] * 3


def test_a_statefulset_that_is_gone_does_not_come_back_smaller() -> None:
    """Between its end and its return the pods are what tells how many there shall be."""
    found = replace(world(spec=3, config=configuration(range(5)), barrier=False), statefulset=None)
    mute = replace(found, seen=tuple(replace(seen, status=None) for seen in found.seen))
    assert diagnose(mute).replicas == 5


def test_a_plan_on_an_ending_claim_names_no_other() -> None:
    """What is planned for a claim is planned for the place of that claim alone."""
    found = ending()
    decision = plan(found, diagnose(found))
    assert isinstance(decision, Configure)
    assert {one.id for one in decision.voters} == {member(0).id, member(2).id}
    assert pod(1).name in decision.why
    assert found.cluster.uid == UID
