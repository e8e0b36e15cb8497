"""Brings committed entries to the machine, in slices, between turns of the loop (rules 24 and 27).

Four rules: entries are applied in the order of the log, each once, and an installed snapshot stands in that order too;
while a slice's transaction is open or a swap is under way, nothing else writes to the environment; however often `run`
is called, at most one slice is taken in a turn of the loop once there is a backlog; a job ends at each checkpoint, so
that members can compare their states (rule 26).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from oarlock.machine.apply import ApplyJob
from oarlock.machine.command import Result
from oarlock.machine.environment import Environment
from oarlock.machine.errors import OutOfSpace
from oarlock.raft.types import Entry, SnapshotMeta
from oarlock.runtime.divergence import job_length

SLICE_SECONDS = 0.01
PATIENCE_SECONDS = 0.002  # of a member whose clients do not wait for what it applies
JOB_BYTES = 4 << 20  # entries joined into one transaction, at most; a follower that lags gains from large ones
MAINTAIN_SECONDS = 0.003
NO_SPACE_SECONDS = 0.5  # between tries while the disk is full (rule 5)


class Applier:
    """`on_applied(entries, results)` after each commit; `swap(meta)` opens a snapshot as the next environment, and
    `clear` removes the files of the ones before it."""

    def __init__(
        self,
        environment: Environment,
        loop: asyncio.AbstractEventLoop,
        on_applied: Callable[[Sequence[Entry], Sequence[Sequence[Result]], float], None],
        swap: Callable[[SnapshotMeta], Awaitable[Environment]],
        clear: Callable[[], Awaitable[None]],
        on_swapped: Callable[[SnapshotMeta], None],
        on_failure: Callable[[BaseException], None],
        work_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.environment = environment
        self._loop = loop
        self._work_clock = work_clock
        self._on_applied, self._on_failure = on_applied, on_failure
        self._swap, self._clear, self._on_swapped = swap, clear, on_swapped
        self._queue: deque[list[Entry] | SnapshotMeta] = deque()
        self._job: ApplyJob | None = None
        self._entries: list[Entry] = []
        self._began = 0.0
        self._swapping: asyncio.Task[None] | None = None
        self._durable_markers = 0  # of the swaps in the queue, from its front
        self._next: asyncio.Handle | None = None  # the run that the loop will make
        self._patient = False  # it is one that `run` may bring forward
        self._closed = False
        self.out_of_space = False  # a committed entry waits for disk: this member is not ready meanwhile

    def add(self, entries: list[Entry]) -> None:
        self._queue.append(entries)

    def add_swap(self, meta: SnapshotMeta) -> None:
        """The log restarts at `meta`: what is added from now on follows it. It begins once its marker is durable."""
        self._queue.append(meta)

    def marker_durable(self) -> None:
        """The marker of the first swap that waits is on the disk (rule 18)."""
        self._durable_markers += 1

    @property
    def idle(self) -> bool:
        return not self._queue and self._job is None and self._swapping is None

    def run(self) -> None:
        """Works for one slice, and asks the loop for another if there is more. Does nothing while one is due."""
        if self._next is not None and self._patient:
            self._next.cancel()
            self._next = None
        if self._next is None:
            self._run()

    def run_later(self) -> None:
        """The same, in a moment, with what is added until then: nobody here waits for it (rule 27)."""
        if self._next is None:
            self._patient = True
            self._next = self._loop.call_later(PATIENCE_SECONDS, self._run)

    def _run(self) -> None:
        self._next = None
        self._patient = False
        if self._closed or self._waits:
            return
        try:
            self._slice()
        except OutOfSpace:
            self.out_of_space = True
            self._job = None
            self._queue.appendleft(self._entries)
            self._next = self._loop.call_later(NO_SPACE_SECONDS, self._run)
            return
        except Exception as e:
            self.halt()
            self._on_failure(e)
            return
        if not self._closed and not self._waits:
            self._next = self._loop.call_soon(self._run)

    @property
    def _waits(self) -> bool:
        """Is there nothing that a slice could do now?"""
        if self._job is not None:
            return False
        if self._swapping is not None or not self._queue:
            return True
        return isinstance(self._queue[0], SnapshotMeta) and not self._durable_markers

    def maintain(self) -> bool:
        """One small step of housekeeping in the environment, if no apply is due. True while more is to be done."""
        if not self.idle or self._closed:
            return False
        try:
            return self.environment.maintain(MAINTAIN_SECONDS, self._work_clock)
        except OutOfSpace:
            return False

    def halt(self) -> None:
        """Nothing is applied any more."""
        self._closed = True
        if self._next is not None:
            self._next.cancel()
            self._next = None

    async def close(self) -> None:
        """A swap that is under way is finished first; a job is dropped."""
        self.halt()
        if self._swapping is not None:
            await asyncio.gather(self._swapping, return_exceptions=True)
        if self._job is not None:
            self._job.abort()
            self._job = None

    def _slice(self) -> None:
        if self._job is None:
            head = self._queue.popleft()
            if isinstance(head, SnapshotMeta):
                self._durable_markers -= 1
                self._swapping = self._loop.create_task(self._run_swap(head))
                return
            size = sum([len(e.data) for e in head])
            while self._queue and isinstance(self._queue[0], list) and size < JOB_BYTES:
                more = self._queue.popleft()
                assert isinstance(more, list)
                size += sum([len(e.data) for e in more])
                head = head + more
            most = job_length(head[0].index)
            if len(head) > most:
                self._queue.appendleft(head[most:])
                head = head[:most]
            self._entries = head
            self._began = self._work_clock()
            self._job = self.environment.begin(head)
        if self._job.run(SLICE_SECONDS, self._work_clock):
            results = self._job.commit()
            self.out_of_space = False
            entries, self._entries, self._job = self._entries, [], None
            if len(results) < len(entries):  # the next one is unknown here: the next job stops at it (rule 34)
                self._queue.appendleft(entries[len(results) :])
            self._on_applied(entries[: len(results)], results, self._work_clock() - self._began)

    async def _run_swap(self, meta: SnapshotMeta) -> None:
        """The new environment is in its place before the old one closes: readers never find a closed one."""
        try:
            environment = await self._swap_with_space(meta)
            before, self.environment = self.environment, environment
            before.close()
            self._on_swapped(meta)
            await self._clear()
        except Exception as e:
            if not self._closed:
                self.halt()
                self._on_failure(e)
            return
        finally:
            self._swapping = None
        self.run()

    async def _swap_with_space(self, meta: SnapshotMeta) -> Environment:
        """Tries until there is room (rule 5): without this state the member can do nothing else."""
        while True:
            try:
                environment = await self._swap(meta)
            except OutOfSpace:
                if self._closed:
                    raise
                self.out_of_space = True
                await asyncio.sleep(NO_SPACE_SECONDS)
            else:
                self.out_of_space = False
                return environment
