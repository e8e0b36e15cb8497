"""Every call through a member that does not lead, and what a member says when nobody does."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.integration.members import Cluster, MemberProcess, cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    root: pathlib.Path = tmp_path_factory.mktemp("followers")
    async with cluster(root, "a", "b", "c") as made:
        yield made


async def _split(running: Cluster) -> tuple[MemberProcess, list[MemberProcess]]:
    leader = running.members[await running.leader()]
    return leader, [m for m in running.members.values() if m is not leader]


async def test_follower_forwards_and_relays_the_answer(running: Cluster) -> None:
    leader, (one, other) = await _split(running)
    async with httpx.AsyncClient(trust_env=False, timeout=15) as http:
        created = await http.put(f"{one.client_url}/v1/kv/a", content=b"1")
        assert created.status_code == 201
        assert created.headers["oarlock-member"].startswith(f"{one.name}-")
        assert created.headers["oarlock-leader"].startswith(f"{leader.name}-")
        got = await http.get(f"{other.client_url}/v1/kv/a")
        assert (got.content, got.headers["etag"]) == (b"1", created.headers["etag"])
        late = await http.put(f"{other.client_url}/v1/kv/a", content=b"2", headers={"if-none-match": "*"})
        assert (late.status_code, late.json()["outcome"]) == (412, "not_applied")
        assert (await http.delete(f"{one.client_url}/v1/kv/a")).status_code == 204
        assert (await http.get(f"{other.client_url}/v1/kv/a")).status_code == 404


async def test_repeat_through_another_member_gets_the_first_result(running: Cluster) -> None:
    """X2: the record is replicated, so it does not matter who is asked again."""
    leader, (one, other) = await _split(running)
    headers = {"idempotency-key": "order-7"}
    async with httpx.AsyncClient(trust_env=False, timeout=15) as http:
        answers = [
            await http.put(f"{m.client_url}/v1/kv/once", content=b"x", headers=headers) for m in (one, other, leader)
        ]
    assert [a.status_code for a in answers] == [201, 201, 201]
    assert len({a.json()["revision"] for a in answers}) == 1


async def test_redirect_names_the_leader_and_can_be_followed(running: Cluster) -> None:
    leader, (one, _) = await _split(running)
    async with httpx.AsyncClient(trust_env=False, timeout=15) as http:
        url = f"{one.client_url}/v1/kv/re%20direct?redirect=true"
        asked = await http.put(url, content=b"x")
        assert asked.status_code == 307
        assert asked.headers["location"] == f"{leader.client_url}/v1/kv/re%20direct?redirect=true"
        followed = await http.put(url, content=b"x", follow_redirects=True)
        assert followed.status_code == 201
        assert followed.headers["oarlock-member"].startswith(f"{leader.name}-")


async def test_admin_calls_elsewhere_name_the_leader(running: Cluster) -> None:
    leader, (one, _) = await _split(running)
    status = await running.status(one.name)
    configuration = status["configuration"]
    body = {"voters": configuration["voters"], "learners": [], "if_config": configuration["id"]}
    answer = await running.http.put(f"{one.peer_url}/admin/configuration", json=body)
    assert answer.status_code == 421
    assert answer.json()["leader"].startswith(f"{leader.name}-")


async def test_member_alone_says_honestly_what_it_knows(running: Cluster) -> None:
    """Without a majority: stale reads answer, linearizable ones and writes do not, and no write is called failed that
    may yet happen (rule 8). The member stays ready, so that its clients get these answers."""
    leader, (one, other) = await _split(running)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        await http.put(f"{leader.client_url}/v1/kv/kept", content=b"kept")
        await http.get(f"{one.client_url}/v1/kv/kept")
        leader.kill()
        other.kill()
        stale = await http.get(f"{one.client_url}/v1/kv/kept?consistency=stale")
        assert (stale.status_code, stale.content) == (200, b"kept")
        read = await http.get(f"{one.client_url}/v1/kv/kept")
        assert read.status_code in (503, 504)
        assert read.json()["outcome"] == "not_applied"
        write = await http.put(f"{one.client_url}/v1/kv/kept", content=b"lost?")
        assert write.status_code in (503, 504)
        assert write.json()["outcome"] == ("unknown" if write.status_code == 504 else "not_applied")
        leader.start()
        other.start()
        await running.leader()
        after = await http.get(f"{one.client_url}/v1/kv/kept")
        assert after.status_code == 200
        if write.json()["outcome"] == "not_applied":
            assert after.content == b"kept"
