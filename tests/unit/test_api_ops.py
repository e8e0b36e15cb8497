"""Probes and metrics: what a kubelet and a Prometheus see."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.member import PATIENCE_SECONDS, RunningMember, running_member

from oarlock.api.client import ClientApp
from oarlock.api.limits import Limits
from oarlock.runtime.metrics import FAST_SECONDS, Histogram
from oarlock.runtime.snapshotting import MOST_READERS

NAMES = {
    "oarlock_raft_term": "gauge",
    "oarlock_raft_role": "gauge",
    "oarlock_raft_leader_changes_total": "counter",
    "oarlock_raft_elections_started_total": "counter",
    "oarlock_raft_elections_won_total": "counter",
    "oarlock_raft_election_duration_seconds": "histogram",
    "oarlock_raft_commit_index": "gauge",
    "oarlock_raft_applied_index": "gauge",
    "oarlock_raft_last_index": "gauge",
    "oarlock_raft_commit_lag_entries": "gauge",
    "oarlock_raft_apply_lag_entries": "gauge",
    "oarlock_raft_peer_match_lag_entries": "gauge",
    "oarlock_raft_leader_contact_age_seconds": "gauge",
    "oarlock_raft_commit_latency_seconds": "histogram",
    "oarlock_wal_fsync_seconds": "histogram",
    "oarlock_wal_waiting_bytes": "gauge",
    "oarlock_snapshots_damaged": "gauge",
    "oarlock_reads_waiting": "gauge",
    "oarlock_idempotency_records": "gauge",
    "oarlock_snapshot_count_total": "counter",
    "oarlock_snapshot_seconds": "histogram",
    "oarlock_snapshot_bytes": "gauge",
    "oarlock_snapshot_last_index": "gauge",
    "oarlock_snapshot_readers": "gauge",
    "oarlock_http_requests_total": "counter",
    "oarlock_http_request_seconds": "histogram",
}
"""The contract with dashboards and alerts. A name is never changed, and never dropped."""


async def scrape(member: RunningMember) -> tuple[dict[str, str], dict[str, float]]:
    """(type by name, value by sample with its labels)."""
    answer = await member.ops.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    kinds, values = {}, {}
    for family in text_string_to_metric_families(answer.text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name not in kinds, f"{name} is exposed twice"
        kinds[name] = family.type
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return kinds, values


async def test_every_name_of_the_contract_is_there(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        kinds, _ = await scrape(member)
        assert {name: kinds.get(name) for name in NAMES} == NAMES


async def test_metrics_move_when_what_they_count_does(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data") as member:
        _, before = await scrape(member)
        for i in range(3):
            await member.client.put(f"/v1/kv/k{i}", content=b"")
        await member.client.get("/v1/kv/absent")
        await member.peer.post("/admin/snapshot")
        _, after = await scrape(member)

        def moved(sample: str) -> float:
            return after[sample] - before.get(sample, 0.0)

        assert moved("oarlock_http_requests_total{code=201,route=PUT /v1/kv/{key}}") == 3
        assert moved("oarlock_http_requests_total{code=404,route=GET /v1/kv/{key}}") == 1
        assert moved("oarlock_http_requests_total{code=200,route=POST /admin/snapshot}") == 1
        assert moved("oarlock_http_request_seconds_count{route=PUT /v1/kv/{key}}") == 3
        assert moved("oarlock_raft_commit_latency_seconds_count") == 3
        assert moved("oarlock_raft_commit_index") == moved("oarlock_raft_last_index") == 3
        assert moved("oarlock_store_revision") == 3
        assert moved("oarlock_wal_fsync_seconds_count") >= 1
        assert moved("oarlock_snapshot_count_total") == 1
        assert after["oarlock_snapshot_last_index"] == after["oarlock_raft_applied_index"]
        assert after["oarlock_snapshot_bytes"] > 0
        assert after["oarlock_raft_role{role=leader}"] == 1
        assert sum(v for k, v in after.items() if k.startswith("oarlock_raft_role{")) == 1
        assert after["oarlock_raft_elections_won_total"] >= 1
        assert after["oarlock_raft_election_duration_seconds_count"] >= 1


async def test_what_a_client_can_make_grow_is_seen(tmp_path: Path) -> None:
    """Rule 33: a metric of each bound, from nothing on. Scraped in the middle of a read and of a second key."""
    async with running_member(tmp_path / "data") as member:
        _, values = await scrape(member)
        assert (values["oarlock_idempotency_records"], values["oarlock_reads_waiting"]) == (0, 0)
        assert values["oarlock_wal_waiting_bytes"] == 0
        for key in ("one", "two", "one"):
            await member.client.put("/v1/kv/a", content=b"", headers={"Idempotency-Key": f"{key}-0123456789"})
        read = member.node.read()
        assert member.node.engine is not None
        assert member.node.engine.member.waiting_reads == 1
        _, values = await scrape(member)
        assert values["oarlock_idempotency_records"] == 2
        await read
        assert member.node.engine.member.waiting_reads == 0


async def test_what_waits_for_the_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 6 and 33."""
    async with running_member(tmp_path / "data") as member:
        engine, writing, held = member.node.engine, asyncio.Event(), threading.Event()
        assert engine is not None
        write = engine._wal._wal.append

        def slow(*args: Any) -> Any:
            member.node.loop.call_soon_threadsafe(writing.set)
            held.wait(PATIENCE_SECONDS)
            return write(*args)

        monkeypatch.setattr(engine._wal._wal, "append", slow)
        put = asyncio.create_task(member.client.put("/v1/kv/a", content=bytes(10_000)))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await writing.wait()
                _, values = await scrape(member)
        finally:
            held.set()
        assert 10_000 <= values["oarlock_wal_waiting_bytes"] < 11_000
        assert (await put).status_code == 201
        assert (await scrape(member))[1]["oarlock_wal_waiting_bytes"] == 0


