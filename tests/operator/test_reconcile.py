"""Whole passes over a simulated Kubernetes with simulated members: what a user does, and what fails meanwhile."""

from __future__ import annotations

import base64

import pytest
from tests.operator.sim import NAME, Crash, Disk, FakeKube, Oracle, Sim

from oarlock.wire.admin import BootstrapRequest, ConfigurationRequest, ResetRequest, StatusAnswer
from oarlock_operator import names
from oarlock_operator.api.status import Status


def status(sim: Sim) -> Status:
    return Status.model_validate(sim.objects[(names.KIND, NAME)]["status"])


def condition(sim: Sim, kind: str) -> tuple[str, str]:
    found = next(one for one in status(sim).conditions if one.type == kind)
    return found.status, found.reason


def voters(sim: Sim) -> list[int]:
    group = sim.group()
    assert group is not None
    return sorted(names.ordinal_of_member(NAME, member.id) or 0 for member in group.voters)


def pods(sim: Sim) -> int:
    return sum(kind == "Pod" for kind, _ in sim.objects)


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 9])
async def test_a_cluster_is_founded_once_and_reaches_its_size(replicas: int) -> None:
    sim = Sim(replicas)
    await sim.run()
    assert voters(sim) == list(range(replicas))
    assert sim.calls.count("bootstrap demo-0") == 1
    assert condition(sim, "Available") == ("True", "QuorumHealthy")
    assert condition(sim, "Progressing") == ("False", "Idle")
    assert condition(sim, "Degraded") == ("False", "EvenSize" if replicas == 2 else "AllHealthy")
    assert status(sim).replicas == status(sim).ready_replicas == replicas


async def test_the_latch_is_written_on_the_version_it_was_decided_on() -> None:
    """Somebody changed the object in between: the latch is refused, and planned again on what is there now."""
    sim = Sim(3)
    reconciler = sim.reconciler()
    await sim.run(3, reconciler)
    assert "bootstrap" not in sim.objects[(names.KIND, NAME)]["status"]
    members, notes = reconciler._members, 0
    real = members.status

    async def status_then_edit(ip: str, token: str) -> StatusAnswer:
        nonlocal notes
        said = await real(ip, token)
        if notes < 20:
            notes += 1
            sim.touch(sim.objects[(names.KIND, NAME)])
        return said

    members.status = status_then_edit  # type: ignore[method-assign]  # a person who edits while we look
    await sim.run(4, reconciler)
    assert "bootstrap" not in sim.objects[(names.KIND, NAME)]["status"]
    await sim.run(20, reconciler)
    assert voters(sim) == [0, 1, 2]


async def test_all_missing_members_are_added_in_one_change() -> None:
    """Never through an even size: 1 to 3, 3 to 5 and back are one change each (rules 13 and 14)."""
    sim = Sim(3)
    await sim.run()
    assert [call for call in sim.calls if call.startswith("configure")] == ["configure 1+2"]
    sim.calls.clear()
    sim.scale(5)
    await sim.run()
    sim.scale(3)
    await sim.run()
    assert [call for call in sim.calls if call.startswith("configure")] == ["configure 3+2", "configure 3+0"]
    assert pods(sim) == 3


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_three_to_one_to_three_with_either_retention(policy: str) -> None:
    """A kept volume is reset before its member is added again, since its old id has a tombstone (rule 15)."""
    retention = {"whenDeleted": "Retain", "whenScaled": policy}
    sim = Sim(3, spec={"storage": {"size": "1Gi", "retention": retention}})
    await sim.run()
    sim.scale(1)
    await sim.run()
    claims = [name for kind, name in sim.objects if kind == "PersistentVolumeClaim"]
    assert len(claims) == (3 if policy == "Retain" else 1)
    assert pods(sim) == 1
    sim.scale(3)
    await sim.run()
    assert voters(sim) == [0, 1, 2]
    resets = [call for call in sim.calls if call.startswith("reset")]
    assert sorted(resets) == (["reset demo-1", "reset demo-2"] if policy == "Retain" else [])


async def test_a_leader_that_is_to_go_hands_over_first() -> None:
    sim = Sim(5)
    await sim.run()
    group = sim.group()
    assert group is not None
    group.leader = next(m.id for m in group.voters if m.id.startswith("demo-4-"))
    sim.calls.clear()
    sim.scale(3)
    await sim.run()
    assert [call.split()[0] for call in sim.calls] == ["transfer", "configure"]
    assert voters(sim) == [0, 1, 2]


async def test_a_quiet_cluster_causes_no_writes() -> None:
    """Invariant 10: healthy and unchanged means not one write to the API server, and none to members."""
    sim = Sim(3)
    reconciler = await sim.run()
    sim.writes.clear()
    sim.calls.clear()
    await sim.run(20, reconciler)
    assert sim.writes == []
    assert sim.calls == []


