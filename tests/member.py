"""One real member in the test's own process and loop, bootstrapped alone, with its three applications.

No server and no socket: requests go to the applications through httpx's ASGI transport.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from oarlock.api.admin import PeerApp
from oarlock.api.client import ClientApp
from oarlock.api.http_counts import HttpCounts
from oarlock.api.limits import Limits
from oarlock.api.ops import OpsApp
from oarlock.kv import KvMachine
from oarlock.runtime.node import Node
from oarlock.runtime.settings import NodeSettings

TOKEN = "a-token-for-tests"
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class RunningMember:
    node: Node
    counts: HttpCounts
    limits: Limits
    client: httpx.AsyncClient  # port 2379
    peer: httpx.AsyncClient  # port 2380, with the token
    stranger: httpx.AsyncClient  # port 2380, without
    ops: httpx.AsyncClient  # port 2381


def settings(directory: Path, name: str = "m1") -> NodeSettings:
    """Quick elections: a test waits for one."""
    return NodeSettings(
        name=name,
        data_dir=directory,
        peer_url="http://127.0.0.1:1",
        client_url="http://127.0.0.1:2",
        token=TOKEN,
        election_timeout_seconds=0.05,
        heartbeat_seconds=0.01,
        segment_bytes=1 << 20,
        ballast_bytes=0,
        low_space_bytes=0,
    )


@asynccontextmanager
async def running_member(
    directory: Path, *, bootstrap: bool = True, min_voters: int = 1, limits: Limits | None = None
) -> AsyncIterator[RunningMember]:
    failures: list[str] = []
    node = await Node.start(settings(directory), KvMachine(), failures.append)
    limits = limits or Limits()
    counts = HttpCounts()

    def client(app: object, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://member", headers=headers)

    peer_app = PeerApp(node, limits, counts, TOKEN)
    async with (
        client(ClientApp(node, limits, counts)) as for_clients,
        client(peer_app, {"authorization": f"Bearer {TOKEN}"}) as peer,
        client(peer_app) as stranger,
        client(OpsApp(node, counts)) as ops,
    ):
        try:
            await until(node, lambda: node.status().state != "Replaying")
            if bootstrap:
                await node.bootstrap("test", "test", min_voters)
                # The last entry that comes by itself raises the cluster's version: from then on nothing moves unasked.
                await until(node, lambda: node.leader == node.node_id and node.status().cluster_version > 0)
            yield RunningMember(node, counts, limits, for_clients, peer, stranger, ops)
        finally:
            await node.stop()
            gc.unfreeze()  # the member froze this process's objects; the next test wants them collected
    assert failures == []


async def until(node: Node, true: object) -> None:
    """Waits for `true()`, looking whenever the member announces a change. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # type: ignore[operator]
            changed = node.changed
            try:
                await asyncio.wait_for(changed.wait(), 0.02)
            except TimeoutError:
                continue
