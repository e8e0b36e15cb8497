"""A cluster is founded once, by whoever is there when all are there."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e import operators
from tests.e2e.cluster import Kubernetes, Object, until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import RaftCluster, manifest
from tests.e2e.trial import AVAILABLE_SECONDS, trial
from tests.e2e.watch import Watch

LATE_SECONDS = 15.0


def quota(namespace: str, pods: int) -> Object:
    meta = {"name": "pods", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": str(pods)}}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_one_pod_is_late(installed: Kubernetes, logs: LogKeeper, killing: bool) -> None:
    """Two of three are up and empty, the third may not be made yet: nobody founds anything without it."""
    kube, namespace = installed, f"late{'-k' * killing}"
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, quota(namespace, 2))
    cluster = RaftCluster(kube, "late", namespace)
    async with Watch(kube, namespace, "late").running() as watch:
        kube.apply(manifest("late", namespace))
        await asyncio.to_thread(until, "two pods", lambda: len(cluster.pods()) == 2, 30)
        await asyncio.sleep(LATE_SECONDS)
        status = cluster.get()["status"]
        assert "bootstrap" not in status or not status["bootstrap"], "it was to be founded without one of its pods"
        assert cluster.condition("Available")[1].startswith("AwaitingBootstrap")
        killed = None
        kube.kubectl("delete", "resourcequota", "pods", "-n", namespace)
        # A change of the StatefulSet ends the back-off of its controller, which has grown to half a minute by now.
        kube.kubectl("annotate", "statefulset", "late", "-n", namespace, "tests/quota=gone")
        if killing:
            killed = await operators.kill_during(kube, watch, namespace, "late", "Bootstrap", 0.0)
        await asyncio.to_thread(cluster.wait_available, AVAILABLE_SECONDS)
    await asyncio.to_thread(cluster.wait_members, 3, 60)
    print(f"founded with one pod {LATE_SECONDS:.0f} s late; operator killed: {killed}")
    async with (
        trial(cluster, logs, namespace) as tried,
        tried.disturbance("a pod deleted", lambda: cluster.wait_members(3, 90)),
    ):
        await asyncio.to_thread(kube.kubectl, "delete", "pod", "late-1", "-n", namespace)
    kube.kubectl("delete", "namespace", namespace, "--wait=false")
