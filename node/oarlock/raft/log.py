"""The log in memory: everything after a start, which a snapshot covers.

Three rules of this module: indices are contiguous from `start_index` + 1; what is at or below the start is gone, only
its last term and time are known; each entry is handed out for persisting once, unless a truncation replaced it.

    start_index          next_to_persist        last_index
        |  e  e  e  e  e  e  |  e  e  e  e  e  e  |
"""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.raft.errors import LocalError
from oarlock.raft.types import Entry

ENTRY_OVERHEAD_BYTES = 24
"""What an entry costs beside its data, on the wire and on disk; so that many empty entries are not free."""


def size_of(entry: Entry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class Log:
    __slots__ = ("_entries", "last_index", "next_to_persist", "start_index", "start_term", "start_time_ms")

    def __init__(self, start_index: int, start_term: int, start_time_ms: int, entries: Sequence[Entry]) -> None:
        """All of `entries` are durable already. Raises LocalError when they do not continue the start."""
        self.start_index = start_index
        self.start_term = start_term
        self.start_time_ms = start_time_ms
        self._entries: list[Entry] = []
        self.last_index = start_index
        self.append(entries)
        self.next_to_persist = self.last_index + 1

    @property
    def first_index(self) -> int:
        return self.start_index + 1

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.start_term

    @property
    def last_time_ms(self) -> int:
        return self._entries[-1].time_ms if self._entries else self.start_time_ms

    def term_at(self, index: int) -> int | None:
        """None when the index is compacted or beyond the end."""
        offset = index - self.start_index
        if offset == 0:
            return self.start_term
        if 0 < offset <= len(self._entries):
            return self._entries[offset - 1].term
        return None

    def matches(self, index: int, term: int) -> bool:
        return self.term_at(index) == term

    def last_not_above(self, index: int, term: int) -> tuple[int, int]:
        """The largest place at or below `index` whose term is at most `term`, and its term (0 when compacted).

        The one step that makes repairing a log cost one probe per term instead of one per entry (etcd's
        findConflictByTerm). Example: terms 1 1 2 2 2 asked for (5, 1) give (2, 1).
        """
        place = min(index, self.last_index)
        while place > self.start_index and self._entries[place - self.start_index - 1].term > term:
            place -= 1
        return place, self.term_at(place) or 0

    def entries(self, low: int, high: int) -> list[Entry]:
        """The entries from `low` to `high`, both included. Raises LocalError when some of them are not held."""
        if low > high:
            return []
        if low <= self.start_index or high > self.last_index:
            raise LocalError(f"entries {low}..{high} asked for, {self.first_index}..{self.last_index} held")
        return self._entries[low - self.start_index - 1 : high - self.start_index]

    def batch(self, low: int, max_bytes: int) -> tuple[Entry, ...]:
        """A contiguous run from `low`, at most `max_bytes` long, at least one entry if there is one."""
        offset = low - self.start_index - 1
        if offset + 1 == len(self._entries):  # the common case: one new entry
            return (self._entries[offset],)
        taken: list[Entry] = []
        room = max_bytes
        for entry in self._entries[offset:]:
            room -= size_of(entry)
            if room < 0 and taken:
                break
            taken.append(entry)
        return tuple(taken)

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.index != self.last_index + 1 or entry.term < self.last_term:
                raise LocalError(f"entry {entry.term}.{entry.index} cannot follow {self.last_term}.{self.last_index}")
            self._entries.append(entry)
            self.last_index = entry.index

    def truncate(self, index: int) -> None:
        """Drop `index` and everything after it."""
        del self._entries[index - self.start_index - 1 :]
        self.last_index = index - 1
        self.next_to_persist = min(self.next_to_persist, index)

    def compact(self, index: int) -> None:
        """Drop everything up to and including `index`; the caller knows that a snapshot covers it."""
        if index <= self.start_index:
            return
        last = self._entries[index - self.start_index - 1]
        del self._entries[: index - self.start_index]
        self.start_index, self.start_term, self.start_time_ms = index, last.term, last.time_ms

    def restart(self, index: int, term: int, time_ms: int) -> None:
        """Drop all of it: a snapshot at `index` takes its place."""
        self._entries.clear()
        self.start_index, self.start_term, self.start_time_ms = index, term, time_ms
        self.last_index = index
        self.next_to_persist = index + 1

    def take_unpersisted(self) -> tuple[Entry, ...]:
        taken = self._entries[self.next_to_persist - self.start_index - 1 :]
        self.next_to_persist = self.last_index + 1
        return tuple(taken)
