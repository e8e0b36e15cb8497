"""3 to 5 to 3 to 1 to 3 under load, with volumes that stay and with volumes that go."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster
from tests.e2e.trial import trial

STEPS = ((5, "ScaleOut"), (3, "ScaleIn"), (1, "ScaleIn"), (3, "ScaleOut"))


async def scale(cluster: RaftCluster, logs: LogKeeper, *, killing: bool) -> None:
    async with trial(cluster, logs, cluster.name) as tried:
        for replicas, kind in STEPS:

            def goal(replicas: int = replicas) -> None:
                cluster.wait_members(replicas, 120)

            name = f"kubectl scale --replicas={replicas}"
            async with tried.disturbance(name, goal, kill=kind if killing else None):
                await asyncio.to_thread(cluster.scale, replicas)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_volumes_that_stay(found: Found, logs: LogKeeper, killing: bool) -> None:
    """A member that comes back over a leftover volume starts anew: its old id has a tombstone."""
    cluster = found(f"stay{'-k' * killing}", storage={"size": "320Mi", "retention": {"whenScaled": "Retain"}})
    first = {member["pod"]: member["nodeID"] for member in cluster.get()["status"]["members"]}
    await scale(cluster, logs, killing=killing)
    last = {member["pod"]: member["nodeID"] for member in cluster.get()["status"]["members"]}
    assert len(cluster.claims()) == 5
    assert first[f"{cluster.name}-0"] == last[f"{cluster.name}-0"]
    assert all(first[pod] != last[pod] for pod in list(first)[1:]), "an id that was removed came back"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_volumes_that_go(found: Found, logs: LogKeeper, killing: bool) -> None:
    cluster = found(f"go{'-k' * killing}", storage={"size": "320Mi", "retention": {"whenScaled": "Delete"}})
    first = {name: claim["metadata"]["uid"] for name, claim in cluster.claims().items()}
    await scale(cluster, logs, killing=killing)
    last = {name: claim["metadata"]["uid"] for name, claim in cluster.claims().items()}
    assert len(last) == 3, "volumes of members that left are still there"
    assert [name for name in first if first[name] == last[name]] == [f"data-{cluster.name}-0"]
