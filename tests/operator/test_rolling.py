"""Rolling updates, roll-back, pause and the slot of operations: whole passes over the simulated Kubernetes."""

from __future__ import annotations

import pytest
from tests.operator.sim import NAME, Crash, Sim

from oarlock_operator import names
from oarlock_operator.api.status import Status
from oarlock_operator.kube import KubeError
from oarlock_operator.reconcile import Reconciler
from oarlock_operator.resources import statefulset


def status(sim: Sim) -> Status:
    return Status.model_validate(sim.objects[(names.KIND, NAME)]["status"])


def progressing(sim: Sim) -> tuple[str, str]:
    found = next(one for one in status(sim).conditions if one.type == "Progressing")
    return found.status, found.reason


def images(sim: Sim) -> list[str]:
    pods = [pod for (kind, _), pod in sorted(sim.objects.items()) if kind == "Pod"]
    return [pod["spec"]["containers"][0]["image"] for pod in pods]


def events(sim: Sim) -> list[str]:
    return [event["reason"] for (kind, _), event in sim.objects.items() if kind == "Event"]


def disruptions(sim: Sim) -> list[str]:
    return [write for write in sim.writes if write.startswith(("evict", "delete Pod"))]


async def running(size: int, image: str = "a:1") -> tuple[Sim, Reconciler]:
    sim = Sim(size, spec={"image": image})
    reconciler = await sim.run(30)
    sim.writes.clear()
    sim.calls.clear()
    return sim, reconciler


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_every_pod_comes_to_run_the_new_image(size: int) -> None:
    sim, reconciler = await running(size)
    group = sim.group()
    assert group is not None
    members = {m.id for m in group.voters}
    most_down = 0

    def watch(_: str) -> None:
        nonlocal most_down
        most_down = max(most_down, size - len(sim.up(group)))

    sim.watch.append(watch)
    sim.edit(image="a:2")
    await sim.run(50, reconciler)
    assert images(sim) == ["a:2"] * size
    assert len(disruptions(sim)) == size
    assert all(write.startswith("evict") for write in disruptions(sim)), "a Ready pod is never deleted"
    assert [call.split()[0] for call in sim.calls] == (["transfer"] if size > 1 else [])
    assert {m.id for m in group.voters} == members
    assert most_down <= 1
    assert progressing(sim) == ("False", "Idle")
    assert all(member.updated for member in status(sim).members)
    assert status(sim).operation is None
    found = events(sim)
    assert found.count("RollingUpdateStarted") == found.count("RollingUpdateFinished") == 1
    assert found.count("NoFaultTolerance") == (size if size < 3 else 0)
    sim.writes.clear()
    await sim.run(10, reconciler)
    assert sim.writes == []


@pytest.mark.parametrize("bad", ["bad:1", "crash:1"])
@pytest.mark.parametrize("size", [1, 2, 3])
async def test_a_bad_image_is_taken_back_and_then_corrected(size: int, bad: str) -> None:
    """One pod tries it; the others never stop."""
    sim, reconciler = await running(size)
    sim.edit(image=bad)
    await sim.run(160, reconciler)
    assert images(sim) == ["a:1"] * size
    assert len(disruptions(sim)) == 2
    assert progressing(sim) == ("False", "RolledBack")
    assert "RolledBack" in events(sim)
    assert status(sim).operation is None
    sim.writes.clear()
    await sim.run(30, reconciler)
    assert sim.writes == [], "it is not tried again"
    sim.edit(image="a:2")
    await sim.run(50, reconciler)
    assert images(sim) == ["a:2"] * size
    assert progressing(sim) == ("False", "Idle")
    latch = status(sim).rollout
    assert latch is not None
    assert (latch.good_image, latch.failed_hash) == ("a:1", "")


async def test_a_bad_image_that_is_taken_back_by_hand_may_be_tried_again() -> None:
    """It may be there by now: the registry was filled meanwhile."""
    sim, reconciler = await running(3)
    sim.edit(image="bad:1")
    await sim.run(160, reconciler)
    sim.edit(image="a:1")
    await sim.run(10, reconciler)
    assert progressing(sim) == ("False", "Idle")
    sim.writes.clear()
    sim.edit(image="bad:1")
    await sim.run(10, reconciler)
    assert len(disruptions(sim)) == 1


@pytest.mark.parametrize("bad", ["bad:1", "crash:1"])
async def test_a_cluster_that_began_with_a_bad_image_is_founded_with_a_corrected_one(bad: str) -> None:
    sim = Sim(3, spec={"image": bad})
    reconciler = await sim.run(20)
    assert sim.groups == {}
    sim.edit(image="a:2")
    await sim.run(60, reconciler)
    assert images(sim) == ["a:2"] * 3
    assert len(status(sim).members) == 3
    assert progressing(sim) == ("False", "Idle")


