"""A RaftCluster is deleted and made again over what is left of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.cluster import until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster, manifest
from tests.e2e.trial import trial


def adopted(cluster: RaftCluster, before: str) -> None:
    """Until it is whole again, as the same cluster."""
    until("Available", lambda: cluster.condition("Available")[0] == "True", 60)
    cluster.wait_members(3, 180)
    assert cluster.get()["status"]["clusterID"] == before


def delete(cluster: RaftCluster, *how: str) -> None:
    kube, where = cluster.kube, ("-n", cluster.namespace)
    kube.kubectl("delete", "raftcluster", cluster.name, *where, *how)
    if "--cascade=orphan" not in how:
        of = ("-l", f"oarlock.dev/cluster={cluster.name}")
        until("its children are gone", lambda: not kube.get("pods,statefulsets,services", *where, *of)["items"], 90)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_made_again_with_its_volumes(found: Found, logs: LogKeeper, killing: bool) -> None:
    cluster = found(f"again{'-k' * killing}")
    before = cluster.get()["status"]["clusterID"]
    kill = "Bootstrap" if killing else None  # until somebody answers with data, it is to be founded once all are empty
    async with (
        trial(cluster, logs, cluster.name) as tried,
        tried.disturbance("deleted, and made again with its volumes", lambda: adopted(cluster, before), kill=kill),
    ):
        await asyncio.to_thread(delete, cluster)
        await asyncio.to_thread(cluster.kube.apply, manifest(cluster.name))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_made_again_without_volume_0(found: Found, logs: LogKeeper, killing: bool) -> None:
    """The empty disk must never found a second cluster beside the two that hold the data."""
    cluster = found(f"zero{'-k' * killing}")
    before = cluster.get()["status"]["clusterID"]
    kill = "Replace" if killing else None
    async with (
        trial(cluster, logs, cluster.name) as tried,
        tried.disturbance("deleted, made again without volume 0", lambda: adopted(cluster, before), kill=kill),
    ):
        await asyncio.to_thread(delete, cluster)
        where = ("-n", cluster.namespace)
        await asyncio.to_thread(cluster.kube.kubectl, "delete", "pvc", f"data-{cluster.name}-0", *where)
        await asyncio.to_thread(cluster.kube.apply, manifest(cluster.name))


@pytest.mark.timeout(600)
async def test_made_again_over_orphans(found: Found, logs: LogKeeper) -> None:
    """`kubectl delete --cascade=orphan` leaves the members running: nothing is interrupted."""
    cluster = found("orphan")
    before, pods = cluster.get()["status"]["clusterID"], {p["metadata"]["uid"] for p in cluster.pods()}
    async with (
        trial(cluster, logs, cluster.name) as tried,
        tried.disturbance("deleted with --cascade=orphan, made again", lambda: adopted(cluster, before)) as remade,
    ):
        await asyncio.to_thread(delete, cluster, "--cascade=orphan")
        await asyncio.sleep(5)
        await asyncio.to_thread(cluster.kube.apply, manifest(cluster.name))
    assert remade.longest_gap < 1.0, "nobody had a reason to stop"
    assert not remade.operations, "there was something to kill the operator in"
    assert {p["metadata"]["uid"] for p in cluster.pods()} == pods
