"""A member that was away until only a snapshot helps, and whose transfer is interrupted."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from tests.chaos.namespaces import Network, between, beyond
from tests.chaos.scenario import Trial, trial

THREE = ("a", "b", "c")
RECEIVED = 'oarlock_peer_snapshot_bytes_total{direction="received"}'
MIB = 1 << 20


async def fill(t: Trial, leader: str, mebibytes: int) -> None:
    """More than a leader keeps in memory for followers that are a little behind (16 MiB), and what is on its way to one
    (as much again, if the cut is over before the connection is given up)."""
    value = bytes(MIB // 2)
    for n in range(mebibytes * 2):
        answer = await t.cluster.http.put(f"{t.member(leader).client_url}/v1/kv/fill/{n % 4}", content=value)
        assert answer.status_code in (200, 201), answer.text


async def snapshot(t: Trial, leader: str) -> tuple[int, int]:
    """Its index and size."""
    answer = await t.cluster.http.post(f"{t.member(leader).peer_url}/admin/snapshot")
    assert answer.status_code == 200, answer.text
    return answer.json()["index"], answer.json()["size_bytes"]


@pytest.mark.parametrize("how", [pytest.param("cut", marks=pytest.mark.long), "kill"])
async def test_interrupted_snapshot_after_a_long_isolation(tmp_path: pathlib.Path, how: str) -> None:
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            leader = await t.leader()
            away = t.others(leader)[0]
            links = between([away], t.others(away))
            url = t.load.members.pop(away)  # a member that is not whole has no answers worth waiting for
            t.load.endpoints.remove(url)
            async with t.fault("a member cut off until its log no longer meets the leader's") as seen:
                network.cut(links)
                await fill(t, leader, mebibytes=48)
                index, size = await snapshot(t, leader)
                seen.saw("packets lost", sum(network.lost_packets().values()))
                network.cut(links, which=beyond(3))
                async with asyncio.timeout(30):
                    while (got := await t.cluster.metric(away, RECEIVED)) < MIB:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                if how == "cut":
                    network.cut(links)
                    await t.acknowledged(200)
                    got = await t.cluster.metric(away, RECEIVED)
                else:
                    t.member(away).kill()
                seen.saw(f"bytes of {size} at the interruption", 0 < got < size and int(got))
                network.heal()
                if how == "kill":
                    t.member(away).start()
                await t.whole()
                await t.cluster.until("caught up", lambda found: found[away]["applied_index"] >= index, 60)
            installed = [line["index"] for line in t.member(away).log_lines() if line["event"] == "snapshot installed"]
            assert installed, "it caught up without a snapshot"
            t.load.members[away] = url
