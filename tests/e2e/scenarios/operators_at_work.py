"""What becomes of clusters when operators come, go, and are two."""

from __future__ import annotations

import asyncio
import functools

import pytest
from tests.e2e import operators
from tests.e2e.cluster import NEXT, Kubernetes, until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster, manifest
from tests.e2e.trial import trial


@pytest.mark.timeout(600)
async def test_the_namespace_is_deleted_with_the_operator_in_it(found: Found, logs: LogKeeper) -> None:
    """Nothing hangs; a cluster in that namespace is gone; one outside serves on, and is cared for again afterwards."""
    outside = found("outside")
    kube = outside.kube
    inside = RaftCluster(kube, "inside", operators.NAMESPACE)
    kube.apply(manifest("inside", operators.NAMESPACE))
    inside.wait_available(60)
    async with trial(outside, logs, outside.name) as tried:
        name = "the operator's namespace deleted, and installed again"
        async with tried.disturbance(name, lambda: outside.wait_members(3, 60)) as deleted:
            await asyncio.to_thread(kube.kubectl, "delete", "namespace", operators.NAMESPACE, "--timeout=90s")
            left = await asyncio.to_thread(kube.find, "raftcluster", "outside", "-n", "default")
            assert left, "its resource went with the operator"
            await asyncio.to_thread(operators.install, kube)
        assert deleted.longest_gap < 1.0, "members do not need the operator to serve"
        async with tried.disturbance("scaled by the operator that came after", lambda: outside.wait_members(5, 120)):
            await asyncio.to_thread(outside.scale, 5)
    assert not kube.find("raftcluster", "inside", "-n", operators.NAMESPACE)


@pytest.mark.timeout(600)
async def test_two_operators_of_different_versions(found: Found, logs: LogKeeper, newer: dict[str, str]) -> None:
    """Each takes over when the other dies in the middle of an operation; they never undo each other's work."""
    cluster = found("two", image="oarlock/node:0.1.0")
    kube = cluster.kube
    second = operators.another("oarlock-operator-next", newer["operator"])
    kube.apply(*second)
    until("two operators run", lambda: len(list(operators.processes())) == 2, 60)
    of_next = ("logs", "-n", operators.NAMESPACE, "deployment/oarlock-operator-next")
    until(f"the second says that it is {NEXT}", lambda: NEXT in kube.kubectl(*of_next), 30)
    holders = []
    async with trial(cluster, logs, cluster.name) as tried:
        for replicas, kind in ((5, "ScaleOut"), (3, "ScaleIn")):
            async with tried.disturbance(
                f"scaled to {replicas}, the operator at it killed, the other one takes over",
                lambda replicas=replicas: cluster.wait_members(replicas, 120),
            ):
                await asyncio.to_thread(cluster.scale, replicas)
                await tried.watch.until(lambda status, kind=kind: operation(status) == kind, 60)
                pod, uid = await asyncio.to_thread(kill_holder, kube, cluster)
                assert operation((await asyncio.to_thread(cluster.get))["status"]) == kind, "it had ended by then"
                await asyncio.to_thread(
                    until, "another holds the Lease", functools.partial(taken, cluster, pod, uid), 60
                )
                holders.append(pod)
    assert len({holder.startswith("oarlock-operator-next") for holder in holders}) == 2, (
        f"one of both at work: {holders}"
    )
    kube.kubectl("delete", "deployment", "oarlock-operator-next", "-n", operators.NAMESPACE)


def operation(status: dict) -> str:
    return str((status.get("operation") or {}).get("type", ""))


def kill_holder(kube: Kubernetes, cluster: RaftCluster) -> tuple[str, str]:
    """The operator that holds the Lease dies; its pod's name and uid."""
    pod = operators.holder(kube, cluster.name, cluster.namespace)
    uid = kube.get("pod", pod, "-n", operators.NAMESPACE)["metadata"]["uid"]
    assert operators.kill(uid), f"no process of {pod}"
    return pod, str(uid)


def taken(cluster: RaftCluster, before: str, uid: str) -> bool:
    """Does another hold the Lease? Who died stays dead: its container is made anew within a second, and might win."""
    operators.kill(uid)
    return operators.holder(cluster.kube, cluster.name, cluster.namespace) not in ("", before)
