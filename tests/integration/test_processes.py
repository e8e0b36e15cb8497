"""Real members through the days of a cluster, under a steady load: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import pathlib

from tests.integration.members import Cluster, cluster
from tests.load import Load


def load_of(running: Cluster, *names: str) -> Load:
    members = {name: running.members[name].client_url for name in names}
    return Load(list(members.values()), members=members)


async def verdict(running: Cluster, load: Load, most_gap_seconds: float) -> None:
    """The counting rules: prints the table, then fails on anything that should not be."""
    elected = running.elected()
    assert elected, "no log names a leader: nobody looked for two in a term"
    judged = load.judge(await load.final_reads(), elected)
    print(judged.table())
    judged.check()
    assert running.complaints() == []
    for disturbance in load.disturbances:
        # With every process dead the gap is their start-up, which is the machine's speed and not the cluster's.
        assert disturbance.gap_seconds < most_gap_seconds or "all three" in disturbance.name, disturbance


async def equal_states(running: Cluster, *names: str) -> None:
    """Equal applied index means equal state (rule 26)."""
    async with asyncio.timeout(20):
        while True:
            statuses = [await running.status(name) for name in names]
            if len({s["applied_index"] for s in statuses}) == 1:
                assert len({s["state_hash"] for s in statuses}) == 1, statuses
                return
            await asyncio.sleep(0.1)


async def test_leader_killed_and_restarted_under_load(tmp_path: pathlib.Path) -> None:
    names = ("a", "b", "c")
    async with cluster(tmp_path, *names) as running:
        load = load_of(running, *names)
        async with load.running():
            for _ in range(3):
                async with load.disturb("kill -9 of the leader"):
                    dead = await running.leader()
                    running.members[dead].kill()
                    await running.leader(other_than=dead)
                running.members[dead].start()
                await running.participating(*names)
            async with load.disturb("clean stop of the leader"):
                left = await running.leader()
                # A client that never sends the rest keeps the process for its two seconds of grace, and nobody waiting.
                _, half = await asyncio.open_connection("127.0.0.1", running.members[left].ports[0])
                half.write(b"PUT /v1/kv/half HTTP/1.1\r\nHost: member\r\nContent-Length: 9\r\n\r\n")
                await half.drain()
                # In a thread: the load lives in this loop, and would stand still while the process ends.
                assert await asyncio.to_thread(running.members[left].stop) == 0
                half.close()
            running.members[left].start()
            await running.participating(*names)
            async with load.disturb("kill -9 of all three"):
                for name in names:
                    running.members[name].kill()
                for name in names:
                    running.members[name].start()
                await running.participating(*names)
        await verdict(running, load, most_gap_seconds=4)
        clean = next(d for d in load.disturbances if d.name.startswith("clean"))
        assert clean.gap_seconds < 1.0, "a clean stop hands leadership over: no client waits for an election"
        await equal_states(running, *names)


async def test_membership_through_3_5_3_1_3_under_load(tmp_path: pathlib.Path) -> None:
    three, five = ("a", "b", "c"), ("a", "b", "c", "d", "e")
    async with cluster(tmp_path, *three) as running:
        load = load_of(running, *three)
        async with load.running():
            for name in ("d", "e"):
                running.add(name)
            async with load.disturb("3 to 5"):
                await running.reconfigure(*five)
            load.members |= {n: running.members[n].client_url for n in ("d", "e")}
            async with load.disturb("5 to 3"):
                for name in ("d", "e"):
                    del load.members[name]
                await running.reconfigure(*three)
            for name in ("d", "e"):
                await _removed(running, name)
            load.endpoints[:] = [running.members["a"].client_url]
            for name in ("b", "c"):
                del load.members[name]
            async with load.disturb("3 to 1"):
                await running.reconfigure("a")
            for name in ("b", "c"):
                await _removed(running, name)
                answer = await running.http.post(
                    f"{running.members[name].peer_url}/admin/reset",
                    json={"request_id": f"back-{name}", "node_id": (await running.status(name))["node_id"]},
                )
                assert answer.status_code == 200, answer.text
                assert (await running.answering(name))["state"] == "Idle"
            async with load.disturb("1 to 3"):
                await running.reconfigure(*three)
            load.members |= {n: running.members[n].client_url for n in ("b", "c")}
            await running.participating(*three)
        await verdict(running, load, most_gap_seconds=3)
        await equal_states(running, *three)


async def test_snapshot_over_the_network_and_an_emptied_disk(tmp_path: pathlib.Path) -> None:
    names = ("a", "b", "c")
    async with cluster(tmp_path, *names) as running:
        load = load_of(running, *names)
        async with load.running():
            leader = await running.leader()
            away = next(n for n in names if n != leader)
            load.endpoints.remove(running.members[away].client_url)
            del load.members[away]
            async with load.disturb("a member away while the log is compacted"):
                running.members[away].kill()
                await _fill(running, leader, mebibytes=24)
                answer = await running.http.post(f"{running.members[leader].peer_url}/admin/snapshot")
                assert answer.status_code == 200, answer.text
                snapshot = answer.json()
                running.members[away].start()
                await running.participating(away)
                async with asyncio.timeout(30):  # one that is only a little behind counts as participating
                    while (await running.status(away))["applied_index"] < snapshot["index"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            installed = [line for line in running.members[away].log_lines() if line["event"] == "snapshot installed"]
            assert [line["index"] for line in installed] == [snapshot["index"]], await running.status(away)
            load.members[away] = running.members[away].client_url
            async with load.disturb("a disk emptied, the member replaced"):
                old = (await running.status(away))["node_id"]
                del load.members[away]
                running.members[away].kill()
                running.members[away].wipe()
                running.members[away].start()
                assert (await running.answering(away))["state"] == "Idle"
                assert (await running.status(away))["node_id"] != old
                await running.reconfigure(*names)
                await running.participating(away)
            load.members[away] = running.members[away].client_url
            configuration = (await running.status(await running.leader()))["configuration"]
            assert old in configuration["tombstones"]
        await verdict(running, load, most_gap_seconds=3)
        await equal_states(running, *names)


async def _removed(running: Cluster, name: str) -> None:
    async with asyncio.timeout(10):
        while (await running.status(name))["state"] != "Removed":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _fill(running: Cluster, leader: str, mebibytes: int) -> None:
    value = bytes(512 << 10)
    for n in range(mebibytes * 2):
        answer = await running.http.put(f"{running.members[leader].client_url}/v1/kv/fill/{n % 4}", content=value)
        assert answer.status_code in (200, 201), answer.text
