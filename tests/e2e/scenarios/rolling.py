"""The template changes: a newer build, more memory, an image that does not exist. Members restart one by one."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.cluster import NEXT, until
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster
from tests.e2e.trial import ELECTION_TIMEOUT_SECONDS, trial

ROLL_SECONDS = 180.0


def images(cluster: RaftCluster) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in cluster.pods()}


def rolled(cluster: RaftCluster, image: str) -> None:
    """Until every pod runs that image, says that it is up to date, and nothing is under way."""

    def done() -> bool:
        status = cluster.get()["status"]
        updated = all(member.get("updated") for member in status["members"])
        return images(cluster) == {image} and updated and not status.get("operation")

    until(f"every pod runs {image}", done, ROLL_SECONDS)
    cluster.wait_members(3, 60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_to_a_build_that_reports_another_version(
    found: Found, logs: LogKeeper, newer: dict[str, str], killing: bool
) -> None:
    cluster = found(f"newer{'-k' * killing}")
    before = cluster.get()["status"]["members"]
    kill = "RollingUpdate" if killing else None
    async with trial(cluster, logs, cluster.name) as tried:
        goal = lambda: rolled(cluster, newer["node"])  # noqa: E731
        async with tried.disturbance(f"rolling update to {NEXT}", goal, kill=kill) as update:
            await asyncio.to_thread(cluster.change, image=newer["node"])
        status = cluster.get()["status"]
        assert status["version"] == NEXT
        assert {m["version"] for m in status["members"]} == {NEXT}
        assert {m["nodeID"] for m in status["members"]} == {m["nodeID"] for m in before}, "a roll replaces nobody"
        if not killing:
            assert update.slowest_write <= ELECTION_TIMEOUT_SECONDS, "a clean roll made a write wait for an election"
            async with tried.disturbance("rolling update of the resources", goal) as update:
                await asyncio.to_thread(cluster.change, resources={"requests": {"memory": "96Mi"}})
                await asyncio.to_thread(until, "a rolling update", lambda: rolling(cluster), 30)
            assert update.slowest_write <= ELECTION_TIMEOUT_SECONDS


def rolling(cluster: RaftCluster) -> bool:
    return (cluster.get()["status"].get("operation") or {}).get("type") == "RollingUpdate"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killing", [False, True], ids=["plain", "operator-killed"])
async def test_a_bad_image_is_rolled_back_then_corrected(
    found: Found, logs: LogKeeper, newer: dict[str, str], killing: bool
) -> None:
    cluster = found(f"bad{'-k' * killing}")
    good = images(cluster)
    kill = "RollingUpdate" if killing else None

    def rolled_back() -> None:
        def done() -> bool:
            status, reason = cluster.condition("Progressing")
            return status == "False" and reason.startswith("RolledBack")

        until("RolledBack", done, ROLL_SECONDS)
        cluster.wait_members(3, 120)
        assert images(cluster) == good
        assert cluster.get()["status"]["rollout"]["failedHash"]

    async with trial(cluster, logs, cluster.name) as tried:
        async with tried.disturbance("an image that does not exist", rolled_back, kill=kill):
            await asyncio.to_thread(cluster.change, image="oarlock/node:no-such-tag")
        async with tried.disturbance("the image corrected", lambda: rolled(cluster, newer["node"])):
            await asyncio.to_thread(cluster.change, image=newer["node"])
        assert cluster.condition("Progressing")[1].startswith("Idle")
