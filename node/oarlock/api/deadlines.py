"""One timer for all requests that wait: what is overdue is cancelled, oldest first.

A timer a request costs more than the request's own parsing. All waits here last equally long, so the oldest entry is
always the next to expire, and a tick looks at expired ones only.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")

TICK_SECONDS = 0.1  # how late an expiry may be seen

_EXPIRED = object()


class DeadlineExceeded(Exception):
    """The future was not done in time; it has been cancelled."""


class Deadlines:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waiting: dict[asyncio.Future[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for the running one is a system call before 3.12

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The future's result. Raises DeadlineExceeded after `seconds`, and whatever the future raises."""
        if future.done():
            return future.result()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        key: asyncio.Future[object] = future  # type: ignore[assignment]  # Future is invariant; only cancel() is used
        self._waiting[key] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(TICK_SECONDS, self._tick, loop)
        try:
            return await future
        except asyncio.CancelledError as e:
            if e.args and e.args[0] is _EXPIRED:
                raise DeadlineExceeded from None
            raise
        finally:
            self._waiting.pop(key, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        overdue = []
        for future, deadline in self._waiting.items():
            if deadline > now:
                break
            overdue.append(future)
        for future in overdue:
            del self._waiting[future]
            future.cancel(msg=_EXPIRED)
        self._timer = loop.call_later(TICK_SECONDS, self._tick, loop) if self._waiting else None
