"""A member that replays for long, on a slow machine: its probes of life never fail, and it is not Ready before the end.

Rule of this module: the probes are those of the manifest, with their own time-outs; of startup and liveness one miss
counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator

import httpx
from tests.integration.members import MemberProcess, cluster, pause, resume
from tests.operator.worlds import world

from oarlock_operator.resources.statefulset import template

ENTRIES, VALUE_BYTES = 2_000, 24 * 1024  # below what makes a snapshot due
PERIOD_SECONDS, SHARE = 0.05, 0.05  # of each period, how much the process may run
LONG_SECONDS = 3.0  # longer than a probe waits: a shorter replay proves nothing


def time_outs() -> dict[str, float]:
    """Seconds that the kubelet waits for an answer to each probe, by its path."""
    (container,) = template(world().cluster, "image").body["spec"]["containers"]
    probes = [container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    return {probe["httpGet"]["path"]: probe["timeoutSeconds"] for probe in probes}


async def write(client: httpx.AsyncClient, url: str) -> None:
    async def some(first: int) -> None:
        for n in range(first, ENTRIES, 64):
            (await client.put(f"{url}/v1/kv/replay/{n}", content=b"x" * VALUE_BYTES)).raise_for_status()

    await asyncio.gather(*(some(first) for first in range(64)))


@contextlib.asynccontextmanager
async def slow(member: MemberProcess) -> AsyncIterator[None]:
    """The machine gives this process a small share of its time."""

    async def throttle() -> None:
        while True:
            pause(member)
            await asyncio.sleep(PERIOD_SECONDS * (1 - SHARE))
            resume(member)
            await asyncio.sleep(PERIOD_SECONDS * SHARE)

    throttling = asyncio.create_task(throttle())
    try:
        yield
    finally:
        throttling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await throttling
        resume(member)


async def test_no_probe_fails_on_replay_time(tmp_path: pathlib.Path) -> None:
    waits = time_outs()
    async with cluster(tmp_path, "a") as running:
        member = running.members["a"]
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=30) as client:
            await write(client, member.client_url)
        member.kill()
        for state in (member.directory / "state").glob("state-*"):
            state.unlink()  # as after a crash of the machine: the log alone is trusted
        member.start()

        async def asked(path: str) -> httpx.Response:
            return await running.http.get(f"{member.ops_url}{path}", timeout=waits[path])

        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    await asked("/healthz/startup")
                    break
                await asyncio.sleep(0.005)
        began, replayed, answers, slowest = time.monotonic(), 0.0, 0, 0.0
        async with asyncio.timeout(90), slow(member):
            while True:
                at = time.monotonic()
                startup, live = await asked("/healthz/startup"), await asked("/healthz/live")
                slowest = max(slowest, time.monotonic() - at)
                assert (startup.status_code, live.status_code) == (200, 200)
                try:
                    ready = await asked("/healthz/ready")
                except httpx.ReadTimeout:
                    continue  # which is "not ready", as it should be
                if ready.status_code == 200:
                    break
                assert ready.status_code == 503
                if ready.text.startswith("Replaying"):
                    answers, replayed = answers + 1, time.monotonic() - began
        print(f"replayed for {replayed:.1f} s; {answers} rounds of probes, the slowest {slowest:.2f} s")
        assert replayed > LONG_SECONDS, "the log was too short, or the machine too fast, to prove anything"
        status = await running.status("a")
        assert status["revision"] >= ENTRIES
        assert '"state": "rebuilt"' in member.log.read_text()
        assert running.complaints() == []
