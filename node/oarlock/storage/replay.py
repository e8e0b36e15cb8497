"""What a sequence of frames amounts to: the hard state and the log they leave behind. Pure.

Rule of this module: it does what the consensus core did when it wrote the frames, nothing more clever. An entry frame
replaces the log from its first index on, at or below a snapshot too, so that a truncated entry never comes back
(pitfall D8); a marker keeps the tail after it only if the log agrees with the snapshot at its index (paper, figure 13).
"""

from __future__ import annotations

from oarlock.raft.types import Entry, HardState, SnapshotMeta
from oarlock.storage.frame import Frame


class Gap(Exception):
    """A frame does not connect to the log before it."""


class Replay:
    """A log under replay. `entries` are contiguous, and start after the marker if there is one."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.marker: SnapshotMeta | None = None
        self.entries: list[Entry] = []

    def add(self, frame: Frame) -> None:
        """Raises Gap."""
        self.hard_state = frame.hard_state
        if frame.marker is not None:
            self._restart_after(frame.marker)
        if frame.entries:
            self._replace(frame.entries)

    @property
    def last_index(self) -> int:
        if self.entries:
            return self.entries[-1].index
        return self.marker.index if self.marker is not None else 0

    def _term_at(self, index: int) -> int | None:
        if self.marker is not None and index == self.marker.index:
            return self.marker.term
        at = index - self.entries[0].index if self.entries else -1
        return self.entries[at].term if 0 <= at < len(self.entries) else None

    def _restart_after(self, marker: SnapshotMeta) -> None:
        agrees = self._term_at(marker.index) == marker.term
        self.entries = [entry for entry in self.entries if entry.index > marker.index] if agrees else []
        self.marker = marker

    def _replace(self, entries: tuple[Entry, ...]) -> None:
        first = entries[0].index
        for index, entry in enumerate(entries, first):
            if entry.index != index:
                raise Gap(f"entry {entry.index} stands where {index} belongs")
        floor = self.marker.index if self.marker is not None else None
        if self.entries or floor is not None:
            if first > self.last_index + 1:
                raise Gap(f"entry {first} follows entry {self.last_index}")
            if self.entries and (keep := first - self.entries[0].index) < len(self.entries):
                del self.entries[max(keep, 0) :]
        self.entries.extend(entry for entry in entries if floor is None or entry.index > floor)