async def test_what_a_newer_operator_renders_otherwise_is_taken_back_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default image fails, and it cannot render the template of before: Kubernetes has kept it."""
    sim = Sim(3)
    first = await sim.run(30)
    await first.close()
    before = {pod["metadata"]["uid"] for (kind, _), pod in sim.objects.items() if kind == "Pod"}
    monkeypatch.setattr(statefulset, "GRACE_SECONDS", 77)
    newer = sim.reconciler("operator-2", image="bad:2")
    await sim.run(160, newer)
    pods = [pod for (kind, _), pod in sim.objects.items() if kind == "Pod"]
    assert {pod["spec"]["terminationGracePeriodSeconds"] for pod in pods} == {30}
    assert len(before & {pod["metadata"]["uid"] for pod in pods}) == 2
    assert progressing(sim) == ("False", "RolledBack")


async def test_an_eviction_that_the_budget_forbids_is_a_wait_with_a_sentence() -> None:
    sim, reconciler = await running(3)
    kept, real = [], sim.evict

    def strict(name: str) -> None:
        kept.append(name)
        raise KubeError(429, "Cannot evict pod as it would violate the pod's disruption budget.")

    sim.evict = strict  # type: ignore[method-assign]  # somebody else's budget allows none
    sim.edit(image="a:2")
    await sim.run(20, reconciler)
    assert kept
    assert disruptions(sim) == []
    assert progressing(sim) == ("True", "EvictionRefused")
    sim.evict = real  # type: ignore[method-assign]
    await sim.run(40, reconciler)
    assert images(sim) == ["a:2"] * 3


async def test_a_paused_cluster_is_only_watched() -> None:
    """Invariant 14: not one mutating call, and the status goes on."""
    sim, reconciler = await running(3)
    sim.annotate(names.PAUSED_ANNOTATION, "true")
    sim.edit(image="a:2", replicas=5)
    sim.down.add("demo-1")
    await sim.run(30, reconciler)
    assert progressing(sim) == ("False", "Paused")
    assert next(m.state for m in status(sim).members if m.pod == "demo-1") == "Unreachable"
    assert {write for write in sim.writes if "/status" not in write and "Event" not in write} == set()
    assert sim.calls == []
    sim.down.clear()
    sim.annotate(names.PAUSED_ANNOTATION, None)
    await sim.run(80, reconciler)
    assert images(sim) == ["a:2"] * 5
    assert progressing(sim) == ("False", "Idle")


async def test_a_crash_after_any_side_effect_of_an_update_ends_in_the_same_state() -> None:
    """Invariant 11, and 19: whoever goes on finds in status what was begun."""
    whole, reconciler = await running(3)
    whole.edit(image="a:2")
    await whole.run(50, reconciler)
    effects = len(whole.writes) + len(whole.calls)
    assert effects > 8
    for cut in range(1, effects + 1):
        sim, reconciler = await running(3)
        sim.fail_after = cut
        sim.edit(image="a:2")
        try:
            await sim.run(50, reconciler)
        except Crash:
            sim.now += 60  # the Lease of the dead one runs out
            await sim.run(50, sim.reconciler("operator-2"))
        assert images(sim) == ["a:2"] * 3, f"cut after {cut}"
        assert len(disruptions(sim)) == 3, f"cut after {cut}"
        assert progressing(sim) == ("False", "Idle"), f"cut after {cut}"
        assert status(sim).operation is None, f"cut after {cut}"


async def test_a_crash_while_a_template_is_taken_back_ends_in_the_same_state() -> None:
    whole, reconciler = await running(3)
    whole.edit(image="bad:1")
    await whole.run(160, reconciler)
    effects = len(whole.writes) + len(whole.calls)
    for cut in range(1, effects + 1):
        sim, reconciler = await running(3)
        sim.fail_after = cut
        sim.edit(image="bad:1")
        try:
            await sim.run(160, reconciler)
        except Crash:
            sim.now += 60
            await sim.run(160, sim.reconciler("operator-2"))
        assert images(sim) == ["a:1"] * 3, f"cut after {cut}"
        assert progressing(sim) == ("False", "RolledBack"), f"cut after {cut}"


async def test_an_update_goes_on_after_a_lost_disk_and_a_scale_out() -> None:
    """What is more urgent takes the slot; the update is planned again from what is there."""
    sim, reconciler = await running(3)
    sim.edit(image="a:2")
    while not disruptions(sim):
        await sim.run(1, reconciler)
    sim.empty_disk(0)
    sim.scale(5)
    await sim.run(80, reconciler)
    assert images(sim) == ["a:2"] * 5
    assert progressing(sim) == ("False", "Idle")
    assert status(sim).operation is None


async def test_the_slot_tells_what_is_under_way() -> None:
    """Invariant 19: it stands before the first act, and is cleared at the end."""
    sim = Sim(3)
    seen: list[str] = []

    def watch(what: str) -> None:
        latch = sim.objects[(names.KIND, NAME)]["status"].get("operation")
        now = latch["type"] if latch else ""
        if what.split()[0] in ("bootstrap", "configure", "reset", "evict") or "Pod/" in what:
            assert now, f"{what} without an operation"
        if not seen or seen[-1] != now:
            seen.append(now)

    sim.watch.append(watch)
    reconciler = await sim.run(30)
    sim.scale(5)
    await sim.run(30, reconciler)
    sim.empty_disk(2)
    await sim.run(30, reconciler)
    sim.edit(image="a:2")
    await sim.run(50, reconciler)
    sim.scale(1)
    await sim.run(30, reconciler)
    sim.scale(3)
    await sim.run(40, reconciler)
    kinds = [kind for kind in seen if kind]
    assert kinds == ["Bootstrap", "ScaleOut", "Replace", "RollingUpdate", "ScaleIn", "ResetMember", "ScaleOut"]
    assert status(sim).operation is None
