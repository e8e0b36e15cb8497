"""Networks that are cut, in one way and in both, that lose packets and that reset connections; the load reaches all.

The members live in namespaces, the test in the middle: clients are never cut off, so what they get from the wrong side
of a cut is judged like everything else.
"""

from __future__ import annotations

import pathlib

import pytest
from tests.chaos.namespaces import RESET, Network, between, deaf, mute, ring, some
from tests.chaos.oracles import Observation
from tests.chaos.scenario import ELECTION_SECONDS, trial

THREE = ("a", "b", "c")
FIVE = ("a", "b", "c", "d", "e")
STEPPED_DOWN_SECONDS = 2 * ELECTION_SECONDS + 2  # and what a busy machine of two cores adds


def strikes(seen: Observation, network: Network, *receivers: str) -> None:
    """Was something lost on its way to each of these?"""
    lost = network.lost_packets()
    for receiver in receivers or lost:
        seen.saw(f"packets lost to {receiver}", lost[receiver])


async def test_leader_isolated(tmp_path: pathlib.Path) -> None:
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            old = await t.leader()
            async with t.fault("the leader cut off from both others") as seen:
                network.cut(between([old], t.others(old)))
                await t.cluster.until(
                    "the old leader has stepped down",
                    lambda found: found[old]["role"] != "leader",
                    STEPPED_DOWN_SECONDS,
                )
                await t.leader(other_than=old)
                await t.acknowledged()
                strikes(seen, network)
                network.heal()
                await t.whole()


@pytest.mark.long
async def test_follower_isolated(tmp_path: pathlib.Path) -> None:
    """By pre-vote it does not depose the leader when it returns."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            leader = await t.leader()
            term = (await t.cluster.status(leader))["term"]
            away = t.others(leader)[0]
            async with t.fault("a follower cut off from both others") as seen:
                network.cut(between([away], t.others(away)))
                await t.cluster.until("it knows that it is alone", lambda found: found[away]["state"] == "Isolated")
                await t.acknowledged(200)
                strikes(seen, network)
                network.heal()
                await t.whole()
            assert (await t.cluster.status(leader))["term"] == term


@pytest.mark.long
async def test_five_split_with_the_leader_in_the_minority(tmp_path: pathlib.Path) -> None:
    with Network(*FIVE) as network:
        async with trial(tmp_path, *FIVE, network=network) as t:
            old = await t.leader()
            few = [old, t.others(old)[0]]
            many = t.others(*few)
            async with t.fault("three of five cut off from the leader and one more") as seen:
                network.cut(between(few, many))
                await t.cluster.until(
                    "only the majority has a leader",
                    lambda found: (
                        [n for n in FIVE if n in found and found[n]["role"] == "leader"] in [[n] for n in many]
                    ),
                )
                await t.acknowledged()
                strikes(seen, network)
                network.heal()
                await t.whole()


@pytest.mark.long
async def test_ring_of_majorities(tmp_path: pathlib.Path) -> None:
    """Each of five reaches a majority, and no two the same one: whoever leads goes on, or another does."""
    with Network(*FIVE) as network:
        async with trial(tmp_path, *FIVE, network=network) as t, t.fault("a ring of majorities") as seen:
            network.cut(ring(FIVE))
            await t.acknowledged(300, seconds=40)
            strikes(seen, network)
            terms = {name: status["term"] for name, status in (await t.cluster.statuses()).items()}
            await t.acknowledged(300, seconds=40)
            later = {name: status["term"] for name, status in (await t.cluster.statuses()).items()}
            assert max(later.values()) <= max(terms.values()) + 2, "elections without an end"
            network.heal()
            await t.whole()


async def test_bridge(tmp_path: pathlib.Path) -> None:
    """A and B do not reach each other, C reaches both: no endless elections between the two (Cloudflare, 2020)."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            leader = await t.leader()
            other = t.others(leader)[0]
            async with t.fault("the leader and one follower cut off from each other, the third reaches both") as seen:
                network.cut(between([leader], [other]))
                await t.acknowledged(300)
                before = max(status["term"] for status in (await t.cluster.statuses()).values())
                await t.acknowledged(300)
                strikes(seen, network)
                after = max(status["term"] for status in (await t.cluster.statuses()).values())
                assert after <= before + 1, f"from term {before} to {after}"
                network.heal()
                await t.whole()


@pytest.mark.long
async def test_leader_deaf(tmp_path: pathlib.Path) -> None:
    """It hears nobody and is heard: check-quorum makes it step down, and its heartbeats do not hold the others."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            old = await t.leader()
            async with t.fault("the leader hears nobody") as seen:
                network.cut(deaf(old, THREE))
                await t.leader(other_than=old)
                await t.cluster.until(
                    "the deaf one has stepped down", lambda found: found[old]["role"] != "leader", STEPPED_DOWN_SECONDS
                )
                await t.acknowledged()
                strikes(seen, network, old)
                network.heal()
                await t.whole()


@pytest.mark.long
@pytest.mark.parametrize("how", [deaf, mute])
async def test_follower_reached_one_way(tmp_path: pathlib.Path, how: object) -> None:
    """It cannot depose the leader, neither while the cut lasts nor after."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            leader = await t.leader()
            term = (await t.cluster.status(leader))["term"]
            odd = t.others(leader)[0]
            links = deaf(odd, THREE) if how is deaf else mute(odd, THREE)
            async with t.fault(f"a follower {'hears nobody' if how is deaf else 'is heard by nobody'}") as seen:
                network.cut(links)
                await t.cluster.until("it knows that it is alone", lambda found: found[odd]["state"] == "Isolated")
                await t.acknowledged(200)
                strikes(seen, network)
                network.heal()
                await t.whole()
            assert (await t.cluster.status(leader))["term"] == term


async def test_packets_lost_at_random(tmp_path: pathlib.Path) -> None:
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t, t.fault("one packet in ten lost everywhere") as seen:
            network.cut(between(THREE, THREE), which=some(10))
            await t.acknowledged(300, seconds=60)
            strikes(seen, network)
            network.heal()
            await t.whole()


@pytest.mark.long
async def test_connections_reset(tmp_path: pathlib.Path) -> None:
    """Every one of them, again and again, at any point of a message."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t, t.fault("one packet in fifty reset") as seen:
            network.cut(between(THREE, THREE), verdict=RESET, which=some(2))
            await t.acknowledged(300, seconds=60)
            strikes(seen, network)
            network.heal()
            await t.whole()