async def test_a_deleted_pod_comes_back_as_the_same_member() -> None:
    sim = Sim(3)
    await sim.run()
    group = sim.group()
    assert group is not None
    before = {m.id for m in group.voters}
    for ordinal in range(3):
        sim.delete_pod(ordinal)
        await sim.run(5)
    assert {m.id for m in group.voters} == before


async def test_a_silent_member_is_never_removed() -> None:
    """Not to answer is no proof of a lost disk."""
    sim = Sim(3)
    await sim.run()
    sim.down.add("demo-1")
    sim.calls.clear()
    await sim.run(50)
    assert sim.calls == []
    assert voters(sim) == [0, 1, 2]
    assert condition(sim, "Degraded") == ("True", "MembersUnhealthy")
    assert condition(sim, "Available")[0] == "True"


@pytest.mark.parametrize("damage", ["emptied", "corrupt", "another volume"])
async def test_a_member_whose_disk_is_proven_lost_is_replaced(damage: str) -> None:
    sim = Sim(3)
    await sim.run()
    group, disk = sim.group(), sim.disk_of("demo-1")
    assert group is not None
    assert disk is not None
    old = disk.node_id
    if damage == "emptied":
        sim.empty_disk(1)
    elif damage == "corrupt":
        disk.corrupt = True
    else:
        disk.volume_uid = "an older claim"
    await sim.run()
    assert voters(sim) == [0, 1, 2]
    assert old in group.tombstones
    assert old not in {m.id for m in group.voters}
    assert condition(sim, "Degraded")[0] == "False"


async def test_two_lost_disks_of_three_change_nothing() -> None:
    """There is no quorum left to decide; the operator says so and waits for a person."""
    sim = Sim(3)
    await sim.run()
    sim.empty_disk(1)
    sim.empty_disk(2)
    sim.calls.clear()
    await sim.run()
    assert sim.calls == []
    assert condition(sim, "Available") == ("False", "QuorumLost")


async def test_a_cluster_that_lost_every_disk_is_not_founded_again() -> None:
    sim = Sim(3)
    await sim.run()
    for ordinal in range(3):
        sim.empty_disk(ordinal)
    sim.calls.clear()
    await sim.run()
    assert sim.calls == []
    assert condition(sim, "Available") == ("False", "DataLost")


async def test_a_cluster_made_again_takes_its_volumes_over() -> None:
    """Deleted and applied again with Retain: the data is there and nothing is founded again."""
    sim = Sim(5)
    await sim.run()
    old = sim.group()
    assert old is not None
    sim.delete_cluster()
    sim.calls.clear()
    sim.make_cluster(3)
    await sim.run()
    assert sim.group() is old
    assert not [call for call in sim.calls if call.startswith("bootstrap")]
    latch = status(sim).bootstrap
    assert latch is not None
    assert latch.adopted
    assert voters(sim) == [0, 1, 2]
    assert pods(sim) == 3


async def test_nothing_is_founded_beside_an_old_volume() -> None:
    """An empty volume that was made for another object is reason enough not to found: who knows what it held."""
    sim = Sim(3)
    sim.settle()
    meta = {"name": "data-demo-1", "namespace": "default", "labels": {names.CLUSTER_UID_LABEL: "another"}}
    claim = sim.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": {}})
    sim.disks[claim["metadata"]["uid"]] = Disk(sim.incarnation(1))
    await sim.run()
    assert sim.groups == {}
    assert condition(sim, "Available") == ("False", "ForeignVolumes")
    assert condition(sim, "Progressing") == ("False", "ForeignVolumes")


async def test_a_smaller_spec_waits_until_writes_are_accepted() -> None:
    """min_voters is a latch in replicated state: below it no write is ever accepted, so it is reached first."""
    sim = Sim(5)
    reconciler = sim.reconciler()
    for _ in range(30):
        await sim.run(1, reconciler)
        if sim.groups:
            break
    sim.scale(3)
    await sim.run(40, reconciler)
    group = sim.group()
    assert group is not None
    assert group.min_voters == 0
    assert voters(sim) == [0, 1, 2]
    assert condition(sim, "Available")[0] == "True"


async def test_replicas_follow_the_committed_configuration() -> None:
    """While the joint configuration is not committed, its outgoing members keep their pods."""
    sim = Sim(5)
    reconciler = await sim.run()
    sim.hold_commits = True
    sim.scale(3)
    await sim.run(20, reconciler)
    assert pods(sim) == 5
    assert condition(sim, "Progressing") == ("True", "ChangeInProgress")
    sim.hold_commits = False
    await sim.run(5, reconciler)
    assert pods(sim) == 3


async def test_a_member_that_we_do_not_know_is_never_removed() -> None:
    sim = Sim(3)
    await sim.run()
    group = sim.group()
    assert group is not None
    stranger = group.voters[0].model_copy(update={"id": "outside-0123456789abcdef"})
    group.learners.append(stranger)
    sim.scale(1)
    await sim.run()
    assert voters(sim) == [0]
    assert stranger in group.learners


