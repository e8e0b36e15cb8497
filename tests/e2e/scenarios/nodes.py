"""Nodes that go: drained each in turn, without power for a minute, and for good.

In a drain and in an outage the operator has nothing to do, and does nothing: there is no operation to kill it in.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.e2e.cluster import Kubernetes, until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster, is_ready
from tests.e2e.trial import trial

OUTAGE_SECONDS = 60.0


def node_of(cluster: RaftCluster, pod: str) -> str:
    return next(str(p["spec"]["nodeName"]) for p in cluster.pods() if p["metadata"]["name"] == pod)


def on_a_worker(cluster: RaftCluster) -> tuple[str, int]:
    """A pod that leads now, on a node that can be switched off (0 holds the control plane), and the node's number."""
    pod = next(name for name in sorted(cluster.ready_pods()) if node_of(cluster, name) != "kt-0")
    cluster.transfer(pod)
    return pod, int(node_of(cluster, pod).removeprefix("kt-"))


@pytest.mark.timeout(900)
async def test_each_node_is_drained(found: Found, logs: LogKeeper) -> None:
    """Its members wait for it: their disks are on it. The operator moves."""
    cluster = found("drained")
    kube = cluster.kube
    async with trial(cluster, logs, cluster.name) as tried:
        for node in ("kt-0", "kt-1", "kt-2"):
            async with tried.disturbance(f"kubectl drain {node}", lambda: cluster.wait_members(3, 120)) as drained:
                how = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
                await asyncio.to_thread(kube.kubectl, "drain", node, *how)
                pods = await asyncio.to_thread(cluster.pods)
                assert not [p for p in pods if p["spec"].get("nodeName") == node]
                await asyncio.to_thread(kube.kubectl, "uncordon", node)
            assert not drained.operations


@pytest.mark.timeout(600)
async def test_a_node_is_without_power_for_a_minute(found: Found, logs: LogKeeper) -> None:
    """It holds the leader. Its member is waited for, and comes back as itself."""
    cluster = found("outage")
    pod, n = on_a_worker(cluster)
    before = cluster.member(pod)["nodeID"]
    async with trial(cluster, logs, cluster.name) as tried:
        name = f"power loss of the leader's node for {OUTAGE_SECONDS:.0f} s"
        async with tried.disturbance(name, lambda: cluster.wait_members(3, 120)) as outage:
            await asyncio.to_thread(without_power, cluster.kube, n, OUTAGE_SECONDS)
        assert not outage.operations
        assert cluster.member(pod)["nodeID"] == before, "a member that only did not answer was replaced"


def without_power(kube: Kubernetes, n: int, seconds: float) -> None:
    kube.stop_node(n)
    began = time.monotonic()
    until(f"kt-{n} NotReady", lambda: not is_ready(kube.get("node", f"kt-{n}")), seconds)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    kube.start_node(n)
    until(f"kt-{n} Ready", lambda: is_ready(kube.get("node", f"kt-{n}")), 60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_a_node_is_deleted_for_good(found: Found, logs: LogKeeper, killing: bool) -> None:
    """Its disk can never come back, which is proof: the member is replaced on another node, as soon as it is known."""
    cluster = found(f"gone{'-k' * killing}")
    pod, n = on_a_worker(cluster)
    old, kube = cluster.member(pod)["nodeID"], cluster.kube

    def replaced() -> None:
        until(f"{pod} is another member", lambda: cluster.member(pod).get("nodeID") not in ("", None, old), 240)
        cluster.wait_members(3, 120)
        assert node_of(cluster, pod) != f"kt-{n}"

    async with trial(cluster, logs, cluster.name) as tried:
        name, kill = "the leader's node switched off and its Node deleted", "Replace" if killing else None
        async with tried.disturbance(name, replaced, kill=kill):
            await asyncio.to_thread(kube.stop_node, n)
            await asyncio.to_thread(kube.kubectl, "delete", "node", f"kt-{n}")
    kube.start_node(n)  # for whoever comes next: it registers anew, its old disks belong to nobody
    until(f"kt-{n} Ready", lambda: (node := kube.find("node", f"kt-{n}")) and is_ready(node), 90)
