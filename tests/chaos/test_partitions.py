"""Networks that are cut, in one way and in both, that lose packets and that reset connections; the load reaches all.

The members live in namespaces, the test in the middle: clients are never cut off, so what they get from the wrong side
of a cut is judged like everything else.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
from collections.abc import AsyncIterator, Iterable

import pytest
from tests.chaos.namespaces import DROP, EACH, RESET, Link, Network, between, deaf, mute, ring, some
from tests.chaos.scenario import ELECTION_SECONDS, Trial, trial

THREE = ("a", "b", "c")
FIVE = ("a", "b", "c", "d", "e")
STEPPED_DOWN_SECONDS = 2 * ELECTION_SECONDS + 2  # and what a busy machine of two cores adds


@contextlib.asynccontextmanager
async def networked(root: pathlib.Path, *names: str) -> AsyncIterator[tuple[Trial, Network]]:
    with Network(*names) as network:
        async with trial(root, *names, network=network) as t:
            yield t, network


@contextlib.asynccontextmanager
async def cut(
    t: Trial, network: Network, what: str, links: Iterable[Link], *, verdict: str = DROP, which: str = EACH
) -> AsyncIterator[None]:
    """While the body runs. Something must have been lost on the way to each receiver; then all become whole again."""
    async with t.fault(what) as seen:
        network.cut(links, verdict=verdict, which=which)
        yield
        for receiver, packets in network.lost_packets().items():
            seen.saw(f"packets lost to {receiver}", packets)
        network.heal()
        await t.whole()


async def highest_term(t: Trial) -> int:
    return max(int(status["term"]) for status in (await t.cluster.statuses()).values())


async def test_leader_isolated(tmp_path: pathlib.Path) -> None:
    async with networked(tmp_path, *THREE) as (t, network):
        old = await t.leader()
        async with cut(t, network, "the leader cut off from both others", between([old], t.others(old))):
            await t.cluster.until(
                "the old leader has stepped down", lambda found: found[old]["role"] != "leader", STEPPED_DOWN_SECONDS
            )
            await t.leader(other_than=old)
            await t.acknowledged()


@pytest.mark.long
async def test_follower_isolated(tmp_path: pathlib.Path) -> None:
    """By pre-vote it does not depose the leader when it returns."""
    async with networked(tmp_path, *THREE) as (t, network):
        leader = await t.leader()
        term = (await t.cluster.status(leader))["term"]
        away = t.others(leader)[0]
        async with cut(t, network, "a follower cut off from both others", between([away], t.others(away))):
            await t.cluster.until("it knows that it is alone", lambda found: found[away]["state"] == "Isolated")
            await t.acknowledged(200)
        assert (await t.cluster.status(leader))["term"] == term


@pytest.mark.long
async def test_five_split_with_the_leader_in_the_minority(tmp_path: pathlib.Path) -> None:
    async with networked(tmp_path, *FIVE) as (t, network):
        old = await t.leader()
        few = [old, t.others(old)[0]]
        many = t.others(*few)
        async with cut(t, network, "three of five cut off from the leader and one more", between(few, many)):
            await t.cluster.until(
                "only the majority has a leader",
                lambda found: [n for n in FIVE if n in found and found[n]["role"] == "leader"] in [[n] for n in many],
            )
            await t.acknowledged()


@pytest.mark.long
async def test_ring_of_majorities(tmp_path: pathlib.Path) -> None:
    """Each of five reaches a majority, and no two the same one: whoever leads goes on, or another does."""
    async with networked(tmp_path, *FIVE) as (t, network), cut(t, network, "a ring of majorities", ring(FIVE)):
        await t.acknowledged(300, seconds=40)
        term = await highest_term(t)
        await t.acknowledged(300, seconds=40)
        assert await highest_term(t) <= term + 2, "elections without an end"


async def test_bridge(tmp_path: pathlib.Path) -> None:
    """A and B do not reach each other, C reaches both: no endless elections between the two (Cloudflare, 2020)."""
    async with networked(tmp_path, *THREE) as (t, network):
        leader = await t.leader()
        other = t.others(leader)[0]
        what = "the leader and one follower cut off from each other, the third reaches both"
        async with cut(t, network, what, between([leader], [other])):
            await t.acknowledged(300)
            before = await highest_term(t)
            await t.acknowledged(300)
            after = await highest_term(t)
            assert after <= before + 1, f"from term {before} to {after}"


@pytest.mark.long
@pytest.mark.parametrize("how", [deaf, mute])
async def test_leader_reached_one_way(tmp_path: pathlib.Path, how: object) -> None:
    """Deaf, it is heard, and its heartbeats do not hold the others. Mute, it hears, and the others' words do not hold
    it: check-quorum makes both step down."""
    async with networked(tmp_path, *THREE) as (t, network):
        old = await t.leader()
        links = deaf(old, THREE) if how is deaf else mute(old, THREE)
        async with cut(t, network, f"the leader {'hears nobody' if how is deaf else 'is heard by nobody'}", links):
            await t.leader(other_than=old)
            await t.cluster.until(
                "the old leader has stepped down", lambda found: found[old]["role"] != "leader", STEPPED_DOWN_SECONDS
            )
            await t.acknowledged()


@pytest.mark.parametrize(
    "sides", [("a", "b", "c"), pytest.param(("ab", "cd", "e"), marks=pytest.mark.long)], ids="-".join
)
async def test_total_split(tmp_path: pathlib.Path, sides: tuple[str, ...]) -> None:
    """No side has a majority: nobody leads and nothing is acknowledged; by pre-vote no term passes meanwhile."""
    names = "".join(sides)
    async with networked(tmp_path, *names) as (t, network):
        links = set[Link]().union(*(between(one, other) for one, other in itertools.combinations(sides, 2)))
        async with cut(t, network, f"a total split: {'-'.join(sides)}", links):
            await t.cluster.until(
                "nobody leads",
                lambda found: len(found) == len(names) and all(s["role"] != "leader" for s in found.values()),
                STEPPED_DOWN_SECONDS,
            )
            term = await highest_term(t)
            await t.nothing_acknowledged()
            found = await t.cluster.statuses()
            assert sorted(found) == sorted(names)
            assert {status["role"] for status in found.values()} <= {"follower", "pre-candidate"}
            assert await highest_term(t) == term


@pytest.mark.long
@pytest.mark.parametrize("how", [deaf, mute])
async def test_follower_reached_one_way(tmp_path: pathlib.Path, how: object) -> None:
    """It cannot depose the leader, neither while the cut lasts nor after."""
    async with networked(tmp_path, *THREE) as (t, network):
        leader = await t.leader()
        term = (await t.cluster.status(leader))["term"]
        odd = t.others(leader)[0]
        links = deaf(odd, THREE) if how is deaf else mute(odd, THREE)
        what = f"a follower {'hears nobody' if how is deaf else 'is heard by nobody'}"
        async with cut(t, network, what, links):
            await t.cluster.until("it knows that it is alone", lambda found: found[odd]["state"] == "Isolated")
            await t.acknowledged(200)
        assert (await t.cluster.status(leader))["term"] == term


async def test_packets_lost_at_random(tmp_path: pathlib.Path) -> None:
    async with (
        networked(tmp_path, *THREE) as (t, network),
        cut(t, network, "one packet in ten lost everywhere", between(THREE, THREE), which=some(10)),
    ):
        await t.acknowledged(300, seconds=60)


@pytest.mark.long
async def test_connections_reset(tmp_path: pathlib.Path) -> None:
    """Every one of them, again and again, at any point of a message."""
    async with networked(tmp_path, *THREE) as (t, network):
        links = between(THREE, THREE)
        async with cut(t, network, "one packet in fifty reset", links, verdict=RESET, which=some(2)):
            await t.acknowledged(300, seconds=60)
