"""The product's main job on a real Kubernetes: a RaftCluster is applied, written to, disturbed, and loses nothing.

The tests of this file run in order on one cluster, as a person would go on with it.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.cluster import until
from tests.e2e.logs import LogKeeper, elected_by_logs
from tests.e2e.raftcluster import RaftCluster, is_ready
from tests.e2e.test_ground import run_pod
from tests.load import Load

AVAILABLE_SECONDS = 60.0  # of a sample of three, from `kubectl apply`
SCALE_SECONDS = 120.0
POD_SECONDS = 90.0


def test_a_sample_of_three_is_available_within_a_minute(three: RaftCluster) -> None:
    took = three.wait_available(AVAILABLE_SECONDS)
    three.wait_members(3, 30)
    print(f"Available {took:.1f} s after kubectl apply")
    print(three.kube.kubectl("get", "raftcluster", "three"))


def test_a_write_through_the_service_is_read_from_each_member(three: RaftCluster) -> None:
    """From pods, by the names that DNS gives."""
    service = "http://three.default.svc:2379"
    run_pod(three.kube, "writer", three.namespace, "oarlock", "put", "greeting", "hello", "--endpoint", service)
    for n in range(3):
        member = f"http://three-{n}.three-peers.default.svc:2379"
        said = run_pod(three.kube, f"reader-{n}", three.namespace, "oarlock", "get", "greeting", "--endpoint", member)
        assert said.strip() == "hello"


@pytest.mark.timeout(900)
async def test_nothing_is_lost_while_it_scales_and_loses_pods_and_a_node(three: RaftCluster, logs: LogKeeper) -> None:
    """3 to 5 to 3, each pod deleted once, a node powered off and on, all under a steady load."""
    kube = three.kube
    three.wait_members(3, 60)
    load = Load([three.service()], members=three.members())
    async with load.running(), three.tracked_by(load):
        for replicas in (5, 3):
            async with load.disturb(f"kubectl scale --replicas={replicas}"):
                await asyncio.to_thread(kube.kubectl, "scale", "raftcluster/three", f"--replicas={replicas}")
                await asyncio.to_thread(three.wait_members, replicas, SCALE_SECONDS)

        for n in range(3):
            async with load.disturb(f"kubectl delete pod three-{n}"):
                await asyncio.to_thread(delete_and_wait, three, f"three-{n}")

        node, n = await asyncio.to_thread(lead_from_a_node_to_stop, three)
        async with load.disturb(f"power loss of the leader's node {node}"):
            await asyncio.to_thread(kube.stop_node, n)
            await asyncio.to_thread(until, f"{node} NotReady", lambda: not is_ready(kube.get("node", node)), 60.0)
            await asyncio.sleep(5)  # the operator and the Service see it, and act or leave it be
        async with load.disturb(f"power and boot of node {node}"):
            await asyncio.to_thread(kube.start_node, n)
            await asyncio.to_thread(until, f"{node} Ready", lambda: is_ready(kube.get("node", node)), 60.0)
            await asyncio.to_thread(three.wait_members, 3, POD_SECONDS)
        await load.steady()

    await asyncio.to_thread(three.wait_members, 3, 60)
    load.members = await asyncio.to_thread(three.members)  # the last of them may have come back just now
    final = await load.final_reads()
    assert len(final) == 3
    by_wal = set(await asyncio.to_thread(lambda: list(three.elected_by_wals())))
    by_logs = set(elected_by_logs(logs.lines("default_three-")))
    print(f"\nleaders by the no-op entries of every WAL: {sorted(by_wal)}\nby the logs: {sorted(by_logs)}")
    assert by_wal, "no WAL names a leader"
    assert by_logs, "no log names a leader"
    verdict = load.judge(final, elected=by_wal | by_logs)
    print(verdict.table())
    verdict.check()


def delete_and_wait(cluster: RaftCluster, pod: str) -> None:
    """Until another pod of that name, with another uid, is Ready."""
    kube, where = cluster.kube, ("-n", cluster.namespace)
    before = kube.get("pod", pod, *where)["metadata"]["uid"]
    kube.kubectl("delete", "pod", pod, *where, "--wait=false")

    def back() -> bool:
        found = kube.find("pod", pod, *where)
        return bool(found) and found["metadata"]["uid"] != before and is_ready(found)

    until(f"{pod} is back", back, POD_SECONDS)
    cluster.wait_members(3, POD_SECONDS)


def lead_from_a_node_to_stop(cluster: RaftCluster) -> tuple[str, int]:
    """Name and number of a node that can be switched off (0 is the control plane); its member leads now."""
    nodes = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in cluster.pods()}
    leader = cluster.leader()
    pod = next(name for name in sorted(nodes, key=lambda name: name != leader) if nodes[name] != "kt-0")
    cluster.transfer(pod)
    return nodes[pod], int(nodes[pod].removeprefix("kt-"))
