"""The load itself, against a store in memory that keeps its word, and against one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn
from tests.load import Load, NotSteady

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Store:
    """Compare-and-set in a dict. One in `forget` acknowledged writes is not kept, one answer in `drop` is lost."""

    def __init__(self, forget: int = 0, drop: int = 0) -> None:
        self.rows: dict[str, tuple[bytes, int, int]] = {}
        self.revision = self.puts = 0
        self.forget, self.drop = forget, drop
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, scope, receive, send) -> None:
        if scope["method"] == "PUT":
            body = (await receive())["body"]
            await self.held.wait()
            status, headers, data = self.put(scope["path"], dict(scope["headers"]).get(b"if-match", b'"0"'), body)
        else:
            status, headers, data = self.get(scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def get(self, key: str) -> Answer:
        if key not in self.rows:
            return 404, [], json.dumps({"code": "key_not_found"}).encode()
        value, version, revision = self.rows[key]
        return 200, [(b"etag", f'"{revision}"'.encode()), (b"oarlock-version", str(version).encode())], value

    def put(self, key: str, condition: bytes, value: bytes) -> Answer:
        _, version, revision = self.rows.get(key, (b"", 0, 0))
        if condition != f'"{revision}"'.encode():
            return 412, [], json.dumps({"code": "precondition", "outcome": "not_applied"}).encode()
        self.revision += 1
        self.puts += 1
        if not self.forget or self.puts % self.forget:
            self.rows[key] = value, version + 1, self.revision
        if self.drop and self.puts % self.drop == 0:
            return 504, [], json.dumps({"code": "timeout", "outcome": "unknown"}).encode()
        return 200, [], json.dumps({"version": version + 1, "revision": self.revision}).encode()


@contextlib.asynccontextmanager
async def served(store: Store) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(store, port=0, lifespan="off", log_level="warning", access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_a_store_that_keeps_its_word_is_acquitted_and_its_gap_measured() -> None:
    """Lost answers are read back: they leave no false accusation."""
    store = Store(drop=50)
    async with served(store) as url:
        load = Load([url])
        async with load.running(), load.disturb("hold every write for half a second"):
            store.held.clear()
            await asyncio.sleep(0.5)
            store.held.set()
        verdict = load.judge(await load.final_reads())
    verdict.check()
    assert verdict.counts["unknown"] > 0
    assert verdict.counts["acknowledged"] > 300
    assert 0.5 <= verdict.disturbances[0].gap_seconds < 1.0
    assert "hold every write" in verdict.table()


async def test_a_store_that_forgets_is_convicted() -> None:
    async with served(Store(forget=40)) as url:
        load = Load([url])
        async with load.running():
            await load.steady()
        verdict = load.judge(await load.final_reads())
    assert {"foreign", "lost"} & {v.kind for v in verdict.violations}
    with pytest.raises(AssertionError, match="violations"):
        verdict.check()


async def test_a_load_that_is_not_steady_does_not_count() -> None:
    store = Store()
    store.held.clear()
    async with served(store) as url:
        load = Load([url])
        with pytest.RaisesGroup(NotSteady):
            async with load.running(), load.disturb("nothing", steady_seconds=0.5):
                pass
        store.held.set()
