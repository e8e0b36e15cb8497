"""The configurations that the log holds, so that a truncation can bring back the one before (thesis 4.1).

Two rules of this module: the latest *appended* configuration is in force, committed or not (rule 14); the first of the
list stands at or before the log's start, so there is always one to fall back to, a snapshot's included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from oarlock.raft.errors import RemoteError
from oarlock.raft.types import Configuration, Entry, EntryKind, PlacedConfiguration

NOTHING_PLACED = PlacedConfiguration(0, 0, Configuration())
"""Before any configuration: a member with an empty log takes part in nothing."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode(configuration: Configuration) -> bytes:
    return _encoder.encode(configuration)


def placed_of(entry: Entry) -> PlacedConfiguration:
    """The configuration of a CONFIGURATION entry. Raises RemoteError when its data is none that can be in force."""
    try:
        configuration = _decoder.decode(entry.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteError("undecodable configuration") from error
    if not configuration.voters:
        raise RemoteError("configuration without voters")
    return PlacedConfiguration(entry.index, entry.term, configuration)


def placed_in(entries: Iterable[Entry]) -> list[PlacedConfiguration]:
    return [placed_of(entry) for entry in entries if entry.kind == EntryKind.CONFIGURATION]


class Configurations:
    __slots__ = ("_placed",)

    def __init__(self, base: PlacedConfiguration, later: Iterable[PlacedConfiguration]) -> None:
        self._placed = [base, *later]

    @property
    def latest(self) -> PlacedConfiguration:
        return self._placed[-1]

    @property
    def previous(self) -> PlacedConfiguration:
        """The one before the latest; the latest itself when nothing older is known."""
        return self._placed[-2] if len(self._placed) > 1 else self._placed[-1]

    def newest_first(self) -> Iterator[PlacedConfiguration]:
        return reversed(self._placed)

    def at(self, index: int) -> PlacedConfiguration:
        """The one in force when the log ended at `index`; for a commit index, the committed one."""
        for placed in reversed(self._placed):
            if placed.index <= index:
                return placed
        return self._placed[0]

    def append(self, placed: PlacedConfiguration) -> None:
        self._placed.append(placed)

    def truncate(self, index: int) -> bool:
        """Drop those of entries from `index` on. Returns whether the latest changed."""
        before = self._placed[-1]
        while len(self._placed) > 1 and self._placed[-1].index >= index:
            self._placed.pop()
        return self._placed[-1] is not before

    def compact(self, index: int) -> None:
        while len(self._placed) > 1 and self._placed[1].index <= index:
            self._placed.pop(0)

    def restart(self, placed: PlacedConfiguration) -> None:
        self._placed = [placed]
