"""Processes that die, stop and are told to end, under load."""

from __future__ import annotations

import asyncio
import pathlib
import signal

import pytest
from tests.chaos.scenario import ELECTION_SECONDS, ChaosMember, read_late, trial
from tests.integration.members import pause, resume

THREE = ("a", "b", "c")
FIVE = ("a", "b", "c", "d", "e")


def killed(member: ChaosMember) -> bool:
    """kill -9, and is that what it died of?"""
    member.kill()
    assert member.process is not None
    return member.process.returncode == -signal.SIGKILL


async def stopped(member: ChaosMember) -> str:
    """Its state once the kernel has stopped it."""
    pause(member)
    async with asyncio.timeout(5):
        while member.kernel_state() != "T":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return member.kernel_state()


@pytest.mark.long
async def test_leader_killed(tmp_path: pathlib.Path) -> None:
    async with trial(tmp_path, *THREE) as t:
        for _ in range(2):
            async with t.fault("kill -9 of the leader") as seen:
                dead = await t.leader()
                seen.saw("ended by signal 9", killed(t.member(dead)))
                await t.leader(other_than=dead)
            t.member(dead).start()
            await t.whole()
        assert all(d.gap_seconds < 5 * ELECTION_SECONDS for d in t.load.disturbances), t.load.disturbances


@pytest.mark.long
async def test_followers_killed_in_turn(tmp_path: pathlib.Path) -> None:
    async with trial(tmp_path, *THREE) as t:
        leader = await t.leader()
        for dead in t.others(leader):
            async with t.fault("kill -9 of a follower") as seen:
                seen.saw("ended by signal 9", killed(t.member(dead)))
                await t.acknowledged()
                t.member(dead).start()
                await t.whole()
        assert await t.leader() == leader, "a follower's death is no reason for an election"


async def test_all_killed_at_once(tmp_path: pathlib.Path) -> None:
    async with trial(tmp_path, *THREE) as t, t.fault("kill -9 of all at once") as seen:
        dead = [t.member(name) for name in THREE]
        for member in dead:
            member.signal(signal.SIGKILL)
        seen.saw("ended by signal 9", sum(killed(member) for member in dead) == len(dead))
        for member in dead:
            member.start()
        await t.whole()


@pytest.mark.long
async def test_majority_of_five_killed_in_turn(tmp_path: pathlib.Path) -> None:
    async with trial(tmp_path, *FIVE) as t:
        async with t.fault("kill -9 of three of five, one after the other") as seen:
            dead = []
            for _ in range(3):
                dead.append(await t.leader())
                seen.saw(f"number {len(dead)} ended by signal 9", killed(t.member(dead[-1])))
                if len(dead) < 3:
                    await t.cluster.until("another leads", lambda found: leads(found, dead))
            left = t.others(*dead)
            await t.nothing_acknowledged()
            for name in dead:
                t.member(name).start()
            await t.whole()
        assert len(left) == 2


def leads(found: dict[str, dict[str, object]], dead: list[str]) -> bool:
    return any(status["role"] == "leader" for name, status in found.items() if name not in dead)


async def test_leader_paused_beyond_the_election_timeout(tmp_path: pathlib.Path) -> None:
    """What was asked of it while it was paused is answered when it wakes: never from its past."""
    async with trial(tmp_path, *THREE) as t:
        old = await t.leader()
        async with t.fault("SIGSTOP of the leader, then SIGCONT") as seen:
            seen.saw("state in /proc/PID/stat", await stopped(t.member(old)) == "T")
            await t.leader(other_than=old)
            await t.acknowledged(100)  # the paused one knows nothing of these
            begun, url = asyncio.Event(), t.member(old).client_url
            keys = [f"load/{n}" for n in range(32)]
            async with asyncio.TaskGroup() as group:
                late = group.create_task(read_late(t.load, old, url, keys, begun))
                await begun.wait()
                assert t.member(old).kernel_state() == "T"
                resume(t.member(old))
            seen.saw("reads that waited and were answered", late.result())


@pytest.mark.long
async def test_follower_paused(tmp_path: pathlib.Path) -> None:
    async with trial(tmp_path, *THREE) as t:
        leader = await t.leader()
        term = (await t.cluster.status(leader))["term"]
        slow = t.others(leader)[0]
        async with t.fault("SIGSTOP of a follower, then SIGCONT") as seen:
            seen.saw("state in /proc/PID/stat", await stopped(t.member(slow)) == "T")
            await t.acknowledged(300)
            resume(t.member(slow))
            await t.whole()
        assert (await t.cluster.status(leader))["term"] == term, "one that wakes up disturbs nobody"


@pytest.mark.long
async def test_leader_told_to_end(tmp_path: pathlib.Path) -> None:
    """SIGTERM hands leadership over: no client waits for an election, and the exit code is 0."""
    async with trial(tmp_path, *THREE) as t:
        async with t.fault("SIGTERM of the leader") as seen:
            left = await t.leader()
            code = await asyncio.to_thread(t.member(left).stop)
            seen.saw("exit code 0", code == 0)
        t.member(left).start()
        await t.whole()
        assert t.load.disturbances[0].gap_seconds < ELECTION_SECONDS, t.load.disturbances
