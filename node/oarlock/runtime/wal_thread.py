"""The thread that writes the log: frames queued while one write is under way go out together (group commit).

Three rules: reports come back on the loop in the order of the submissions; a failed write or fsync is fatal and never
retried (rule 5); no space is not fatal: the frames stay queued here, nothing is acknowledged, and the write is tried
again until space returns.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oarlock.raft.effects import PersistToken
from oarlock.storage.errors import OutOfSpace, WalFailed
from oarlock.storage.frame import Frame
from oarlock.storage.wal import Wal

SETTLE_SECONDS = 0.01  # idleness after which the last group commit gets its watermark (rule 3)
NO_SPACE_SECONDS = 0.5  # between tries while the disk is full
PREPARE_BYTES = 256 << 10  # of the next segment, after each write: under load there is no idle moment for it


@dataclass(slots=True)
class Submission:
    frame: Frame
    token: PersistToken
    after: list[Any]  # messages that may leave once this is durable


@dataclass(frozen=True, slots=True)
class Durable:
    submissions: list[Submission]
    seconds: float
    wal_bytes: int


class WalThread:
    """Owns `wal` from `start()` to `close()`; `call` runs a function on the thread, between writes."""

    def __init__(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[Durable], None],
        on_failure: Callable[[BaseException], None],
        on_space: Callable[[bool], None],
    ) -> None:
        self._wal = wal
        self._loop = loop
        self._on_durable, self._on_failure, self._on_space = on_durable, on_failure, on_space
        self._queue: queue.SimpleQueue[Submission | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._closing = threading.Event()
        self._full = False

    def start(self) -> None:
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        self._queue.put(submission)

    def call(self, function: Callable[[Wal], Any]) -> asyncio.Future[Any]:
        """Runs `function(wal)` on the thread; the future gets its result, or its exception."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def run() -> None:
            try:
                result = function(self._wal)
            except Exception as e:
                self._report(_fail, future, e)
                if isinstance(e, WalFailed):
                    raise
            else:
                self._report(_resolve, future, result)

        self._queue.put(run)
        return future

    async def close(self) -> None:
        """Writes what is queued, settles, ends the thread and closes the log. What waits for space is given up: nobody
        was told that it is durable."""
        self._closing.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        dirty = False
        try:
            while True:
                try:
                    item = self._queue.get(timeout=SETTLE_SECONDS) if dirty else self._queue.get()
                except queue.Empty:
                    self._idle()
                    dirty = False
                    continue
                batch: list[Submission] = []
                calls: list[Callable[[], None]] = []
                ending = False
                while True:
                    if item is None:
                        ending = True
                    elif isinstance(item, Submission):
                        batch.append(item)
                    else:
                        calls.append(item)
                    try:
                        item = self._queue.get_nowait()
                    except queue.Empty:
                        break
                if batch:
                    self._write(batch)
                    self._prepare(PREPARE_BYTES)
                    dirty = True
                for call in calls:
                    call()
                    dirty = True  # it may have written, and `_idle` has a look at the disk
                if ending:
                    self._idle()
                    self._wal.close()
                    return
        except _GivenUp:
            self._wal.close()
        except BaseException as e:
            self._report(self._on_failure, e)

    def _write(self, batch: list[Submission]) -> None:
        frames = [s.frame for s in batch]
        while True:
            began = time.perf_counter()
            try:
                written = self._wal.append(frames)
            except OutOfSpace:
                self._space(full=True)
                if self._closing.wait(NO_SPACE_SECONDS):
                    raise _GivenUp from None
                continue
            self._report(self._on_durable, Durable(batch, time.perf_counter() - began, written))
            return

    def _idle(self) -> None:
        """Also soon after each `call`, of which there is one a second: that is how a full disk is found to have space
        again when nobody writes, since nobody may (pitfall D13)."""
        try:
            self._wal.settle()
        except OutOfSpace:  # a file system that copies on write; the next write vouches instead
            self._space(full=True)
        self._prepare(None)

    def _prepare(self, most_bytes: int | None) -> None:
        """After each write. That there is space again is said only here: while what is written still fits and the next
        segment does not, a write's success would say so many times a second."""
        try:
            self._wal.prepare(most_bytes)
        except OutOfSpace:
            self._space(full=True)
        else:
            self._space(full=False)

    def _space(self, *, full: bool) -> None:
        if full != self._full:
            self._full = full
            self._report(self._on_space, full)

    def _report(self, function: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


class _GivenUp(Exception):
    """The thread ends while a write waits for space."""


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
