"""Linearizable reads on their way: queued for the next round, asked of the core, waiting for the machine (rule 9).

Two rules: all reads of one turn share one question to the core; a question that got no answer is asked again, because
a read is safe to repeat.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from oarlock.raft.core import Core
from oarlock.raft.errors import LocalError
from oarlock.runtime.errors import overloaded

Asked = list[tuple[Any, float]]  # (waiter, when it came)


class Reads:
    def __init__(self, core: Core, most: int) -> None:
        self._core = core
        self._most = most
        self._queued: deque[tuple[Any, float]] = deque()
        self._asked: dict[int, tuple[Asked, float]] = {}
        self._waiting: list[tuple[int, int, Asked]] = []  # heap by the index to be applied
        self._next_context = 0
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def queued(self) -> bool:
        return bool(self._queued)

    def add(self, waiter: Any, now: float) -> None:
        """Raises Refused (`overloaded`) when too many wait already (rule 33)."""
        if self._count >= self._most:
            raise overloaded("too many reads wait for confirmation at this member: slow down")
        self._count += 1
        self._queued.append((waiter, now))

    def ask(self, now: float) -> None:
        """Puts everything queued into the next round; without a known leader it stays queued."""
        if not self._queued:
            return
        self._next_context += 1
        try:
            self._core.read(self._next_context, now)
        except LocalError:
            return
        self._asked[self._next_context] = (list(self._queued), now)
        self._queued.clear()

    def confirmed(self, context: int, index: int, applied_index: int) -> list[Any]:
        """The core answered: those that may be read now; the rest waits for the machine, or is asked again (-1)."""
        asked, _ = self._asked.pop(context, ([], 0.0))
        if index < 0:
            self._queued.extendleft(reversed(asked))
            return []
        if index > applied_index:
            if asked:
                heapq.heappush(self._waiting, (index, context, asked))
            return []
        return self._done(asked)

    def applied(self, applied_index: int) -> list[Any]:
        """The machine has moved: those that may be read now."""
        readable: list[Any] = []
        while self._waiting and self._waiting[0][0] <= applied_index:
            readable.extend(self._done(heapq.heappop(self._waiting)[2]))
        return readable

    def ask_again(self, now: float, patience_seconds: float) -> None:
        for context, (asked, at) in list(self._asked.items()):
            if now - at > patience_seconds:
                del self._asked[context]
                self._queued.extendleft(reversed(asked))

    def give_up(self, now: float, patience_seconds: float) -> list[Any]:
        """Those that have been queued for too long without a leader."""
        late: Asked = []
        while self._queued and now - self._queued[0][1] > patience_seconds:
            late.append(self._queued.popleft())
        return self._done(late)

    def drain(self) -> list[Any]:
        """Everything, wherever it stands."""
        everything: Asked = list(self._queued)
        for asked, _ in self._asked.values():
            everything.extend(asked)
        for _, _, asked in self._waiting:
            everything.extend(asked)
        self._queued.clear()
        self._asked.clear()
        self._waiting.clear()
        return self._done(everything)

    def _done(self, asked: Asked) -> list[Any]:
        self._count -= len(asked)
        return [waiter for waiter, _ in asked]
