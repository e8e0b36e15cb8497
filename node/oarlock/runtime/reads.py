"""Linearizable reads on their way: queued for the next round, asked of the core, waiting for the machine (rule 9).

Three rules: all reads of one turn share one question to the core; a question that got no answer is asked again, because
a read is safe to repeat; a leader that said no is not asked again before the next tick, so that nothing spins.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from oarlock.raft.core import Core
from oarlock.raft.errors import LocalError
from oarlock.raft.types import NOBODY, NodeId
from oarlock.runtime.errors import overloaded

Asked = list[tuple[Any, float]]  # (waiter, when it came)
NO_ONE_YET = "\0"  # no member has this id


class Reads:
    def __init__(self, core: Core, most: int, first_context: int = 0) -> None:
        """`first_context`: no number that an earlier process of this member used, or an old answer, with an old index,
        could be taken for a new one's."""
        self._core = core
        self._most = most
        self._queued: deque[tuple[Any, float]] = deque()
        self._asked: dict[int, tuple[Asked, float, NodeId]] = {}  # with when, and the leader then
        self._refused_by: NodeId = NO_ONE_YET
        self._waiting: list[tuple[int, int, Asked]] = []  # heap by the index to be applied
        self._next_context = first_context
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def askable(self) -> bool:
        """Would `ask` ask something now?"""
        return bool(self._queued) and self._core.leader not in (NOBODY, self._refused_by)

    def add(self, waiter: Any, now: float) -> None:
        """Raises Refused (`overloaded`) when too many wait already (rule 33)."""
        if self._count >= self._most:
            raise overloaded("too many reads wait for confirmation at this member: slow down")
        self._count += 1
        self._queued.append((waiter, now))

    def ask(self, now: float) -> None:
        """Puts everything queued into the next round; without a known leader it stays queued."""
        if not self.askable:
            return
        self._next_context += 1
        try:
            self._core.read(self._next_context, now)
        except LocalError:
            self._refused_by = self._core.leader
            return
        self._asked[self._next_context] = (list(self._queued), now, self._core.leader)
        self._queued.clear()

    def confirmed(self, context: int, index: int, applied_index: int) -> list[Any]:
        """The core answered: those that may be read now; the rest waits for the machine, or is asked again (-1)."""
        asked, _, leader = self._asked.pop(context, ([], 0.0, NO_ONE_YET))
        if index < 0:
            if leader == self._core.leader:
                self._refused_by = leader
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
        """At a tick: what was asked too long ago goes back to the queue, oldest first; anybody may be asked again."""
        self._refused_by = NO_ONE_YET
        for context, (asked, at, _) in reversed(list(self._asked.items())):
            if now - at > patience_seconds:
                del self._asked[context]
                self._queued.extendleft(reversed(asked))

    def give_up(self, now: float, patience_seconds: float) -> list[Any]:
        """Those in the queue that have waited for too long."""
        late: Asked = []
        while self._queued and now - self._queued[0][1] > patience_seconds:
            late.append(self._queued.popleft())
        return self._done(late)

    def drain(self) -> list[Any]:
        """Everything, wherever it stands."""
        everything: Asked = list(self._queued)
        for asked, _, _ in self._asked.values():
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
