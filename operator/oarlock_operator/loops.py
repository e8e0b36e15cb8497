"""The loops: one supervised task per RaftCluster uid, woken by events, alive for as long as its object.

Rules: a wake-up is never lost (the flag is cleared before anything is read); a pass is bounded in time; an error never
ends a loop; a loop that has not finished a pass for `STALE_SECONDS` makes the operator's liveness fail. Our own status
writes never wake us: of the cluster object only generation, annotations and deletionTimestamp count.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from .kube import KubeError

log = structlog.get_logger(__name__)

PASS_SECONDS = 60.0
STALE_SECONDS = 180.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 30.0


class Passes(Protocol):
    """What a loop runs (`reconcile.Reconciler`)."""

    async def one_pass(self, *, woken: bool) -> float | None: ...
    async def close(self) -> None: ...


class Loop:
    """The loop of one cluster object."""

    def __init__(self, uid: str, passes: Passes, monotonic: Callable[[], float], rng: random.Random):
        self.uid = uid
        self._passes = passes
        self._monotonic = monotonic
        self._rng = rng
        self._wake = asyncio.Event()
        self._wake.set()
        self.beat = monotonic()
        self.task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Until the object is gone, or the task is cancelled."""
        retry = FIRST_RETRY_SECONDS
        try:
            while True:
                woken = self._wake.is_set()
                self._wake.clear()  # before anything is read: what happens from now on wakes us again
                try:
                    async with asyncio.timeout(PASS_SECONDS):
                        delay = await self._passes.one_pass(woken=woken)
                    if delay is None:
                        return
                    retry = FIRST_RETRY_SECONDS
                except (KubeError, TimeoutError) as error:
                    log.warning("pass_failed", uid=self.uid, why=str(error) or type(error).__name__)
                    delay, retry = retry * self._rng.uniform(0.5, 1.0), min(2 * retry, LAST_RETRY_SECONDS)
                    self._wake.set()
                except Exception:
                    log.exception("pass_broke", uid=self.uid)
                    delay, retry = retry * self._rng.uniform(0.5, 1.0), min(2 * retry, LAST_RETRY_SECONDS)
                    self._wake.set()
                self.beat = self._monotonic()
                await self._pause(delay)
        finally:
            await self._passes.close()

    async def _pause(self, seconds: float) -> None:
        """Until woken, or the time is over. After an error the wake-up is set already, and the time is kept."""
        if self._wake.is_set():
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return


class Loops:
    """All loops, by namespace and name. Called from the watch handlers, on the event loop."""

    def __init__(
        self,
        make: Callable[[str, str, str], Passes],
        *,
        monotonic: Callable[[], float],
        rng: random.Random,
        on_count: Callable[[int], None] = lambda count: None,
    ):
        self._make = make
        self._monotonic = monotonic
        self._rng = rng
        self._on_count = on_count
        self._loops: dict[tuple[str, str], Loop] = {}
        self._marks: dict[tuple[str, str], Any] = {}

    def cluster_seen(self, namespace: str, name: str, uid: str, mark: Any) -> None:
        """The object exists. `mark` is what of it may wake us; the same mark again is silence."""
        key = (namespace, name)
        loop = self._loops.get(key)
        if loop is None or loop.uid != uid or loop.task is None or loop.task.done():
            if loop is not None and loop.task is not None:
                loop.task.cancel()  # an earlier object of this name
            self._start(key, uid)
        elif self._marks.get(key) != mark:
            loop.wake()
        self._marks[key] = mark

    def cluster_gone(self, namespace: str, name: str, uid: str) -> None:
        key = (namespace, name)
        loop = self._loops.get(key)
        if loop is not None and loop.uid == uid:
            del self._loops[key]
            self._marks.pop(key, None)
            if loop.task is not None:
                loop.task.cancel()
            self._on_count(len(self._loops))

    def child_seen(self, namespace: str, cluster: str) -> None:
        loop = self._loops.get((namespace, cluster))
        if loop is not None:
            loop.wake()

    def stale(self) -> list[str]:
        """Clusters whose loop has not finished a pass for too long, or has died: "namespace/name"."""
        now = self._monotonic()
        return ["/".join(key) for key, loop in list(self._loops.items()) if now - loop.beat > STALE_SECONDS]

    async def stop(self) -> None:
        """Cancel all and wait; each gives its Lease back."""
        tasks = [loop.task for loop in self._loops.values() if loop.task is not None]
        self._loops.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: tuple[str, str], uid: str) -> None:
        loop = Loop(uid, self._make(*key, uid), self._monotonic, self._rng)
        loop.task = asyncio.create_task(loop.run(), name=f"cluster {'/'.join(key)}")
        loop.task.add_done_callback(lambda task: self._ended(key, loop, task))
        self._loops[key] = loop
        self._on_count(len(self._loops))

    def _ended(self, key: tuple[str, str], loop: Loop, task: asyncio.Task[None]) -> None:
        """A loop that found its object gone is forgotten; one that died stays, and goes stale."""
        if not task.cancelled() and task.exception() is None and self._loops.get(key) is loop:
            del self._loops[key]
            self._on_count(len(self._loops))
