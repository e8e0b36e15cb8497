"""What a log must hold, written down a second time and as plainly as can be; and short names for its values."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.simdisk import SimulatedFiles

from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Member, PlacedConfiguration, SnapshotMeta
from oarlock.storage.frame import Frame
from oarlock.storage.wal import Recovered, Wal

DIRECTORY = Path("/wal")
SMALL = 4096


def entry(index: int, term: int, data: bytes = b"x", kind: int = EntryKind.COMMANDS) -> Entry:
    return Entry(index, term, kind, index * 10, data)


def entries(first: int, last: int, term: int, data: bytes = b"x") -> tuple[Entry, ...]:
    return tuple(entry(index, term, data) for index in range(first, last + 1))


def frame(
    term: int = 1,
    new: Iterable[Entry] = (),
    *,
    vote: str = "",
    commit: int = 0,
    marker: SnapshotMeta | None = None,
) -> Frame:
    return Frame(HardState(term, vote, commit), tuple(new), marker)


def meta(index: int, term: int, digest: str = "0" * 64, size_bytes: int = 0) -> SnapshotMeta:
    member = Member("a-0123456789abcdef", "http://a:2380", "http://a:2379")
    placed = PlacedConfiguration(1, 1, Configuration(voters=(member,)))
    return SnapshotMeta(index, term, index * 10, placed, 1, size_bytes, digest)


def open_wal(disk: SimulatedFiles, segment_bytes: int = SMALL) -> tuple[Wal, Recovered]:
    rng = random.Random(disk.rng.random())
    return Wal.open(DIRECTORY, disk, segment_bytes=segment_bytes, new_nonce=lambda: rng.randbytes(16))


def state_after(frames: Sequence[Frame]) -> tuple[HardState, SnapshotMeta | None, tuple[Entry, ...]]:
    """(hard state, marker, entries after it): what replaying `frames` must give."""
    hard, marker = HardState(), None
    log: dict[int, Entry] = {}
    for one in frames:
        hard = one.hard_state
        if (new := one.marker) is not None:
            mine = log[new.index].term if new.index in log else None
            if marker is not None and marker.index == new.index:
                mine = marker.term
            log = {index: old for index, old in log.items() if index > new.index} if mine == new.term else {}
            marker = new
        if one.entries:
            log = {index: old for index, old in log.items() if index < one.entries[0].index}
            log |= {new.index: new for new in one.entries if marker is None or new.index > marker.index}
    last = max(log, default=marker.index if marker else None)
    commit = hard.commit if last is None else min(hard.commit, last)
    return HardState(hard.term, hard.vote, commit), marker, tuple(log[index] for index in sorted(log))


def state_of(recovered: Recovered) -> tuple[HardState, SnapshotMeta | None, tuple[Entry, ...]]:
    return recovered.hard_state, recovered.marker, recovered.entries
