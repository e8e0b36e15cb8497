"""One seeded scheduler for everything that happens: virtual time, and an event loop for each process.

Rules of this module: nothing sleeps and nothing runs in parallel; what is due at one instant runs in the order in which
it was asked for; all randomness is the world's. So a seed is a run, whatever machine it is repeated on.

    world = World(seed)
    loop = Loop(world, "m0")        # an asyncio loop; its clock may drift, jump and stand still
    loop.call_soon(function)
    world.run(events=20_000)
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

THREAD_SECONDS = (0.0002, 0.004)  # what a piece of work in a thread takes
MOST_IN_AN_INSTANT = 20_000
MANY_TASKS = 1000


class Violated(AssertionError):
    """What an oracle found."""


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.reached: Counter[str] = Counter()  # coverage points
        self.lines: list[str] = []
        self.hidden = "\0"  # the name of a place that differs between two runs
        self.fingerprint = 0  # of the whole run: equal runs have equal ones
        self.found: Violated | None = None  # by somebody who could not raise it
        self.astray: dict[str, object] = {}  # node id -> its environment, which is another than what it applied
        self.wrong: set[tuple[int, str]] = set()  # (index, hash) of such states
        self.strayed: set[str] = set()  # node ids that ever had one
        self.after_event: Callable[[Loop], None] = lambda _: None
        self.graveyard: list[list[asyncio.Task[Any]]] = []  # of killed processes: what they held must not be closed yet
        self._heap: list[tuple[float, int, Loop, asyncio.Handle]] = []
        self._sequence = 0

    def note(self, who: str, what: str) -> None:
        """A line of the trace."""
        line = f"{self.now:9.4f} {who:4} {what.replace(self.hidden, '')}"
        self.fingerprint = zlib.crc32(line.encode(), self.fingerprint)
        self.lines.append(line)

    def mark(self, what: str) -> None:
        """What a reader of the trace has no use for, and what two runs of a seed must have in common all the same."""
        self.fingerprint = zlib.crc32(f"{self.now:.6f} {what}".encode(), self.fingerprint)

    def reach(self, point: str) -> None:
        self.reached[point] += 1

    def push(self, at: float, loop: Loop, handle: asyncio.Handle) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, loop, handle))

    def run(self, events: int, seconds: float = float("inf"), until: Callable[[], bool] = lambda: False) -> bool:
        """So many events or seconds more, or until it is true; whether it became true."""
        most, end = self.events + events, self.now + seconds
        instant = 0
        while self.events < most and self._heap and self._heap[0][0] <= end:
            at, _, loop, handle = heapq.heappop(self._heap)
            if loop.dead or handle.cancelled():
                continue
            if loop.paused:
                loop.kept.append(handle)
                continue
            instant = instant + 1 if at <= self.now else 0
            if instant > MOST_IN_AN_INSTANT:
                raise Violated(f"time stands still: {handle}")
            self.now = max(self.now, at)
            self.events += 1
            loop.execute(handle)
            self.after_event(loop)
            if self.found is not None:
                raise self.found
            if until():
                return True
        if self.events < most and end < float("inf"):
            self.now = max(self.now, end)
        return until()

    def reschedule(self, loop: Loop) -> None:
        """The clock of `loop` was moved: its timers are due at other times."""
        heap = []
        for at, sequence, one, handle in self._heap:
            if one is loop and isinstance(handle, asyncio.TimerHandle):
                at = max(self.now, loop.world_time(handle.when()))
            heap.append((at, sequence, one, handle))
        heapq.heapify(heap)
        self._heap = heap


class Loop(asyncio.AbstractEventLoop):
    """What asyncio asks of a loop, in virtual time. `rate`: seconds of its own clock in a second of the world's."""

    def __init__(self, world: World, name: str, rate: float = 1.0) -> None:
        self.world, self.name, self.rate = world, name, rate
        self.dead = False
        self.paused = False
        self.kept: list[asyncio.Handle] = []  # what came due during a pause
        self.thread_seconds: Callable[[], float] = lambda: world.rng.uniform(*THREAD_SECONDS)  # of a piece of work
        self.holds: Callable[[Callable[[], None]], bool] = lambda _: False  # does a thread hang? what goes on then
        self.on_error: Callable[[dict[str, Any]], None] = self._unexpected
        self.handover: Callable[[str], None] = lambda _: None  # told of moments between the loop and its threads
        self.finished: dict[int, Any] = {}  # results of threads that nobody has taken yet
        self._base = 1000.0 - world.now * rate
        self._offset = 0.0
        self._tasks: list[asyncio.Task[Any]] = []

    # -- clocks

    def time(self) -> float:
        return self._time_at(self.world.now)

    def world_time(self, when: float) -> float:
        """The first moment at which its clock says `when`, or the next figure that a clock can say."""
        at = (when - self._base - self._offset) / self.rate
        while self._time_at(at) < when:  # rounded down; a timer must not find itself too early
            at += math.ulp(when)
        return at

    def _time_at(self, at: float) -> float:
        return self._base + self._offset + at * self.rate

    def jump(self, seconds: float) -> None:
        """Its clock leaps forward."""
        self._offset += seconds
        self.world.reschedule(self)

    def pause(self) -> None:
        """As by SIGSTOP: time goes on, nothing here runs."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        kept, self.kept = self.kept, []
        for handle in kept:
            self.world.push(self.world.now, self, handle)

    def kill(self) -> None:
        self.dead = True
        self.world.graveyard.append(self._tasks)
        for result in self.finished.values():
            if hasattr(result, "close"):
                result.close()  # what a thread opened for a task that will never take it
        self.finished.clear()

    # -- what asyncio calls

    def execute(self, handle: asyncio.Handle) -> None:
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.world.push(self.world.now, self, handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.push(max(self.world.now, self.world_time(when)), self, handle)
        return handle

    def after(self, world_seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """In so many seconds of the world's, whatever this loop's clock says: for networks and disks."""
        self.world.push(self.world.now + world_seconds, self, asyncio.Handle(callback, args, self, None))

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: Any = None) -> Any:  # type: ignore[override]
        task = asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)
        self._tasks.append(task)
        if len(self._tasks) > MANY_TASKS:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        seconds = self.thread_seconds()

        def work() -> None:
            if future.cancelled() or self.holds(lambda: self.after(0.0, work)):
                return
            self.handover("a thread begins")
            try:
                result = func(*args)
            except Exception as error:
                self.handover("a thread has failed")
                if not self.dead:
                    future.set_exception(error)
            except BaseException:  # the machine has stopped
                self.handover("a thread stands still")
            else:
                self.finished[id(future)] = result
                self.handover("a thread is done")
                if not self.dead:
                    future.add_done_callback(lambda _: self.call_soon(self.finished.pop, id(future), None))
                    future.set_result(result)

        self.after(seconds, work)
        return future

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return self.dead

    def is_running(self) -> bool:
        return not self.dead

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.on_error(context)

    def _unexpected(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.found = (
            error
            if isinstance(error, Violated)
            else Violated(f"[uncaught] {self.name}: {context.get('message')}: {error!r}")
        )
        self.world.found.__cause__ = error
