"""Disks that lose their power, fail, hang, slow down and fill up, each below the file system of a real member."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import pytest
from tests.chaos.disks import Disk, can_throttle
from tests.chaos.oracles import Observation
from tests.chaos.scenario import ELECTION_SECONDS, ChaosMember, Trial, trial
from tests.chaos.syscalls import injected
from tests.flood import Writer

THREE = ("a", "b", "c")
FLOODED_BYTES_A_SECOND = 10 << 20  # 64 MiB in one write would take six time-outs
FLOOD_SECONDS = 6.0
FLOODERS = 100  # with 1 MiB each: more than a member takes at once
MOST_HELD_BYTES = 640 << 20  # ten times what may be in flight: log, two windows, state and buffers hold it too
TWO_TIME_OUTS = 2 * 2 * ELECTION_SECONDS  # of the longest: each is drawn from [T, 2T)
LAST_WORDS = ("Input/output error", "the member failed")  # of one whose disk has failed it: the log's, or the store's


@contextlib.contextmanager
def disks(root: pathlib.Path, *names: str, kind: str = "ext4", mebibytes: int = 320) -> Iterator[dict[str, Disk]]:
    with contextlib.ExitStack() as stack:
        made = (Disk(root, name, kind=kind, mebibytes=mebibytes) for name in names)
        yield {disk.name: stack.enter_context(disk) for disk in made}


async def ended(member: ChaosMember, seconds: float = 15) -> int:
    """The exit code of a member that ends by itself."""
    assert member.process is not None
    return await asyncio.to_thread(member.process.wait, seconds)


def power_returns(disk: Disk, member: ChaosMember) -> None:
    disk.unmount()
    disk.mount()
    member.start()


@pytest.mark.long
@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_power_loss_of_one(tmp_path: pathlib.Path, role: str) -> None:
    with disks(tmp_path, *THREE) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            leader = await t.leader()
            t.caused += LAST_WORDS
            dark = leader if role == "leader" else t.others(leader)[0]
            async with t.fault(f"power loss of the {role}") as seen:
                on[dark].lose_power()
                seen.saw("a write gets EIO", on[dark].refuses_writes())
                seen.saw("the member ends by itself", await ended(t.member(dark)) != 0)
                await t.leader(other_than=dark)
                await t.acknowledged()
                power_returns(on[dark], t.member(dark))
                await t.whole()


async def test_power_loss_of_all_at_once(tmp_path: pathlib.Path) -> None:
    with disks(tmp_path, *THREE) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t, t.fault("power loss of all at once") as seen:
            t.caused += LAST_WORDS
            for name in THREE:
                on[name].lose_power()
            for name in THREE:
                t.member(name).kill()
            for name in THREE:
                seen.saw(f"a write to {name} gets EIO", on[name].refuses_writes())
                power_returns(on[name], t.member(name))
            await t.whole()


@pytest.mark.parametrize("role", ["leader", pytest.param("follower", marks=pytest.mark.long)])
async def test_failed_sync_ends_the_member(tmp_path: pathlib.Path, role: str) -> None:
    """A failed write of the log is never tried again: who knows what the kernel has dropped (rule 5)."""
    async with trial(tmp_path, *THREE) as t:
        leader = await t.leader()
        t.caused += LAST_WORDS
        bad = leader if role == "leader" else t.others(leader)[0]
        async with t.fault(f"EIO from the log's disk on the {role}") as seen:
            async with injected(t.member(bad).pid, tmp_path, "error=EIO:when=1") as injection:
                seen.saw("strace", await injection.struck())
                seen.saw("the member ends by itself", await ended(t.member(bad)) != 0)
            await t.leader(other_than=bad)
            await t.acknowledged()
            t.member(bad).start()
            await t.whole()


async def another_leads(t: Trial, old: str) -> float:
    """The moment at which that is so. The old leader is not asked: it may take its time not to answer."""
    async with asyncio.timeout(20):
        while True:
            found = await t.cluster.statuses(*t.others(old))
            if any(status["role"] == "leader" for status in found.values()):
                return time.monotonic()
            await asyncio.sleep(0.02)


async def test_leader_whose_disk_hangs_steps_down(tmp_path: pathlib.Path) -> None:
    """Another leads within two time-outs. The old one applies what was committed, on the same disk, so its loop hangs
    too: it falls silent at once, and steps down when it wakes and hears of the other's term."""
    with disks(tmp_path, *THREE) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            old = await t.leader()
            term = (await t.cluster.status(old))["term"]
            async with t.fault("the leader's disk hangs") as seen:
                began = time.monotonic()
                await asyncio.to_thread(on[old].freeze)
                took = await another_leads(t, old) - began
                seen.saw("D in the states of its threads", t.member(old).thread_states().count("D"))
                await t.acknowledged()
                on[old].thaw()
                await t.cluster.until("the old leader follows", lambda found: follows(found.get(old), term))
                await t.whole()
            assert took < TWO_TIME_OUTS, f"{took:.1f} s until another led"


