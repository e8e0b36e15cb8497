"""Clocks that differ between members, and that jump under a running one: no promise rests on what a clock says."""

from __future__ import annotations

import datetime
import pathlib
import time

import pytest
from tests.chaos.clocks import MovableClock, has_own_clocks, offset, offsets
from tests.chaos.scenario import ChaosMember, Trial, trial

THREE = ("a", "b", "c")
HOUR = 3600.0
DAY = 86400


async def transferred(t: Trial, target: str) -> None:
    """Leadership is handed to `target`; every member logs that."""
    leader = await t.leader()
    node = (await t.cluster.status(target))["node_id"]
    url = f"{t.member(leader).peer_url}/admin/transfer"
    answer = await t.cluster.http.post(url, json={"target": node})
    assert answer.status_code == 200, answer.text
    await t.cluster.until(f"{target} leads", lambda found: found[target]["role"] == "leader")


def hours_ahead(member: ChaosMember) -> float:
    """Of the machine's clock, by the last line of its log."""
    *_, last = member.log_lines()
    told = datetime.datetime.fromisoformat(last["timestamp"])
    return (told.timestamp() - time.time()) / HOUR


@pytest.mark.long
async def test_monotonic_clocks_differ_after_restarts(tmp_path: pathlib.Path) -> None:
    """As on machines that were started at other times: a member's own deadlines are all that its clock is for."""
    behind = -int(min(1000.0, time.monotonic() / 2))
    async with trial(tmp_path, *THREE) as t:
        for name, seconds in (("a", DAY), ("b", behind), ("c", 365 * DAY)):
            member = t.member(name)
            async with t.fault(f"restart with a clock {seconds} s from the machine's") as seen:
                member.kill()
                member.start(*offset(seconds))
                await t.whole()
                seen.saw("another time namespace", has_own_clocks(member.pid))
                seen.saw("its offset", str(seconds) in offsets(member.pid))


@pytest.mark.long
async def test_wall_clocks_jump(tmp_path: pathlib.Path) -> None:
    """The leader's an hour ahead, a follower's an hour back, which then leads."""
    clocks = {name: MovableClock(tmp_path, name) for name in THREE}
    async with trial(tmp_path, *THREE, wrappers={name: clock.wrapper for name, clock in clocks.items()}) as t:
        leader = await t.leader()
        back, other = t.others(leader)
        async with t.fault("wall clocks jump apart by two hours") as seen:
            clocks[leader].jump(wall=HOUR)
            clocks[back].jump(wall=-HOUR)
            await t.acknowledged(100)
            await transferred(t, back)
            await t.acknowledged(100)
            seen.measured("hours ahead, the old leader", hours_ahead(t.member(leader)), 0.9)
            seen.measured("hours back, the new leader", -hours_ahead(t.member(back)), 0.9)
            await transferred(t, other)
            await t.acknowledged(100)
            clocks[leader].jump(wall=-HOUR)
            clocks[back].jump(wall=HOUR)
            await t.acknowledged(100)
            await t.whole()


@pytest.mark.long
@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_all_clocks_of_a_member_jump(tmp_path: pathlib.Path, role: str) -> None:
    """As after the pause of a virtual machine that nobody told it of: every deadline has passed at once."""
    clocks = {name: MovableClock(tmp_path, name) for name in THREE}
    async with trial(tmp_path, *THREE, wrappers={name: clock.wrapper for name, clock in clocks.items()}) as t:
        leader = await t.leader()
        jumps = leader if role == "leader" else t.others(leader)[0]
        for number in range(1, 4):
            async with t.fault(f"jump {number} of all clocks of the {role} by 100 s") as seen:
                clocks[jumps].jump(wall=100, monotonic=100)
                await t.acknowledged(100)
                seen.measured("seconds ahead, as the member read it", clocks[jumps].read()[1], 100 * number)
        await t.whole()