async def test_who_takes_a_snapshot_too_slowly_is_cut_off(tmp_path: Path) -> None:
    """Rule 33: four may copy at a time, and none of them for ever."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/snapshot",
        "raw_path": b"/v1/snapshot",
        "query_string": b"",
        "headers": [],
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2379),
        "state": {},
    }
    async with running_member(tmp_path / "data", limits=Limits(snapshot_seconds=0.5)) as member:
        await member.client.put("/v1/kv/a", content=b"1")
        app = ClientApp(member.node, member.limits, member.counts)
        taken: list[str] = []
        nothing: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

        async def receive() -> dict[str, object]:
            return await asyncio.shield(nothing)

        async def send(message: dict[str, object]) -> None:
            taken.append(str(message["type"]))
            if message["type"] == "http.response.body":  # which is never taken
                await asyncio.shield(nothing)

        async with asyncio.timeout(PATIENCE_SECONDS):
            slow = [asyncio.create_task(app(scope, receive, send)) for _ in range(MOST_READERS)]
            while len(taken) < 2 * MOST_READERS:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            refused = await member.client.get("/v1/snapshot")
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "1"
            _, values = await scrape(member)
            assert values["oarlock_snapshot_readers"] == MOST_READERS
            await asyncio.gather(*slow)
        assert Counter(taken) == {"http.response.start": MOST_READERS, "http.response.body": MOST_READERS}
        assert (await member.client.get("/v1/snapshot")).status_code == 200


async def test_scraping_an_idle_member_works(tmp_path: Path) -> None:
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        kinds, values = await scrape(member)
        assert NAMES.keys() <= kinds.keys()
        assert values["oarlock_member_state{state=Idle}"] == 1
        assert values["oarlock_member_ready"] == 0
        _, later = await scrape(member)
        age = "oarlock_raft_leader_contact_age_seconds"
        assert later[age] > values[age] > 0, "a member that has found no leader grows older, and an alert can fire"


async def test_unknown_routes_make_no_time_series(tmp_path: Path) -> None:
    """Rule 33."""
    async with running_member(tmp_path / "data", bootstrap=False) as member:
        for i in range(50):
            await member.client.get(f"/nothing/{i}")
            await member.peer.get(f"/admin/nothing/{i}")
            await member.stranger.get(f"/admin/{i}")
            await member.ops.get(f"/nothing/{i}")
        assert {route for route, _ in member.counts.requests} == {"other"}


async def test_ready_is_answered_from_a_short_memory(tmp_path: Path) -> None:
    """A probe costs the member nothing, however often it is asked; the memory is shorter than a probe's period."""
    async with running_member(tmp_path / "data") as member:
        assert (await member.ops.get("/healthz/ready")).text == "Participating\n"
        assert (await member.ops.head("/healthz/ready")).status_code == 200


def test_histogram_counts_each_observation_once() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(seconds)
    histogram.observe_many(0.1, 3)
    assert histogram.cumulative() == [("1.0", 5), ("2.0", 6), ("+Inf", 7)]
    assert (histogram.count, round(histogram.total, 6)) == (7, 5.8)


def test_buckets_rise() -> None:
    assert list(FAST_SECONDS) == sorted(set(FAST_SECONDS))
