"""Attackers' clients on real members: what they make grow stays within its bound, and the leader leads on (rule 33).

Rule of this module: each bound is seen to be reached (the answer that says so), or the test has shown nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import pathlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
from tests.flood import NUMBER_BYTES, Writer
from tests.integration.members import Cluster, MemberProcess, cluster, pause, resume

from oarlock.api.limits import Limits
from oarlock.api.server import Listeners, Servers, bind
from oarlock.kv import KvMachine
from oarlock.machine import records
from oarlock.runtime import engine
from oarlock.runtime.node import Node
from oarlock.runtime.settings import NodeSettings

MIB = 1 << 20
VALUE = b"x" * MIB
IN_FLIGHT_BYTES = 64 * MIB  # of a member's writes (rule 32)
ATTACKERS = 120  # with a value each: more than the bound
PAUSED_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
READING_BYTES = 64 * MIB  # of requests that are not whole yet
ELECTION_MS = 8000  # so that a leader without its followers leads on for longer than that
MOST_CONNECTIONS = 200
FLOOD_SECONDS = 3.0
MOST_READS = 40  # that may wait, and ...
MOST_KEYS = 30  # ... idempotency keys that are remembered, where the real bounds are out of a test's reach


async def flood(url: str, prefix: str) -> dict[str, httpx.Response]:
    limits = httpx.Limits(max_connections=ATTACKERS)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:
        keys = [f"{prefix}/{n}" for n in range(ATTACKERS)]
        answers = await asyncio.gather(*(client.put(f"{url}/v1/kv/{key}", content=VALUE) for key in keys))
    return dict(zip(keys, answers, strict=True))


@pytest.mark.parametrize("through", ["leader", "follower"])
async def test_a_flood_of_writes_ends_in_429_and_the_leader_leads_on(tmp_path: pathlib.Path, through: str) -> None:
    options = ["--election-timeout-ms", str(ELECTION_MS), "--heartbeat-ms", "100"]
    async with cluster(tmp_path, "a", "b", "c", options=options) as made:
        leader = await made.leader()
        term = (await made.status(leader))["term"]
        at = leader if through == "leader" else next(name for name in made.members if name != leader)
        others = [member for name, member in made.members.items() if name != at]
        small = made.members[at].most_resident_bytes()
        for member in others:
            pause(member)
        try:
            attack = asyncio.create_task(flood(made.members[at].client_url, "flood"))
            await asyncio.sleep(PAUSED_SECONDS)
        finally:
            for member in others:
                resume(member)
        answers = await attack
        codes = Counter(answer.status_code for answer in answers.values())
        assert codes[429] > 0, codes
        assert codes[201] > 0, codes
        assert set(codes) <= {201, 429, 503, 504}, codes  # 504: a slow machine had not written it after 5 s
        for answer in answers.values():
            if answer.status_code in (429, 503):
                assert answer.json()["outcome"] == "not_applied"
                assert int(answer.headers["retry-after"]) >= 1
        assert (codes[201] + codes[504]) * MIB <= IN_FLIGHT_BYTES
        held = made.members[at].most_resident_bytes() - small  # the log, two peers' windows and the state hold them too
        assert held < 10 * IN_FLIGHT_BYTES, f"{held >> 20} MiB"

        now = await made.status(leader)
        assert (now["role"], now["term"]) == ("leader", term)
        url = made.members[leader].client_url
        assert (await made.http.put(f"{url}/v1/kv/after", content=b"1")).status_code == 201
        for key, answer in answers.items():
            found = await made.http.get(f"{url}/v1/kv/{key}")
            assert found.status_code in {201: (200,), 504: (200, 404)}.get(answer.status_code, (404,)), key
        assert made.complaints() == []


async def flooded(made: Cluster, at: str, writers: list[Writer]) -> Counter[int]:
    """All of them at once, against one member. The statuses that they got; every member is of the same mind about who
    leads as before, and every key has what was acknowledged last, or what came after and was not answered."""
    before = await made.status(await made.leader())
    url, end = httpx.URL(made.members[at].client_url), time.monotonic() + FLOOD_SECONDS
    async with asyncio.timeout(FLOOD_SECONDS + 30):
        await asyncio.gather(*(writer.run(url, end) for writer in writers))
    codes = sum((writer.codes for writer in writers), Counter[int]())
    for name in made.members:
        now = await made.status(name)
        assert (now["term"], now["leader"]) == (before["term"], before["node_id"]), f"{name}: {codes}"
    for writer in writers:
        found = await made.http.get(f"{url}/v1/kv/{writer.key}")
        assert found.status_code == 200 if writer.acknowledged else found.status_code in (200, 404), writer.key
        if found.status_code == 200:
            assert writer.acknowledged <= int(found.content[:NUMBER_BYTES]) <= writer.sent, writer.key
    assert made.complaints() == []
    return codes


async def test_a_flood_of_small_writes_costs_no_election(tmp_path: pathlib.Path) -> None:
    """At the default time-outs. Small writes meet the bound on connections long before that on bytes in flight."""
    async with cluster(tmp_path, "a", "b", "c", options=["--max-connections", str(MOST_CONNECTIONS)]) as made:
        leader = await made.leader()
        codes = await flooded(made, leader, [Writer(f"small/{n}", 64) for n in range(2 * MOST_CONNECTIONS)])
        assert set(codes) <= {0, 200, 201, 503}, codes
        assert codes[200] + codes[201] > 1000, codes
        metrics = (await made.http.get(f"{made.members[leader].ops_url}/metrics")).text
        refused = 'oarlock_http_connections_rejected_total{port="client",reason="too_many_connections"} '
        assert next(float(line.removeprefix(refused)) for line in metrics.splitlines() if line.startswith(refused)) > 0


@pytest.mark.parametrize("through", ["leader", "follower"])
async def test_a_flood_of_large_writes_costs_no_election(tmp_path: pathlib.Path, through: str) -> None:
    """At the default time-outs, with everybody well: more than the bound is on its way at once, and 429 says so."""
    async with cluster(tmp_path, "a", "b", "c") as made:
        leader = await made.leader()
        at = leader if through == "leader" else next(name for name in made.members if name != leader)
        small = {name: member.most_resident_bytes() for name, member in made.members.items()}
        codes = await flooded(made, at, [Writer(f"large/{n}", MIB) for n in range(MOST_CONNECTIONS)])
        for name, member in made.members.items():  # also what was refused must leave nothing behind
            held = member.most_resident_bytes() - small[name]
            assert held < 10 * IN_FLIGHT_BYTES, f"{name}: {held >> 20} MiB, {codes}"
        assert codes[429] > 0, codes
        assert codes[200] + codes[201] > 0, codes
        assert set(codes) <= {0, 200, 201, 429, 503, 504}, codes


async def test_bodies_that_never_end_are_bounded_together(tmp_path: pathlib.Path) -> None:
    """Each connection may send 1.5 MiB within 30 s: 4096 of them would hold 6 GiB."""
    async with cluster(tmp_path, "a") as made:
        url = httpx.URL(made.members["a"].client_url)
        small = made.members["a"].most_resident_bytes()
        head = b"PUT /v1/kv/slow/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        connections = []

        async def attack(number: int) -> bytes:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            connections.append(writer)
            writer.write(head % (number, MIB + 1) + VALUE)  # and the last byte never comes
            try:
                return await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""

        attacks = [asyncio.create_task(attack(number)) for number in range(3 * READING_BYTES // MIB)]
        try:
            async with asyncio.timeout(20):
                refused = itertools.islice(asyncio.as_completed(attacks), len(attacks) - READING_BYTES // MIB)
                answers = [await answer for answer in refused]
            assert all(b" 429 " in answer and b"retry-after: 1" in answer for answer in answers), Counter(answers)
            metrics = (await made.http.get(f"{made.members['a'].ops_url}/metrics")).text
            reading = next(line for line in metrics.splitlines() if line.startswith("oarlock_http_reading_bytes "))
            assert 0.9 * READING_BYTES < float(reading.split()[1]) <= READING_BYTES
            assert made.members["a"].most_resident_bytes() - small < 4 * READING_BYTES
            assert (await made.http.put(f"{url}/v1/kv/small", content=b"1")).status_code == 201
            assert (await made.http.put(f"{url}/v1/kv/large", content=VALUE)).status_code == 429
        finally:
            for task in attacks:
                task.cancel()
            for writer in connections:
                writer.close()
        async with asyncio.timeout(20):
            while (await made.http.put(f"{url}/v1/kv/large", content=VALUE)).status_code == 429:
                pass
        assert (await made.http.get(f"{url}/v1/kv/slow/0")).status_code == 404
        assert made.complaints() == []


@contextlib.asynccontextmanager
async def in_this_process(made: Cluster, name: str) -> AsyncIterator[Node]:
    """A member whose bounds a test can lower, alone in a new cluster; it listens as the others do."""
    member = made.members[name] = MemberProcess(name, made.root, made.token_file)  # which is not started
    member.log.touch()
    timing = {"election_timeout_seconds": ELECTION_MS / 1000, "heartbeat_seconds": 0.1}
    urls = {"peer_url": member.peer_url, "client_url": member.client_url}
    settings = NodeSettings(name, member.directory, **urls, token=made.token, **timing)
    failures: list[str] = []
    node = await Node.start(settings, KvMachine(), failures.append)
    listeners = Listeners(*(bind(member.host, port) for port in member.ports))
    servers = await Servers.start(node, listeners, made.token, Limits(request_seconds=PATIENCE_SECONDS))
    try:
        await made.answering(name)
        await node.bootstrap("begin", "test", 1)
        await made.ready(name)
        yield node
    finally:
        await servers.stop()
        await node.stop()
        gc.unfreeze()  # the member froze this process's objects; the next test wants them collected
    assert failures == []


async def gauge(made: Cluster, name: str, metric: str) -> float:
    text = (await made.http.get(f"{made.members[name].ops_url}/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{metric} "))


def refused(answer: httpx.Response, code: str) -> bool:
    told = answer.json()
    assert (answer.status_code, told["code"], told["outcome"]) == (429, code, "not_applied"), answer.text
    return told["retryable"] and int(answer.headers["retry-after"]) >= 1


async def test_reads_that_wait_are_bounded_and_answered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a leader whose other voter does not answer: nobody confirms a read. Stale ones and probes go on."""
    monkeypatch.setattr(engine, "Limits", partial(engine.Limits, waiting_reads=MOST_READS))
    made = Cluster(tmp_path, ["--election-timeout-ms", str(ELECTION_MS), "--heartbeat-ms", "100"])
    limits = httpx.Limits(max_connections=4 * MOST_READS)
    client = httpx.AsyncClient(limits=limits, timeout=PATIENCE_SECONDS, trust_env=False)
    try:
        async with client, in_this_process(made, "a") as node:
            made.add("b")
            await made.reconfigure("a", "b")
            url, term = f"{made.members['a'].client_url}/v1/kv/key", node.term
            assert (await client.put(url, content=b"1")).status_code == 201
            pause(made.members["b"])
            try:
                reads = [asyncio.create_task(client.get(url)) for _ in range(3 * MOST_READS)]
                async with asyncio.timeout(ELECTION_MS / 2000):
                    first = itertools.islice(asyncio.as_completed(reads), 2 * MOST_READS)
                    assert all([refused(await answer, "overloaded") for answer in first])
                assert await gauge(made, "a", "oarlock_reads_waiting") == MOST_READS
                assert sum(read.done() for read in reads) == 2 * MOST_READS
                assert (await client.get(f"{url}?consistency=stale")).content == b"1"
            finally:
                resume(made.members["b"])
            answers = Counter(answer.status_code for answer in await asyncio.gather(*reads))
            assert answers == {200: MOST_READS, 429: 2 * MOST_READS}
            assert (await client.get(url)).content == b"1"
            assert await gauge(made, "a", "oarlock_reads_waiting") == 0
            assert (node.leader, node.term) == (node.node_id, term)
            assert made.complaints() == []
    finally:
        await made.close()


