"""The thread that writes the log: frames queued while one write is under way go out together (group commit).

Three rules: reports come back on the loop in the order of the submissions; a failed write or fsync is fatal and never
retried (rule 5); no space is not fatal: the frames stay queued here, nothing is acknowledged, and the write is tried
again until space returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from oarlock.raft.effects import PersistToken
from oarlock.raft.log import size_of
from oarlock.storage.errors import OutOfSpace, WalFailed
from oarlock.storage.frame import Frame
from oarlock.storage.wal import Wal

SETTLE_SECONDS = 0.01  # idleness after which the last group commit gets its watermark (rule 3)
NO_SPACE_SECONDS = 0.5  # between tries while the disk is full
WRITE_BYTES = 2 << 20  # of one write, or a single larger frame: a disk that is only slow is heard of in between (D12)
PREPARE_BYTES = 256 << 10  # of the next segment, after each write, or twice what was written: under load there is no
# idle moment for it, and a write that had to wait for a whole new segment would look like a hang


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


Item: TypeAlias = "Submission | Callable[[], None] | None"


class WalThread:
    """Owns `wal` from `start()` to `close()`; `call` runs a function on the thread, between writes.

    `step` is all of its work, and never waits; `put`, `start`, `close` and `_run` are all that knows of a thread.
    """

    def __init__(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[Durable], None],
        on_failure: Callable[[BaseException], None],
        on_space: Callable[[bool], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._wal = wal
        self._loop = loop
        self._on_durable, self._on_failure, self._on_space = on_durable, on_failure, on_space
        self._clock = clock
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._closing = threading.Event()
        self._full = False
        self._batch: list[Submission] = []
        self._calls: list[Callable[[], None]] = []
        self._ending = False
        self.ended = False

    def start(self) -> None:
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        self.put(submission)

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

        self.put(run)
        return future

    async def close(self) -> None:
        """Writes what is queued, settles, ends the thread and closes the log. What waits for space is given up: nobody
        was told that it is durable."""
        self._closing.set()
        self.put(None)
        await asyncio.to_thread(self._thread.join)

    def put(self, item: Item) -> None:
        """Queue it for the next step. None: the last one."""
        self._queue.put(item)

    def step(self, items: Sequence[Item]) -> float | None:
        """Do what was queued: one write, then the calls. `items` is empty when the time that the last step named has
        passed. The seconds after which the next step is due if nothing is queued; None: no step before that."""
        try:
            return self._step(items)
        except BaseException as e:
            self.ended = True
            self._report(self._on_failure, e)
            return None

    def give_up(self) -> None:
        """The writer ends while a write waits for space."""
        self.ended = True
        self._wal.close()

    @property
    def waits_for_space(self) -> bool:
        """Is there a write that only a step without items, after its time, tries again?"""
        return bool(self._batch)

    def _run(self) -> None:
        due: float | None = None
        while not self.ended:
            if self.waits_for_space:
                if self._closing.wait(due):
                    self.give_up()
                    return
                due = self.step(())
                continue
            try:
                items = [self._queue.get(timeout=due)]
            except queue.Empty:
                items = []
            with contextlib.suppress(queue.Empty):
                while items:
                    items.append(self._queue.get_nowait())
            due = self.step(items)

    def _step(self, items: Sequence[Item]) -> float | None:
        for item in items:
            if item is None:
                self._ending = True
            elif isinstance(item, Submission):
                self._batch.append(item)
            else:
                self._calls.append(item)
        if not self._batch and not items:
            self._idle()
            return None
        while self._batch:
            if not self._write():
                return NO_SPACE_SECONDS
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        if self._ending:
            self._idle()
            self._wal.close()
            self.ended = True
        return SETTLE_SECONDS  # after a call too: it may have written, and `_idle` has a look at the disk

    def _write(self) -> bool:
        """The first of the batch. False: there is no space, and they stay."""
        began = self._clock()
        count = _fitting(self._batch)
        first, rest = self._batch[:count], self._batch[count:]
        try:
            written = self._wal.append([s.frame for s in first])
        except OutOfSpace:
            self._space(full=True)
            return False
        self._batch = rest
        self._report(self._on_durable, Durable(first, self._clock() - began, written))
        self._prepare(max(PREPARE_BYTES, 2 * written))
        return True

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


def _fitting(batch: Sequence[Submission]) -> int:
    """How many of them go out in one write; the first always does."""
    sizes = itertools.accumulate(sum(map(size_of, submission.frame.entries)) for submission in batch)
    return max(1, sum(size <= WRITE_BYTES for size in sizes))


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
