"""Disks that are lost: claims deleted, held Terminating, or emptied under a running member."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
import time

import pytest
from tests.e2e.cluster import until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster
from tests.e2e.trial import trial

FINALIZER = "example.com/hold"


def replaced(cluster: RaftCluster, pod: str, old: str) -> None:
    """Until another identity stands in the pod's place, as a voter."""
    until(f"{pod} is another member", lambda: cluster.member(pod).get("nodeID") not in ("", None, old), 180)
    cluster.wait_members(3, 120)


def delete_disk(cluster: RaftCluster, pod: str) -> None:
    where = ("-n", cluster.namespace, "--wait=false")
    cluster.kube.kubectl("delete", "pvc", f"data-{pod}", *where)
    cluster.kube.kubectl("delete", "pod", pod, *where)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_a_claim_and_its_pod_are_deleted(found: Found, logs: LogKeeper, killing: bool) -> None:
    """A follower's, then the leader's."""
    cluster = found(f"claim{'-k' * killing}")
    kill = "Replace" if killing else None
    async with trial(cluster, logs, cluster.name) as tried:
        for leads in (False, True):
            leader = cluster.leader()
            pod = leader if leads else next(name for name in sorted(cluster.ready_pods()) if name != leader)
            old, claim = cluster.member(pod)["nodeID"], cluster.claims()[f"data-{pod}"]["metadata"]["uid"]
            name = f"claim and pod of {'the leader' if leads else 'a follower'} deleted"
            async with tried.disturbance(name, lambda pod=pod, old=old: replaced(cluster, pod, old), kill=kill):
                await asyncio.to_thread(delete_disk, cluster, pod)
            assert cluster.claims()[f"data-{pod}"]["metadata"]["uid"] != claim


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_a_claim_is_held_by_a_foreign_finalizer(found: Found, logs: LogKeeper, killing: bool) -> None:
    """Until somebody takes it away: no pod of that or a later ordinal can be made, so nothing else may be disturbed."""
    cluster = found(f"held{'-k' * killing}")
    kube, where = cluster.kube, ("-n", cluster.namespace)
    pod = next(name for name in sorted(cluster.ready_pods()) if name != cluster.leader())
    old = cluster.member(pod)["nodeID"]

    def patch(finalizers: str) -> None:
        patched = f'{{"metadata": {{"finalizers": {finalizers}}}}}'
        kube.kubectl("patch", "pvc", f"data-{pod}", *where, "--type=merge", "-p", patched)

    def hold() -> None:
        patch(f'["kubernetes.io/pvc-protection", "{FINALIZER}"]')
        delete_disk(cluster, pod)
        until("PodCreationBlocked", lambda: blocked(cluster), 60)
        time.sleep(10)
        assert len([p for p in cluster.pods() if p["metadata"]["name"] != pod]) == 2, "another pod was taken down too"
        assert kube.get("pdb", cluster.name, *where)["status"]["disruptionsAllowed"] == 0
        assert FINALIZER in cluster.condition("Degraded")[1], "whoever reads it must learn what holds the claim"

    kill = "Replace" if killing else None
    async with (
        trial(cluster, logs, cluster.name) as tried,
        tried.disturbance(f"a claim held by {FINALIZER}", lambda: replaced(cluster, pod, old), kill=kill),
    ):
        await asyncio.to_thread(hold)
        await asyncio.to_thread(patch, "[]")


def blocked(cluster: RaftCluster) -> bool:
    status, reason = cluster.condition("Degraded")
    return status == "True" and reason.startswith("PodCreationBlocked")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_a_disk_is_emptied_under_a_running_member(found: Found, logs: LogKeeper, killing: bool) -> None:
    """Its process goes on with what it holds open; once it restarts it is empty, and says so."""
    cluster = found(f"emptied{'-k' * killing}")
    pod = next(name for name in sorted(cluster.ready_pods()) if name != cluster.leader())
    old, volume = cluster.member(pod)["nodeID"], cluster.claims()[f"data-{pod}"]["spec"]["volumeName"]
    async with trial(cluster, logs, cluster.name) as tried:
        name, kill = "a disk emptied under a running member", "Replace" if killing else None
        async with tried.disturbance(name, lambda: replaced(cluster, pod, old), kill=kill):
            await asyncio.to_thread(empty, cluster, volume)
            where = ("-n", cluster.namespace, "--wait=false")
            await asyncio.to_thread(cluster.kube.kubectl, "delete", "pod", pod, *where)


def empty(cluster: RaftCluster, volume: str) -> None:
    at = pathlib.Path("/run/oarlock-e2e-volume")
    with cluster.kube.volume(volume, at) as data:
        entries: list[pathlib.Path] = list(data.iterdir())
        assert entries, f"{volume} was empty before"
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
