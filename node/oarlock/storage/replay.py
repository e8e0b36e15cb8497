"""What a sequence of frames amounts to: the hard state and the log they leave behind. Pure.

Rules of this module: an entry frame replaces the log from its first index on, at or below a snapshot too, so that a
truncated entry never comes back (pitfall D8). A marker keeps the tail after it only if the log agrees with the snapshot
at its index (paper, figure 13). That is decided when the marker is written, with the whole log known, and is written
with it: a recovery may lack the entry at that index, because its segment was released:

    segment 1 [ 1 2 3 4 ]   segment 2 [ 5 6 | marker 4 | ... ]      Do 5 and 6 count? Without segment 1 nobody can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from oarlock.raft.types import Entry, HardState, SnapshotMeta
from oarlock.storage.frame import Frame


class Gap(ValueError):
    """A frame does not connect to the log before it."""


def check_contiguous(entries: Sequence[Entry]) -> None:
    """Raises Gap."""
    for index, entry in enumerate(entries, entries[0].index):
        if entry.index != index:
            raise Gap(f"entry {entry.index} stands where {index} belongs")


class Outline:
    """A log without its entries: which index has which term. It says whether a marker keeps the tail."""

    __slots__ = ("_base", "_runs", "last_index")

    def __init__(self) -> None:
        self._base: tuple[int, int] | None = None  # (index, term) of the last marker
        self._runs: list[tuple[int, int]] = []  # (first index, term), ascending; the last one ends at last_index
        self.last_index: int | None = None  # None: the log is empty, or its beginning is not known

    def copy(self) -> Outline:
        twin = Outline()
        twin._base, twin._runs, twin.last_index = self._base, self._runs.copy(), self.last_index
        return twin

    def add(self, frame: Frame) -> bool:
        """Follow `frame`; whether its marker keeps the tail. Raises Gap, and is of no use after that."""
        keeps = frame.marker is not None and self.restart_after(frame.marker)
        if frame.entries:
            self.replace(frame.entries)
        return keeps

    def restart_after(self, marker: SnapshotMeta) -> bool:
        keeps = self._term_at(marker.index) == marker.term
        if not keeps:
            self._runs, self.last_index = [], marker.index
        self._base = (marker.index, marker.term)
        self.forget(marker.index)
        return keeps

    def replace(self, entries: Sequence[Entry]) -> None:
        check_contiguous(entries)
        first = entries[0].index
        if self.last_index is not None and first > self.last_index + 1:
            raise Gap(f"entry {first} follows entry {self.last_index}")
        runs = self._runs
        while runs and runs[-1][0] >= first:
            runs.pop()
        if entries[0].term == entries[-1].term:  # terms never fall
            if not runs or runs[-1][1] != entries[0].term:
                runs.append((first, entries[0].term))
        else:
            for entry in entries:
                if not runs or runs[-1][1] != entry.term:
                    runs.append((entry.index, entry.term))
        self.last_index = entries[-1].index

    def forget(self, index: int) -> None:
        """Terms at or below `index` will not be asked for again, as far as they stand in runs of their own."""
        while len(self._runs) > 1 and self._runs[1][0] <= index + 1:
            del self._runs[0]

    def _term_at(self, index: int) -> int | None:
        if self._base is not None and index == self._base[0]:
            return self._base[1]
        if self.last_index is None or index > self.last_index:
            return None
        return next((term for first, term in reversed(self._runs) if first <= index), None)


class Replay:
    """A log under replay. `entries` are contiguous, and start after the marker if there is one."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.marker: SnapshotMeta | None = None
        self.entries: list[Entry] = []

    def add(self, frame: Frame, keeps_tail: bool) -> None:
        """Raises Gap."""
        self.hard_state = frame.hard_state
        if frame.marker is not None:
            self._restart_after(frame.marker, keeps_tail)
        if frame.entries:
            self._replace(frame.entries)

    @property
    def last_index(self) -> int | None:
        """None: nothing is known of the log yet; it is empty, or what it holds was released."""
        if self.entries:
            return self.entries[-1].index
        return self.marker.index if self.marker is not None else None

    def outline(self) -> Outline:
        """Of the log as it stands."""
        outline = Outline()
        if self.marker is not None:
            outline.restart_after(self.marker)
        if self.entries:
            outline.replace(self.entries)
        return outline

    def _restart_after(self, marker: SnapshotMeta, keeps_tail: bool) -> None:
        last = self.last_index
        self.entries = [entry for entry in self.entries if entry.index > marker.index] if keeps_tail else []
        # With a tail that began in a released segment the marker's place is no longer the beginning of what is known; a
        # snapshot beyond it covers what was released.
        hidden = keeps_tail and (last is None or bool(self.entries and self.entries[0].index > marker.index + 1))
        self.marker = None if hidden else marker

    def _replace(self, entries: tuple[Entry, ...]) -> None:
        check_contiguous(entries)
        first, last = entries[0].index, self.last_index
        if last is not None and first > last + 1:
            raise Gap(f"entry {first} follows entry {last}")
        if self.entries and (keep := first - self.entries[0].index) < len(self.entries):
            del self.entries[max(keep, 0) :]
        floor = self.marker.index if self.marker is not None else None
        self.entries.extend(entry for entry in entries if floor is None or entry.index > floor)
