"""One timer for all requests that wait: what is overdue is cancelled, oldest first.

A timer a request costs more than the request's own parsing. All waits here last equally long, so the oldest entry is
always the next to expire, and a tick looks at expired ones only.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

T = TypeVar("T")

TICK_SECONDS = 0.1  # how late an expiry may be seen

_EXPIRED = object()


class Cancellable(Protocol):
    """A future, or what stands for one."""

    def cancel(self, msg: object = None) -> object: ...


class DeadlineExceeded(Exception):
    """The future was not done in time; it has been cancelled."""


class Deadlines:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waiting: dict[Cancellable, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for the running one is a system call before 3.12

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The future's result. Raises DeadlineExceeded after `seconds`, and whatever the future raises."""
        if future.done():
            return future.result()
        self.watch(future)
        try:
            return await future
        except asyncio.CancelledError as e:
            if e.args and e.args[0] is _EXPIRED:
                raise DeadlineExceeded from None
            raise
        finally:
            self.forget(future)

    def watch(self, waiter: Cancellable) -> None:
        """Cancels `waiter` when its time is over, unless it is forgotten before."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._waiting[waiter] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(TICK_SECONDS, self._tick, loop)

    def forget(self, waiter: Cancellable) -> None:
        self._waiting.pop(waiter, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        overdue = []
        for waiter, deadline in self._waiting.items():
            if deadline > now:
                break
            overdue.append(waiter)
        for waiter in overdue:
            del self._waiting[waiter]
            waiter.cancel(msg=_EXPIRED)
        self._timer = loop.call_later(TICK_SECONDS, self._tick, loop) if self._waiting else None
