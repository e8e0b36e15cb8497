"""The admin contract over HTTP, against one real member: bootstrap, membership, transfer, barrier, snapshot, reset."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
from tests.member import RunningMember, running_member, until

from oarlock.wire.admin import StatusAnswer

NEW = {"id": "m2-0123456789abcdef", "peer_url": "http://127.0.0.1:1", "client_url": "http://127.0.0.1:2"}


async def status(member: RunningMember) -> StatusAnswer:
    return StatusAnswer.model_validate_json((await member.peer.get("/admin/status")).content)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_idle_member_says_so_and_is_not_ready(tmp_path: Path) -> None:
    """Rule 16: an Idle member has no cluster, and guesses none."""
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        answer = await status(member)
        assert (answer.state, answer.cluster_id, answer.leader) == ("Idle", None, None)
        assert answer.configuration is None
        assert (answer.name, answer.node_id) == ("m1", f"m1-{answer.incarnation}")
        assert (answer.peer_url, answer.client_url) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
        assert (await member.ops.get("/healthz/startup")).status_code == 200
        assert (await member.ops.get("/healthz/live")).status_code == 200
        assert (await member.ops.get("/healthz/ready")).status_code == 503


async def test_bootstrap_answers_the_same_request_alike_and_another_with_409(tmp_path: Path) -> None:
    request = {"request_id": "r1", "cluster_id": "prod"}
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        first = await member.peer.post("/admin/bootstrap", json=request)
        assert first.status_code == 200
        assert first.json()["cluster_id"].startswith("prod+")
        assert first.json()["node_id"] == member.node.node_id
        again = await member.peer.post("/admin/bootstrap", json=request)
        assert again.json() == first.json()
        other = await member.peer.post("/admin/bootstrap", json={**request, "request_id": "r2"})
        assert code(other)[0] == 409
        await until(member.node, lambda: member.node.leader == member.node.node_id)
        assert (await member.client.put("/v1/kv/a", content=b"")).status_code == 201


async def test_writes_wait_for_min_voters(tmp_path: Path) -> None:
    """The latch of bootstrap: 503 not_applied, and not ready, until the configuration has had so many voters."""
    async with running_member(tmp_path / "data", min_voters=3) as member:
        answer = await member.client.put("/v1/kv/a", content=b"")
        assert code(answer) == (503, "awaiting_members")
        assert answer.json()["outcome"] == "not_applied"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await member.ops.get("/healthz/ready")).status_code == 503
        assert (await status(member)).configuration.min_voters == 3  # type: ignore[union-attr]
        assert (await member.client.get("/v1/kv/a")).status_code == 404


async def test_configuration_needs_the_latest_id(tmp_path: Path) -> None:
    """Rule 12: the precondition is the place of the latest configuration entry."""
    async with running_member(tmp_path / "data") as member:
        now = (await status(member)).configuration
        assert now is not None
        me = [m.model_dump() for m in now.voters]
        stale = {"voters": me, "learners": [], "if_config": "0.0"}
        assert code(await member.peer.put("/admin/configuration", json=stale)) == (412, "precondition_failed")
        moved = [{**me[0], "client_url": "http://127.0.0.1:3"}]
        change = {"voters": moved, "learners": [], "if_config": now.id}
        answer = await member.peer.put("/admin/configuration", json=change)
        assert answer.status_code == 200, answer.text
        after = (await status(member)).configuration
        assert after is not None
        assert (after.id, after.committed) == (answer.json()["id"], True)
        assert after.voters[0].client_url == "http://127.0.0.1:3"
        assert code(await member.peer.put("/admin/configuration", json=change)) == (412, "precondition_failed")


async def test_newcomer_that_does_not_answer_is_not_written_into_the_log(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        now = (await status(member)).configuration
        assert now is not None
        change = {"voters": [m.model_dump() for m in now.voters], "learners": [NEW], "if_config": now.id}
        answer = await member.peer.put("/admin/configuration", json=change)
        assert code(answer) == (409, "member_unreachable")
        assert answer.json()["outcome"] == "not_applied"
        assert (await status(member)).configuration == now


async def test_transfer_to_a_stranger_is_refused(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        assert code(await member.peer.post("/admin/transfer", json={"target": NEW["id"]}))[0] == 409
        me = await member.peer.post("/admin/transfer", json={"target": member.node.node_id})
        assert me.json() == {"leader": member.node.node_id, "term": member.node.term}


async def test_what_only_the_leader_does_is_421_elsewhere(tmp_path: Path) -> None:
    """An Idle member leads nothing, and knows nobody who does."""
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        change = {"voters": [NEW], "learners": [], "if_config": "1.1"}
        for answer in (
            await member.peer.put("/admin/configuration", json=change),
            await member.peer.post("/admin/transfer", json={"target": NEW["id"]}),
        ):
            assert code(answer) == (421, "not_leader")
            assert answer.json()["leader"] in ("", None)
            assert answer.json()["outcome"] == "not_applied"


async def test_barrier_moves_with_the_writes_before_it(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        first = (await member.peer.get("/admin/barrier")).json()
        await member.client.put("/v1/kv/a", content=b"")
        second = (await member.peer.get("/admin/barrier")).json()
        assert second["index"] > first["index"]
        assert second["term"] == member.node.term


async def test_barrier_without_a_leader_is_refused(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        answer = await member.peer.get("/admin/barrier?timeout_seconds=0.2")
        assert answer.status_code in (503, 504)
        assert answer.json()["outcome"] == "not_applied"


async def test_snapshot_is_taken_and_served_with_its_digest(tmp_path: Path) -> None:
    import base64
    import hashlib

    async with running_member(tmp_path / "data") as member:
        await member.client.put("/v1/kv/a", content=b"1")
        taken = (await member.peer.post("/admin/snapshot")).json()
        assert taken["index"] == member.node.status().applied_index
        served = await member.client.get("/v1/snapshot")
        digest = hashlib.sha256(served.content).digest()
        assert digest.hex() == taken["digest"]
        assert served.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
        assert int(served.headers["content-length"]) == len(served.content) == taken["size_bytes"]
        await member.client.put("/v1/kv/a", content=b"2")
        last = await member.client.get("/v1/snapshot")
        fresh = await member.client.get("/v1/snapshot?fresh=true")
        assert last.headers["oarlock-snapshot-index"] == str(taken["index"])
        assert int(fresh.headers["oarlock-snapshot-index"]) > taken["index"]
        model = (await status(member)).snapshot
        assert model is not None
        assert model.index == int(fresh.headers["oarlock-snapshot-index"])


async def test_a_first_snapshot_that_fails_is_told(tmp_path: Path) -> None:
    """There is none yet to hang the failure on; until one is taken the log only grows."""
    async with running_member(tmp_path / "data") as member:
        assert (await status(member)).snapshot is None
        place = member.node.directory.snapshots
        shutil.rmtree(place)
        place.write_bytes(b"")  # a file where the directory was
        assert code(await member.peer.post("/admin/snapshot"))[1] == "snapshot_failed"
        told = (await status(member)).snapshot
        assert told is not None
        assert told.index == 0
        assert told.failure
        place.unlink()
        place.mkdir()
        assert (await member.peer.post("/admin/snapshot")).status_code == 200
        taken = (await status(member)).snapshot
        assert taken is not None
        assert taken.index > 0
        assert taken.failure is None


async def test_reset_is_refused_for_a_member_and_for_another_id(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        mine = {"request_id": "r", "node_id": member.node.node_id}
        assert code(await member.peer.post("/admin/reset", json=mine))[0] == 409
        other = await member.peer.post("/admin/reset", json={**mine, "node_id": NEW["id"]})
        assert code(other)[0] == 409
        assert (await status(member)).state == "Participating"


async def test_reset_of_an_idle_member_sets_its_data_aside(tmp_path: Path) -> None:
    """Nothing is deleted, the id is new, and the same request gets the same answer."""
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        old = member.node.node_id
        request = {"request_id": "r", "node_id": old}
        answer = await member.peer.post("/admin/reset", json=request)
        assert answer.status_code == 200, answer.text
        assert answer.json()["node_id"] == member.node.node_id != old
        assert (tmp_path / "data" / answer.json()["quarantine"]).is_dir()
        again = await member.peer.post("/admin/reset", json=request)
        assert again.json() == answer.json()


async def test_notes_are_kept_over_a_restart(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        assert (await member.peer.put("/admin/notes", json={"pod_uid": "p1", "volume_uid": "v1"})).status_code == 204
        assert (await member.peer.put("/admin/notes", json={"pod_uid": "p2"})).status_code == 204
        answer = await status(member)
        assert (answer.pod_uid, answer.volume_uid) == ("p2", "v1")
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        answer = await status(member)
        assert (answer.pod_uid, answer.volume_uid) == ("p2", "v1")


async def test_a_stopping_member_refuses_with_not_applied(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        await member.client.put("/v1/kv/a", content=b"1")
        stopping = asyncio.ensure_future(member.node.stop())
        await asyncio.sleep(0)
        for answer in (await member.client.put("/v1/kv/a", content=b"2"), await member.client.get("/v1/kv/a")):
            assert code(answer) == (503, "stopping")
            assert answer.json()["outcome"] == "not_applied"
        await stopping