async def test_idempotency_keys_are_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known keep their results, and a write without one is taken."""
    monkeypatch.setattr(records, "MAX_RECORDS", MOST_KEYS)
    made = Cluster(tmp_path)
    try:
        async with in_this_process(made, "a"):
            url = f"{made.members['a'].client_url}/v1/kv"

            async def put(number: int) -> httpx.Response:
                return await made.http.put(f"{url}/{number}", content=b"1", headers={"idempotency-key": f"k{number}"})

            answers = await asyncio.gather(*map(put, range(3 * MOST_KEYS)))
            taken = [number for number, answer in enumerate(answers) if answer.status_code == 201]
            assert len(taken) == MOST_KEYS, Counter(answer.status_code for answer in answers)
            for number, answer in enumerate(answers):
                assert number in taken or refused(answer, "idempotency_full")
                found = await made.http.get(f"{url}/{number}")
                assert found.status_code == (200 if number in taken else 404), number
            assert await gauge(made, "a", "oarlock_idempotency_records") == MOST_KEYS
            again = await put(taken[0])
            assert (again.status_code, again.json()) == (201, answers[taken[0]].json())
            assert refused(await put(3 * MOST_KEYS), "idempotency_full")
            assert (await made.http.put(f"{url}/plain", content=b"1")).status_code == 201
    finally:
        await made.close()