async def test_two_operators_do_not_act_at_once() -> None:
    sim = Sim(3)
    first = await sim.run(3)
    second = sim.reconciler("operator-2")
    sim.writes.clear()
    sim.calls.clear()
    for _ in range(10):
        await sim.run(1, first)
        before = (len(sim.writes), len(sim.calls))
        await second.one_pass(woken=True)
        assert (len(sim.writes), len(sim.calls)) == before


async def test_an_existing_object_of_our_name_is_left_alone() -> None:
    sim = Sim(3)
    meta = {"name": NAME, "namespace": "default"}
    theirs = sim.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": []}})
    version = theirs["metadata"]["resourceVersion"]
    await sim.run()
    assert sim.objects[("Service", NAME)]["metadata"]["resourceVersion"] == version
    assert ("StatefulSet", NAME) not in sim.objects
    assert condition(sim, "Available") == ("False", "NameTaken")


async def story(sim: Sim) -> None:
    """Founded, grown, a disk lost, shrunk to one: the acts that leave something half done when they are cut off."""
    await sim.run(25)
    sim.scale(5)
    await sim.run(15)
    sim.empty_disk(2)
    await sim.run(15)
    sim.scale(1)
    await sim.run(20)


async def test_a_crash_after_any_side_effect_ends_in_the_same_state() -> None:
    """Invariant 11: the operator dies right after each single write or call, once each, and another one goes on."""
    whole = Sim(3)
    await story(whole)
    effects = len(whole.writes) + len(whole.calls)
    assert effects > 30
    for cut in range(1, effects + 1):
        sim = Sim(3)
        sim.fail_after = cut
        try:
            await story(sim)
        except Crash:
            sim.now += 60  # the Lease of the dead one runs out
            survivor = sim.reconciler("operator-2")
            for step in (5, 1):
                if sim.objects[(names.KIND, NAME)]["spec"]["replicas"] != step:
                    await sim.run(30, survivor)
                sim.scale(step)
                await sim.run(30, survivor)
        assert voters(sim) == [0], f"cut after {cut}"
        assert pods(sim) == 1, f"cut after {cut}"
        assert condition(sim, "Available")[0] == "True", f"cut after {cut}"


@pytest.mark.parametrize("nth", range(1, 12))
async def test_an_answer_that_is_lost_is_no_second_act(nth: int) -> None:
    """The call took effect, its answer did not arrive: the next pass looks instead of asking again."""
    sim = Sim(3)
    reconciler = sim.reconciler()
    done = 0
    for _ in range(60):
        if len(sim.calls) >= nth - 1 and done < 1:
            sim.lose_answer, done = True, 1
        await sim.run(1, reconciler)
        if len(sim.calls) == nth + 1:
            sim.scale(5)
    await sim.run(20, reconciler)
    assert sim.calls.count("bootstrap demo-0") == 1
    assert voters(sim) == list(range(len(voters(sim))))
    assert condition(sim, "Available")[0] == "True"


async def test_the_oracles_fire() -> None:
    """Each thing that the model forbids is noticed when it is done."""
    sim = Sim(3)
    reconciler = await sim.run()
    kube, members = reconciler._kube, reconciler._members
    assert isinstance(kube, FakeKube)
    kube.eyes.cluster["status"]["operation"] = {"type": "ScaleIn"}  # else that is what is noticed first
    sts = await kube.get("apps/v1", "StatefulSet", "default", NAME)
    assert sts is not None
    sts["spec"]["replicas"] = 1
    with pytest.raises(Oracle, match="pods away"):
        await kube.apply({**sts, "metadata": {"name": NAME, "namespace": "default"}})
    claim = await kube.get("v1", "PersistentVolumeClaim", "default", "data-demo-1")
    assert claim is not None
    with pytest.raises(Oracle, match="volume of a member"):
        await kube.delete(claim, unchanged=True)
    group = sim.group()
    assert group is not None
    ip = f"10.0.0.{names.ordinal_of_member(NAME, group.leader)}"
    secret = sim.objects[("Secret", "demo-admin")]
    token = base64.b64decode(secret["data"]["token"]).decode()
    leader = [m for m in group.voters if m.id == group.leader]
    others = [m for m in group.voters if m.id != group.leader]
    for voters_, why in ((leader + others[:1], "sound member"), (others, "leader|sound")):
        with pytest.raises(Oracle, match=why):
            await members.configure(ip, token, ConfigurationRequest(voters=voters_, if_config=group.model().id))
    with pytest.raises(Oracle, match="resets a member"):
        await members.reset(ip, token, ResetRequest(request_id="r", node_id=group.leader))
    sim.empty_disk(1)
    sim.settle()
    with pytest.raises(Oracle, match="beside an old disk"):
        await members.bootstrap("10.0.0.1", token, BootstrapRequest(request_id="r", cluster_id="c"))
