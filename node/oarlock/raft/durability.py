"""What is durable here: tokens handed out with what is to be written, and what came back.

Three rules of this module (rule 7): tokens are cumulative and come back in order; one of an older term is ignored; a
truncation caps what every outstanding token can still vouch for. The last closes the ABA case: entries 5..9 are written
under token 1, a new leader replaces 6..9, and token 1 coming back must not vouch for the new 6..9.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from oarlock.raft.effects import PersistToken
from oarlock.raft.types import NodeId


@dataclass(slots=True)
class Outstanding:
    token: PersistToken
    issued_at: float
    last_index: int
    size_bytes: int


class Durability:
    __slots__ = (
        "_answered_at",
        "_issued_state",
        "_outstanding",
        "_sequence",
        "_state_sequence",
        "durable_index",
        "durable_sequence",
        "owed_bytes",
    )

    def __init__(self, term: int, vote: NodeId, last_index: int) -> None:
        self.durable_index = last_index
        self.durable_sequence = 0
        self.owed_bytes = 0  # of entries that are on their way to the disk
        self._sequence = 0
        self._issued_state = (term, vote)
        self._state_sequence = 0
        self._answered_at: float | None = None
        self._outstanding: deque[Outstanding] = deque()

    @property
    def last_sequence(self) -> int:
        return self._sequence

    @property
    def owed_since(self) -> float | None:
        """Since when the disk owes an answer, None if it owes none. What was issued while others were written before it
        waited for its turn: a disk that answers again and again is slow, and does not hang."""
        if not self._outstanding:
            return None
        issued_at = self._outstanding[0].issued_at
        return issued_at if self._answered_at is None else max(issued_at, self._answered_at)

    def state_is_issued(self, term: int, vote: NodeId) -> bool:
        return self._issued_state == (term, vote)

    def state_is_durable(self, term: int, vote: NodeId) -> bool:
        return self._issued_state == (term, vote) and self._state_sequence <= self.durable_sequence

    def issue(self, term: int, vote: NodeId, last_index: int, size_bytes: int, now: float) -> PersistToken:
        self._sequence += 1
        if self._issued_state != (term, vote):
            self._issued_state = (term, vote)
            self._state_sequence = self._sequence
        token = PersistToken(term, self._sequence)
        self._outstanding.append(Outstanding(token, now, last_index, size_bytes))
        self.owed_bytes += size_bytes
        return token

    def persisted(self, token: PersistToken, term: int, now: float) -> bool:
        """Whether anything became durable. A newer term has always issued a newer token, which covers the log too."""
        self._answered_at = now
        if token.term < term:
            return False
        news = False
        while self._outstanding and self._outstanding[0].token.sequence <= token.sequence:
            done = self._outstanding.popleft()
            self.owed_bytes -= done.size_bytes
            self.durable_index = max(self.durable_index, done.last_index)
            self.durable_sequence = done.token.sequence
            news = True
        return news

    def cap(self, last_index: int) -> None:
        """Nothing after `last_index` is what it was: neither durable nor on its way."""
        self.durable_index = min(self.durable_index, last_index)
        for waiting in self._outstanding:
            waiting.last_index = min(waiting.last_index, last_index)