def follows(status: Mapping[str, Any] | None, term: int) -> bool:
    """Somebody of a later term."""
    return status is not None and status["role"] == "follower" and status["term"] > term


async def test_leader_whose_log_hangs_steps_down_in_its_term(tmp_path: pathlib.Path) -> None:
    """Its heartbeats would go on and on, and nothing would ever be written (pitfall D12): it gives way by itself,
    before anybody tells it of a later term."""
    async with trial(tmp_path, *THREE) as t:
        old = await t.leader()
        term = (await t.cluster.status(old))["term"]
        async with t.fault("the leader's log hangs") as seen:
            async with injected(t.member(old).pid, tmp_path, "delay_enter=3000000") as injection:
                began = time.monotonic()
                took = await another_leads(t, old) - began
                seen.saw("strace", await injection.struck())
                await t.acknowledged()
            await t.whole()
        assert took < TWO_TIME_OUTS, f"{took:.1f} s until another led"
        assert said_next(t.member(old), term) == ("no leader", term)


def said_next(member: ChaosMember, term: int) -> tuple[str, int]:
    """(event, term): what its log says of leaders right after it had begun to lead `term`."""
    lines = [line for line in member.log_lines() if line.get("event") in ("leader", "no leader")]
    said = [(line["event"], line["term"]) for line in lines]
    return said[said.index(("leader", term)) + 1]


@pytest.mark.long
async def test_slow_disk_of_a_follower(tmp_path: pathlib.Path) -> None:
    """Two of three are fast enough: clients see nothing of it."""
    with disks(tmp_path, *THREE) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            leader = await t.leader()
            slow = t.others(leader)[0]
            async with t.fault("a slow disk under a follower") as seen, slowed(t, on[slow], seen):
                seen.measured("seconds a write", await write_seconds(t, slow), 0.05)
                await t.acknowledged(300)
            await t.whole()
            assert await t.leader() == leader
            assert t.load.disturbances[0].gap_seconds < ELECTION_SECONDS, t.load.disturbances


@pytest.mark.long
async def test_slow_disk_of_the_leader(tmp_path: pathlib.Path) -> None:
    """Slow is not hung: heartbeats do not wait for the disk, and no election is held."""
    with disks(tmp_path, *THREE) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            leader = await t.leader()
            async with t.fault("a slow disk under the leader") as seen, slowed(t, on[leader], seen):
                seen.measured("seconds a write", await write_seconds(t, leader), 0.05)
                await t.acknowledged(100)
            await t.whole()
            assert await t.leader() == leader


@pytest.mark.skipif(not can_throttle(), reason="needs cgroup v1's blkio: strace delays calls, however much they write")
async def test_flood_of_large_writes_on_the_leaders_slow_disk(tmp_path: pathlib.Path) -> None:
    """The others commit in no time what the leader has still to write. It leads on, since its disk answers, and takes
    no more than it may hold (rules 6 and 33)."""
    with disks(tmp_path, *THREE, mebibytes=1024) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            leader = await t.leader()
            before = await t.cluster.status(leader)
            url = httpx.URL(t.member(leader).client_url)
            async with t.fault("a flood of large writes on the leader's slow disk") as seen:
                small = t.member(leader).most_resident_bytes()
                on[leader].throttle(t.member(leader).pid, bytes_a_second=FLOODED_BYTES_A_SECOND)
                end = time.monotonic() + FLOOD_SECONDS
                writers = [Writer(f"flood/{n}", 1 << 20) for n in range(FLOODERS)]
                async with asyncio.timeout(FLOOD_SECONDS + 30):
                    await asyncio.gather(*(writer.run(url, end) for writer in writers))
                codes = sum((writer.codes for writer in writers), Counter[int]())
                seen.measured("429s", codes[429], 1)
                seen.measured("seconds a write", await write_seconds(t, leader, 1), 0.05)
                grown = t.member(leader).most_resident_bytes() - small
                on[leader].throttle_off()
                now = await t.cluster.status(leader)
                assert (now["role"], now["term"]) == ("leader", before["term"]), codes
                assert grown < MOST_HELD_BYTES, f"{grown >> 20} MiB, {codes}"
            await t.whole()


