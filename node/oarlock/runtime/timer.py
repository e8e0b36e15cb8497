"""The timer that wakes a member at its deadline.

Rules of this module: a late wake-up drains the sockets before anybody's silence is judged (rule 11); a timer may be a
millisecond late, never early; a deadline that moves away costs nothing, it is moved at every turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LATE_SECONDS = 0.05  # a wake-up later than this drains the sockets first
ROUNDING_SECONDS = 0.001  # what the loop rounds to
BEFORE_ALL = float("-inf")


class Timer:
    """Calls `tick(now)` when `deadline()`, on the clock `monotonic`, has come; then `arm` sets the next."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        monotonic: Callable[[], float],
        deadline: Callable[[], float],
        tick: Callable[[float], None],
    ) -> None:
        self._loop, self._monotonic, self._deadline, self._tick = loop, monotonic, deadline, tick
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def arm(self, deadline: float) -> None:
        """A deadline that has moved away costs nothing: the early wake-up looks, and arms again."""
        if self._handle is not None:
            if self._at <= deadline:
                return
            self._handle.cancel()
        self._at = deadline
        self._handle = self._loop.call_later(
            max(deadline - self._monotonic(), 0.0) + ROUNDING_SECONDS, self._fire, False
        )

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self, drained: bool) -> None:
        self._handle = None
        now, deadline = self._monotonic(), self._deadline()
        if now < deadline:
            self.arm(deadline)
        elif now - deadline > LATE_SECONDS and not drained:
            # We slept, or were starved: hear first what peers said meanwhile, then judge their silence.
            # No turn may arm over this one: under load they follow each other closely, and the tick would never come.
            self._at = BEFORE_ALL
            self._handle = self._loop.call_later(LATE_SECONDS / 5, self._fire, True)
        else:
            self._tick(now)
