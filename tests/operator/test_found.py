"""What random stories found in the operator, each told once more by hand."""

from __future__ import annotations

import pytest
from tests.operator.sim import NAME, FakeKube, Sim

from oarlock_operator import act, names, observe
from oarlock_operator.ensure import Apply
from oarlock_operator.kube import KubeError


async def test_the_budget_is_raised_before_members_join() -> None:
    """The leader makes voters of them by itself, perhaps while no operator is there."""
    sim = Sim(3)
    reconciler = await sim.run()
    budgets = []

    def look(what: str) -> None:
        if what.startswith("configure"):
            budgets.append(sim.objects[("PodDisruptionBudget", NAME)]["spec"]["minAvailable"])

    sim.watch.append(look)
    sim.scale(5)
    await sim.run(30, reconciler)
    assert budgets == [3]


@pytest.mark.parametrize("ours_was_seen", [True, False])
async def test_a_name_that_was_taken_meanwhile_is_not_taken_back(ours_was_seen: bool) -> None:
    """What is applied to our object, or makes it anew, leaves alone what somebody put there after we looked."""
    sim = Sim(3)
    await sim.run()
    key, kube = ("Service", NAME), FakeKube(sim)
    ours = sim.objects.pop(key)
    sim.managed.clear()
    meta = {"name": NAME, "namespace": "default"}
    sim.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": []}})
    kept = {"name", "namespace", "labels", "ownerReferences", "annotations"} | ({"uid"} if ours_was_seen else set())
    manifest = {**ours, "metadata": {field: ours["metadata"][field] for field in kept}}
    world = await observe.objects(kube, "default", NAME, sim.objects[(names.KIND, NAME)]["metadata"]["uid"])
    assert world is not None
    with pytest.raises(KubeError, match="409"):
        await act.make(Apply(manifest), world, kube)
    assert sim.objects[key]["spec"] == {"ports": []}


async def test_a_corrected_image_reaches_a_ready_pod_and_one_that_is_not() -> None:
    """Of two pods one is Ready and may not be evicted: the other one goes first."""
    sim = Sim(2)
    reconciler = await sim.run()
    sim.edit(image="oarlock/node:bad")
    sim.delete_pod(0)
    sim.objects[("StatefulSet", NAME)]["spec"]["template"]["spec"]["containers"][0]["image"] = "oarlock/node:bad"
    sim.edit(image="oarlock/node:0.2.0")
    await sim.run(40, reconciler)
    images = [pod["spec"]["containers"][0]["image"] for (kind, _), pod in sim.objects.items() if kind == "Pod"]
    assert images == ["oarlock/node:0.2.0"] * 2
