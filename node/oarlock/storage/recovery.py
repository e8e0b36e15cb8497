"""Reads a log back, and tells a torn tail from corruption. Reads only.

Rules of this module:
* A bad frame that any later valid frame vouches for (a watermark beyond it) is corruption; without one it is the end of
  the log (rule 2). Later frames are looked for by scanning aligned headers with the segment's nonce.
* Which segments make up the log is said by links alone: the first frame of a segment names the position it follows.
  What stands after that position is superseded, valid or not, in its own segment and in any segment between. So a
  recovery replaces a doubtful tail by publishing one file, and a crash at any moment leaves the one or the other:

      segment 4 [ a b c | d e     ]    d, e: readable, not vouched for          before
      segment 5 [ f     ]
      segment 6 [ d e f settle ]       its first frame follows the end of c     after: 4 ends there, 5 is not read
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from oarlock.raft.types import Entry, HardState, SnapshotMeta
from oarlock.storage.errors import Corrupt
from oarlock.storage.files import CHUNK_BYTES, FileSystem, read_file
from oarlock.storage.frame import (
    HEADER_BYTES,
    ORIGIN,
    Frame,
    Header,
    Position,
    decode_frame,
    decode_header,
    frame_bytes,
    headers_after,
)
from oarlock.storage.replay import Gap, Outline, Replay
from oarlock.storage.segment import SEGMENT_HEADER_BYTES, Segment, decode_segment_header, list_segments, segment_path


@dataclass(frozen=True, slots=True)
class Recovered:
    """The log as it stands. `entries` are contiguous and come after the marker, if its segment is still there; an
    older log whose beginning was released starts at any index. `cut_bytes` were dropped as a torn tail."""

    hard_state: HardState
    marker: SnapshotMeta | None
    entries: tuple[Entry, ...]
    cut_bytes: int


@dataclass(slots=True)
class Scan:
    """What is on the disk. `segments` are the live ones, each ending (`end`) where its live frames end."""

    recovered: Recovered
    segments: list[Segment]
    outline: Outline
    present: list[int]  # sequence numbers of every file, live or not
    watermark: Position = ORIGIN  # the highest
    tail: list[tuple[Frame, bool]] = field(
        default_factory=list
    )  # live, not vouched for; whether the marker keeps the tail
    tail_follows_crc: int = 0  # header CRC of the frame before the tail
    marks: list[tuple[int, int]] = field(default_factory=list)  # (last index, bytes of frames up to there), sparse
    frame_bytes: int = 0  # of all live frames


@dataclass(slots=True)
class _Head:
    segment: Segment
    first: Header | None


def scan(directory: Path, files: FileSystem) -> Scan:
    """Raises Corrupt, NewerFormat, OSError."""
    heads = {sequence: _read_head(directory, files, sequence) for sequence in list_segments(directory, files)}
    chain = _chain(heads)
    walk = _Walk(files)
    end = ORIGIN
    for number, sequence in enumerate(chain, 1):
        head = heads[sequence]
        follow = heads[chain[number]].first if number < len(chain) else None
        limit = follow.follows.offset if follow is not None else head.segment.size_bytes
        end = walk.segment(head.segment, limit)
        if follow is not None and end.offset != limit:
            break
    cut = _check_rest(heads, files, end)
    live = [heads[sequence].segment for sequence in chain]
    state = walk.replay
    hard = state.hard_state
    # A leader may learn of a commit before its own entries are durable: `commit` may be ahead of the log (pitfall D11).
    if state.last_index is not None:
        hard = HardState(hard.term, hard.vote, min(hard.commit, state.last_index))
    return Scan(
        recovered=Recovered(hard, state.marker, tuple(state.entries), cut),
        segments=[segment for segment in live if segment.sequence <= end.segment],
        outline=state.outline(),
        present=list(heads),
        watermark=walk.watermark,
        tail=[(frame, header.keeps_tail) for _, header, frame in walk.tail],
        tail_follows_crc=walk.tail[0][1].previous_crc if walk.tail else 0,
        marks=walk.marks,
        frame_bytes=walk.bytes,
    )


def _read_head(directory: Path, files: FileSystem, sequence: int) -> _Head:
    path = segment_path(directory, sequence)
    handle = files.open(path)
    try:
        size = files.size(handle)
        data = files.read(handle, SEGMENT_HEADER_BYTES + HEADER_BYTES, 0)
    finally:
        files.close(handle)
    nonce = decode_segment_header(data, sequence)
    return _Head(Segment(sequence, path, nonce, size), decode_header(data, SEGMENT_HEADER_BYTES, sequence, nonce))


def _chain(heads: dict[int, _Head]) -> list[int]:
    """The live segments, oldest first: links followed back from the newest segment that holds a frame."""
    newest = max((sequence for sequence, head in heads.items() if head.first is not None), default=None)
    chain: list[int] = []
    link = newest
    while link is not None:
        chain.append(link)
        first = heads[link].first
        if first is None:  # its first frame is damaged; a later frame vouches for it, which the walk finds
            break
        before = first.follows.segment
        if before >= link:
            raise Corrupt(f"segment {link}: follows segment {before}")
        if before not in heads:
            if before >= min(heads) and before != ORIGIN.segment:
                raise Corrupt(f"segment {before} is missing, and segment {link} follows it")
            break
        link = before
    return chain[::-1]


class _Walk:
    """Reads frames in order and folds them into a replay."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._crc: int | None = None  # of the last frame's header; None: unknown, its segment was released
        self._end: Position | None = None
        self.bytes = 0
        self.replay = Replay()
        self.watermark = ORIGIN
        self.tail: deque[tuple[Position, Header, Frame]] = deque()
        self.marks: list[tuple[int, int]] = []

    def segment(self, segment: Segment, limit: int) -> Position:
        """Walk one segment up to `limit`; where its live frames end."""
        data = read_file(self._files, segment.path)
        offset = SEGMENT_HEADER_BYTES
        segment.end = offset
        while offset < limit:
            header = decode_header(data, offset, segment.sequence, segment.nonce)
            if header is None or not self._connects(header):
                break
            end = header.end
            if end.offset > limit:
                break
            frame = decode_frame(data, header)
            if frame is None:
                break
            try:
                self.replay.add(frame, header.keeps_tail)
            except Gap as gap:
                raise Corrupt(f"{header.place}: {gap}") from gap
            self._take(header, end, frame, segment)
            offset = end.offset
        return Position(segment.sequence, offset)

    def _connects(self, header: Header) -> bool:
        if self._crc is None:
            return header.follows != ORIGIN or header.previous_crc == 0
        return header.previous_crc == self._crc and header.follows == self._end

    def _take(self, header: Header, end: Position, frame: Frame, segment: Segment) -> None:
        self._crc, self._end = header.crc, end
        self.watermark = max(self.watermark, header.watermark)
        self.tail.append((end, header, frame))
        while self.tail and self.tail[0][0] <= self.watermark:
            self.tail.popleft()
        segment.end = end.offset
        segment.note(frame, header.keeps_tail)
        self.bytes += frame_bytes(header.length)
        if frame.entries:
            add_mark(self.marks, frame.entries[0].index, frame.entries[-1].index, self.bytes)