@contextlib.asynccontextmanager
async def slowed(t: Trial, disk: Disk, seen: Observation) -> AsyncIterator[None]:
    """By the kernel where it can throttle a process' writes, else by strace; `seen` is told by which."""
    member = t.member(disk.name)
    if can_throttle():
        disk.throttle(member.pid, writes_a_second=10)
        seen.saw("slowed by", "the kernel: blkio, 10 writes a second")
        try:
            yield
        finally:
            disk.throttle_off()
    else:
        async with injected(member.pid, t.cluster.root, "delay_enter=100000") as injection:
            seen.saw("slowed by", f"strace: {await injection.struck()}")
            yield


async def write_seconds(t: Trial, name: str, writes: int = 10) -> float:
    """The mean time of the next writes of its log, from its own metrics."""
    metric = "oarlock_wal_fsync_seconds"
    count, total = [await t.cluster.metric(name, f"{metric}_{what}") for what in ("count", "sum")]
    async with asyncio.timeout(30):
        while (later := await t.cluster.metric(name, f"{metric}_count")) < count + writes:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return (await t.cluster.metric(name, f"{metric}_sum") - total) / (later - count)


STILL_FREE = 16 << 20  # below the bound at which puts are refused


@pytest.mark.parametrize(
    ("kind", "leave_bytes"),
    [
        ("ext4", STILL_FREE),
        pytest.param("xfs", STILL_FREE, marks=pytest.mark.long),
        pytest.param("xfs", 0, marks=pytest.mark.long),
        pytest.param("ext4", 0, marks=pytest.mark.long),
    ],
)
async def test_full_disks(tmp_path: pathlib.Path, kind: str, leave_bytes: int) -> None:
    """Of a majority: puts are refused, reads and deletes go on, and it clears by itself when there is space again."""
    with disks(tmp_path, *THREE, kind=kind) as on:
        async with trial(tmp_path, *THREE, disks=on.values()) as t:
            leader = await t.leader()
            full = [leader, t.others(leader)[0]]
            url = t.member(t.others(*full)[0]).client_url
            for n in range(20):
                (await t.cluster.http.put(f"{url}/v1/kv/spare/{n}", content=b"x")).raise_for_status()
            async with t.fault("no space on the disks of a majority") as seen:
                for name in full:
                    await asyncio.to_thread(on[name].fill, leave_bytes)
                most = leave_bytes + (1 << 20)
                seen.saw("little is free", all(on[name].free_bytes < most for name in full))
                refused = await put_until(t, url, 507)
                assert refused.json()["outcome"] == "not_applied", refused.text
                seen.saw("507", refused.json()["code"])
                for n in range(20):
                    answer = await t.cluster.http.delete(f"{url}/v1/kv/spare/{n}")
                    assert answer.status_code in (200, 204), f"{answer.text} {held(t, full)}"
                    assert (await t.cluster.http.get(f"{url}/v1/kv/spare/{n}")).status_code == 404
                assert (await t.cluster.http.put(f"{url}/v1/kv/spare/x", content=b"x")).status_code == 507
                for name in full:
                    on[name].free()
                await put_until(t, url, 201)
            await t.whole()


def held(t: Trial, names: list[str]) -> str:
    """What each keeps back for such a day, for whoever looks at a failure."""
    ballasts = {name: t.member(name).directory / "ballast" for name in names}
    return ", ".join(
        f"{name}: ballast {path.stat().st_size if path.exists() else 0}" for name, path in ballasts.items()
    )


async def put_until(t: Trial, url: str, status: int, seconds: float = 20) -> httpx.Response:
    """Puts of new keys until the answer is this one."""
    end, n = time.monotonic() + seconds, 0
    while True:
        n += 1
        answer = await t.cluster.http.put(f"{url}/v1/kv/try/{status}/{n}", content=b"x")
        if answer.status_code == status:
            return answer
        assert time.monotonic() < end, f"no {status} within {seconds} s: {answer.status_code} {answer.text}"
        await asyncio.sleep(0.05)
