"""Members exchanged while the network is cut: a change needs majorities of both sets; who is cut off has none."""

from __future__ import annotations

import pathlib

import pytest
from tests.chaos.namespaces import Network, between
from tests.chaos.scenario import ELECTION_SECONDS, trial

THREE = ("a", "b", "c")


async def test_member_that_is_cut_off_is_replaced(tmp_path: pathlib.Path) -> None:
    """The two that are left take a third; the one that returns is told that it is removed, and disturbs nobody."""
    with Network(*THREE, "d") as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            leader = await t.leader()
            away = t.others(leader)[0]
            new = (*t.others(away), "d")
            async with t.fault("a member exchanged while it is cut off") as seen:
                network.cut(between([away], [*t.others(away), "d"]))
                await t.cluster.until("it knows that it is alone", lambda found: found[away]["state"] == "Isolated")
                t.cluster.add("d")
                await t.cluster.reconfigure(*new)
                t.load.endpoints.remove(t.load.members.pop(away))
                seen.saw("packets lost", sum(network.lost_packets().values()))
                network.heal()
                await t.cluster.until("it is told", lambda found: found[away]["state"] == "Removed")
            t.names = new
            t.load.members["d"] = t.member("d").client_url
            await t.whole()
            assert await t.leader() == leader, "the one that was removed deposed a leader"


@pytest.mark.long
async def test_leader_that_is_cut_off_cannot_remove_the_others(tmp_path: pathlib.Path) -> None:
    """Asked to make itself the only member, it would be a second cluster (Redis-Raft, issue 17)."""
    with Network(*THREE) as network:
        async with trial(tmp_path, *THREE, network=network) as t:
            old = await t.leader()
            status = await t.cluster.status(old)
            configuration = status["configuration"]
            itself = [member for member in configuration["voters"] if member["id"] == status["node_id"]]
            async with t.fault("a leader on an island, asked to remove all others") as seen:
                network.cut(between([old], t.others(old)))
                body = {"if_config": configuration["id"], "voters": itself, "learners": []}
                url = f"{t.member(old).peer_url}/admin/configuration?timeout_seconds=4"
                answer = await t.cluster.http.put(url, json=body)
                assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown"), answer.text
                await t.cluster.until(
                    "it has stepped down", lambda found: found[old]["role"] != "leader", 2 * ELECTION_SECONDS + 2
                )
                await t.leader(other_than=old)
                await t.acknowledged()
                seen.saw("packets lost", sum(network.lost_packets().values()))
                network.heal()
                await t.whole()
            voters = {m["id"] for m in (await t.cluster.status(await t.leader()))["configuration"]["voters"]}
            assert len(voters) == 3, voters