def _check_rest(heads: dict[int, _Head], files: FileSystem, end: Position) -> int:
    """Bytes after the end of the log at `end`. Raises Corrupt if a later frame vouches for what is missing there."""
    cut = 0
    for sequence, head in heads.items():
        if sequence < end.segment:
            continue
        start = end.offset if sequence == end.segment else SEGMENT_HEADER_BYTES
        data = _written_part(read_file(files, head.segment.path), start)
        padded = data + bytes(HEADER_BYTES)  # a header may end in zeros itself
        for header in headers_after(padded, start, sequence, head.segment.nonce):
            if header.watermark > end:
                raise Corrupt(
                    f"{end}: not a valid frame, though the frame at {header.place} vouches for everything before "
                    f"{header.watermark}"
                )
        cut += max(0, len(data) - start)
    return cut


def _written_part(data: bytes, start: int) -> bytes:
    """`data` without the zeros at its end, `start` bytes at the least: a segment is mostly zeros, and seldom read."""
    zeros = bytes(CHUNK_BYTES)
    length = len(data)
    while length - CHUNK_BYTES >= start and data[length - CHUNK_BYTES : length] == zeros:
        length -= CHUNK_BYTES
    return data[:start] + data[start:length].rstrip(b"\0")


MARK_BYTES = 256 * 1024


def add_mark(marks: list[tuple[int, int]], first: int, last: int, total: int) -> None:
    """Note that `total` bytes were written when entry `last` was, at most one note each MARK_BYTES.

    Entries from `first` on are replaced: notes about them go, so that the indices ascend.
    """
    while marks and marks[-1][0] >= first:
        marks.pop()
    if not marks or total - marks[-1][1] >= MARK_BYTES:
        marks.append((last, total))


def bytes_at(marks: list[tuple[int, int]], index: int) -> int:
    """Bytes written when entry `index` was, too low by at most MARK_BYTES; 0 for one before the first note."""
    at = bisect_right(marks, (index, 2**63))
    return marks[at - 1][1] if at else 0
