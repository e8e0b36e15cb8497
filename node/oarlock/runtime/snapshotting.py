"""Taking snapshots, fetching a leader's, and letting go of the log behind them (rules 6, 18-20).

Three rules: a snapshot is published only when everything it covers is durable in this member's log; what is served to
a peer is pinned, with the log after it, until that stands still for a minute; the loop never waits for a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, TypeVarTuple, Unpack

import structlog

from oarlock.raft.core import Core
from oarlock.raft.types import Configuration, NodeId, PlacedConfiguration, SnapshotMeta
from oarlock.runtime.errors import Refused, overloaded, stopping
from oarlock.storage.snapshots import SnapshotStore, digest_file

if TYPE_CHECKING:
    from oarlock.runtime.engine import Engine

PIN_SECONDS = 60.0  # without progress (rule 19)
PIN_CAP_BYTES = 1 << 30  # of log held back for slow peers; beyond it they start again from a newer snapshot
MOST_READERS = 4  # clients that copy a snapshot at a time: each may keep a file on the disk that is deleted already
DURABLE_SECONDS = 30.0  # how long a finished copy waits for the log to catch up with it
RETRY_SECONDS = 10.0  # after a failure
TRAILING_STEP_ENTRIES = 64
ENTRY_OVERHEAD_BYTES = 64  # what an entry costs in memory beside its data

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class _Pin:
    meta: SnapshotMeta
    at: float


def due(wal_bytes: int, entries: int, last: SnapshotMeta | None, min_bytes: int, max_entries: int) -> bool:
    """Rule 20: more log than max(`min_bytes`, a quarter of the last snapshot), or `max_entries` since it."""
    quarter = last.size_bytes // 4 if last is not None else 0
    return entries > 0 and (wal_bytes > max(min_bytes, quarter) or entries >= max_entries)


class Snapshotter:
    def __init__(self, engine: Engine, store: SnapshotStore, newest: SnapshotMeta | None) -> None:
        self._engine = engine
        self._store = store
        self.newest = newest
        self._metas = store.metas()  # what is published; read by the loop, replaced when one is
        self.failure: str | None = None  # why the last try failed
        self.readers = 0
        self._pins: dict[tuple[NodeId, str], _Pin] = {}
        self._taking: asyncio.Task[SnapshotMeta] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._not_before = self._check_not_before = 0.0
        self.damaged = len(store.damaged())  # that were set aside, and are kept for a look
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._files_lock = asyncio.Lock()  # one of: publish a taken one, publish a fetched one, swap

    # -- taking -----------------------------------------------------------------------------------------------------

    def take_if_due(self, wal_bytes: int) -> None:
        engine = self._engine
        if self._taking is not None or self._engine.host.monotonic() < self._not_before:
            return
        since = self.newest.index if self.newest is not None else 0
        entries = engine.environment.applied.index - since
        settings = engine.settings
        if due(wal_bytes, entries, self.newest, settings.snapshot_wal_bytes, settings.snapshot_entries):
            self._start().add_done_callback(_retrieve)

    async def take(self) -> SnapshotMeta:
        """One now; a caller that comes while one is under way gets that one. Raises Refused if it fails."""
        newest = self.newest
        if self._taking is None and newest is not None and newest.index == self._engine.environment.applied.index:
            return newest
        task = self._start()
        try:
            return await asyncio.shield(task)
        except Refused:
            raise
        except asyncio.CancelledError:
            if task.cancelled():
                raise stopping() from None
            raise
        except Exception as e:
            raise Refused("snapshot_failed", f"the snapshot failed: {e}", status=500) from e

    def _start(self) -> asyncio.Task[SnapshotMeta]:
        if self._taking is None:
            self._taking = asyncio.get_running_loop().create_task(self._take())
        return self._taking

    async def _take(self) -> SnapshotMeta:
        engine = self._engine
        began = engine.host.work_clock()
        try:
            path = await self._in_thread(self._fresh_copy_path)
            environment = engine.environment
            content = await self._in_thread(environment.copy_to, path)
            if content.applied.index == 0:
                raise Refused("nothing_applied", "there is nothing to snapshot yet", status=409)
            digest, size = await self._in_thread(digest_file, path, engine.host.files)
            await self._until_durable(content.applied.index)
            meta = SnapshotMeta(
                content.applied.index,
                content.applied.term,
                content.applied.time_ms,
                content.placed,
                content.cluster_version,
                size,
                digest,
            )
            async with self._files_lock:
                if self.newest is not None and meta.index <= self.newest.index:
                    return self.newest  # one was installed meanwhile
                meta = self.newest = await self._in_thread(self._publish, path, meta)
        except Exception as e:
            self.failure = str(e)
            self._not_before = self._engine.host.monotonic() + RETRY_SECONDS
            engine.metrics.snapshot_failures += 1
            log.warning("snapshot failed", why=str(e))
            raise
        finally:
            self._taking = None
        self.failure = None
        engine.metrics.snapshots_taken += 1
        engine.metrics.snapshot_bytes += meta.size_bytes
        engine.metrics.snapshot_seconds.observe(engine.host.work_clock() - began)
        log.info("snapshot taken", index=meta.index, term=meta.term, bytes=meta.size_bytes)
        engine.snapshot_published(meta)
        return meta

    async def _until_durable(self, index: int) -> None:
        """A leader applies on its followers' quorum, perhaps before its own write is durable (rules 6 and 21)."""
        end = self._engine.host.monotonic() + DURABLE_SECONDS
        while self._engine.core.durable_index < index:
            if self._engine.host.monotonic() > end:
                raise Refused("disk_slow", "the log did not become durable in time for the snapshot", status=503)
            await asyncio.sleep(0.01)

    def doubt(self, meta: SnapshotMeta) -> None:
        """A peer refused it. If its file has rotted since it was published, nobody can be helped with it: it is set
        aside, and another is taken. The file is read whole, so this is done now and then only."""
        if self._checking is None and self._engine.host.monotonic() >= self._check_not_before:
            self._checking = asyncio.get_running_loop().create_task(self._check(meta))

    async def _check(self, meta: SnapshotMeta) -> None:
        try:
            if not await self._holds(meta) and (self.newest is None or self.newest.index < meta.index):
                self._start().add_done_callback(_retrieve)
        except Exception as e:
            log.error("a snapshot that a peer refused could not be checked", index=meta.index, why=str(e))
        finally:
            self._checking = None
            self._check_not_before = self._engine.host.monotonic() + RETRY_SECONDS

    async def _holds(self, meta: SnapshotMeta) -> bool:
        """Is it published here, and still sound? Reads all of it; what has rotted is set aside."""
        async with self._files_lock:
            if not any(_same(m, meta) for m in self._metas):
                return False
            if await self._in_thread(self._store.verify, meta):
                return True
            log.error("a snapshot is damaged: it is set aside", index=meta.index, term=meta.term)
            await self._in_thread(self._set_aside, meta)
            if self.newest is not None and _same(self.newest, meta):
                self.newest = self._metas[-1] if self._metas else None
            return False

    # -- fetching ---------------------------------------------------------------------------------------------------

    def fetch(self, source: NodeId, meta: SnapshotMeta, transfer: Callable[[Path], Awaitable[None]]) -> None:
        """Begins to fetch what a leader offers; one at a time, and the newest offer wins."""
        if self._fetching is not None:
            self._fetching.cancel()
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(source, meta, transfer))

    async def _fetch(self, source: NodeId, meta: SnapshotMeta, transfer: Callable[[Path], Awaitable[None]]) -> None:
        """`transfer` resumes what an earlier try left at the path, and verifies the digest."""
        engine, store = self._engine, self._store
        try:
            log.info("snapshot fetch begins", source=source, index=meta.index, bytes=meta.size_bytes)
            if not await self._holds(meta):
                path = await self._in_thread(store.staging, meta)
                await transfer(path)
                async with self._files_lock:
                    await self._in_thread(self._publish, path, meta)
        except Exception as e:
            engine.metrics.snapshot_failures += 1
            self.failure = f"fetching from {source}: {e}"
            engine.snapshot_refused(meta, self.failure)
            return
        finally:
            if asyncio.current_task() is self._fetching:
                self._fetching = None
        engine.snapshot_fetched(meta)

    async def with_file(self, meta: SnapshotMeta, work: Callable[[Path], None]) -> None:
        """Runs `work(file of meta)` in the thread, while no snapshot is published; from here on it is the newest."""
        async with self._files_lock:
            await self._in_thread(work, self._store.path(meta))
            if self.newest is None or meta.index > self.newest.index:
                self.newest = meta

    # -- serving and letting go -------------------------------------------------------------------------------------

    def file_for(self, digest: str) -> Path | None:
        """The finished file with this digest, for a peer."""
        for meta in self._metas:
            if meta.digest == digest:
                return self._store.path(meta)
        return None

    def served(self, peer: NodeId, digest: str) -> None:
        """A range went to `peer`: the transfer makes progress, and holds its snapshot and the log after it."""
        for meta in self._metas:
            if meta.digest == digest:
                self._pin(peer, meta)

    @asynccontextmanager
    async def opened_newest(self, *, fresh: bool) -> AsyncIterator[tuple[SnapshotMeta, BinaryIO]]:
        """The newest finished snapshot, open while the body runs; `fresh`: after one has been taken.

        Nothing is pinned: whoever has a file open reads it to its end, though it is deleted meanwhile, and no log.
        Raises Refused if there is none, or if MOST_READERS read already (rule 33)."""
        if self.readers >= MOST_READERS:
            raise overloaded(f"{MOST_READERS} clients are copying snapshots from this member: try again later")
        self.readers += 1
        try:
            if fresh or self.newest is None:
                await self.take()
            async with self._files_lock:  # or it could be deleted before it is open
                meta = self.newest
                if meta is None:
                    raise Refused("no_snapshot", "there is no snapshot yet", status=503)
                file = await self._in_thread(self._store.path(meta).open, "rb")
            try:
                yield meta, file
            finally:
                await asyncio.to_thread(file.close)
        finally:
            self.readers -= 1

    def expire_pins(self, wal_bytes: int) -> None:
        """Transfers that stand still, or hold too much log back, must begin again from a newer snapshot."""
        now = self._engine.host.monotonic()
        for key, pin in list(self._pins.items()):
            if now - pin.at > PIN_SECONDS or wal_bytes > PIN_CAP_BYTES:
                self._unpin(key)

    def oldest_pin(self, otherwise: int) -> int:
        """The smallest index that a transfer will continue from in the log, `otherwise` at most."""
        return min([otherwise, *(pin.meta.index for pin in self._pins.values())])

    def keep_from(self) -> int:
        """The log up to this index may go from the disk: it is before every snapshot that is kept (rule 19)."""
        return self.oldest_pin(min((m.index for m in self._metas), default=0))

    def let_go(self) -> None:
        """Cuts the log that nothing needs, in memory and on the disk (rules 6 and 19)."""
        engine, newest = self._engine, self.newest
        if newest is None or engine.halted:
            return
        core = engine.core
        trailing = trailing_index(core, min(newest.index, core.applied_index), engine.settings.trailing_bytes)
        core.compact(min(trailing, self.oldest_pin(newest.index)))
        keep = self.keep_from()
        if keep > 0:
            engine.in_log_thread(lambda wal: wal.release(keep)).add_done_callback(_logged)

    def _pin(self, peer: NodeId, meta: SnapshotMeta) -> None:
        key = (peer, meta.digest)
        if key not in self._pins:
            self._store.pin(meta)
        self._pins[key] = _Pin(meta, self._engine.host.monotonic())

    def _unpin(self, key: tuple[NodeId, str]) -> None:
        pin = self._pins.pop(key, None)
        if pin is not None:
            self._store.unpin(pin.meta)

    def _fresh_copy_path(self) -> Path:
        """In the thread: a copy begins anew, whatever an interrupted one left."""
        nowhere = PlacedConfiguration(0, 0, Configuration())
        path = self._store.staging(SnapshotMeta(0, 0, 0, nowhere, 0, 0, ""))
        path.unlink(missing_ok=True)
        return path

    def _publish(self, path: Path, meta: SnapshotMeta) -> SnapshotMeta:
        """In the thread. What is published at that place from now on: a sound one that was there stays."""
        published = self._store.publish(path, meta)
        self._look()
        return published

    def _set_aside(self, meta: SnapshotMeta) -> None:
        """In the thread."""
        self._store.set_aside(meta)
        self._look()

    def _look(self) -> None:
        self._metas = self._store.metas()
        self.damaged = len(self._store.damaged())

    async def close(self) -> None:
        for task in (self._checking, self._taking, self._fetching):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _in_thread(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def trailing_index(core: Core, index: int, trailing_bytes: int) -> int:
    """How far the log in memory may be cut: `trailing_bytes` behind `index` stay for peers that are slightly slow."""
    left, at = trailing_bytes, index
    while at >= core.first_index and left > 0:
        for entry in reversed(core.entries(max(core.first_index, at - TRAILING_STEP_ENTRIES), at)):
            left -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            at = entry.index - 1
            if left <= 0:
                break
    return max(at, 0)


def _same(one: SnapshotMeta, other: SnapshotMeta) -> bool:
    return (one.index, one.term, one.digest) == (other.index, other.term, other.digest)


def _retrieve(task: asyncio.Task[SnapshotMeta]) -> None:
    """A failure has been logged and counted where it happened."""
    if not task.cancelled():
        task.exception()


def _logged(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is not None:
        log.error("the log could not be shortened", why=str(future.exception()))
