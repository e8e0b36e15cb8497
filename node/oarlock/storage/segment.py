"""Files of the log: names, the header of a segment, and how a segment comes to be.

Rules of this module: a segment gets its final name only when all of its bytes are durable, so that a segment with a bad
header is corruption and never a torn write; a segment is zero-filled, so that a write inside it needs no new space
(rule 5); a segment's nonce is random and never used twice (rule 2).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from struct import Struct as Layout

from google_crc32c import value as crc32c

from oarlock.storage.errors import Corrupt, NewerFormat, WalFailed, out_of_space
from oarlock.storage.files import CHUNK_BYTES, FileSystem
from oarlock.storage.frame import ALIGNMENT_BYTES, FORMAT_VERSION, NONCE_BYTES, Frame

SEGMENT_HEADER_BYTES = ALIGNMENT_BYTES
_MAGIC = b"OarS"
_HEADER = Layout(f"<4sHH{NONCE_BYTES}sQ")
_CRC = Layout("<I")
_NAME = re.compile(r"([0-9a-f]{16})\.wal")
_ZEROS = bytes(CHUNK_BYTES)


def segment_path(directory: Path, sequence: int) -> Path:
    return directory / f"{sequence:016x}.wal"


def list_segments(directory: Path, files: FileSystem) -> list[int]:
    """Sequence numbers of the segments in `directory`, ascending."""
    names = (_NAME.fullmatch(name) for name in files.listdir(directory))
    return sorted(int(match[1], 16) for match in names if match)


def remove_unfinished(directory: Path, files: FileSystem) -> None:
    """Remove segments that never got their name; they hold nothing that anybody was told of."""
    for name in files.listdir(directory):
        if name.endswith(".tmp"):
            files.unlink(directory / name)


def encode_segment_header(sequence: int, nonce: bytes) -> bytes:
    fixed = _HEADER.pack(_MAGIC, FORMAT_VERSION, 0, nonce, sequence)
    return (fixed + _CRC.pack(crc32c(fixed))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes, sequence: int) -> bytes:
    """The nonce. Raises Corrupt, NewerFormat."""
    fixed = data[: _HEADER.size]
    whole = len(data) >= SEGMENT_HEADER_BYTES and _CRC.unpack_from(data, _HEADER.size)[0] == crc32c(fixed)
    if not whole or any(data[_HEADER.size + _CRC.size : SEGMENT_HEADER_BYTES]):
        raise Corrupt(f"segment {sequence}: its header is damaged")
    magic, version, _, nonce, own_sequence = _HEADER.unpack(fixed)
    if magic == _MAGIC and version > FORMAT_VERSION:
        raise NewerFormat(f"segment {sequence} has format version {version}; this version reads up to {FORMAT_VERSION}")
    if magic != _MAGIC or own_sequence != sequence:
        raise Corrupt(f"segment {sequence}: its header is that of another file")
    return bytes(nonce)


@dataclass(slots=True)
class Segment:
    """A segment that is part of the log, or made ready to be."""

    sequence: int
    path: Path
    nonce: bytes
    size_bytes: int  # of the file
    end: int = SEGMENT_HEADER_BYTES  # where the last frame ends
    max_index: int = 0  # highest index that an entry or a marker in it names; overwritten ones count
    anchored: bool = False  # a frame in it says where the log begins, whatever stood before it
    handle: int | None = None  # None: not open

    def note(self, frame: Frame, keeps_tail: bool) -> None:
        """A frame is in this segment now."""
        for index in (frame.entries[-1].index if frame.entries else 0, frame.marker.index if frame.marker else 0):
            self.max_index = max(self.max_index, index)
        self.anchored = self.anchored or bool(frame.entries) or (frame.marker is not None and not keeps_tail)


class Preparation:
    """A segment in the making, so that its zeros can be written and synced in slices between appends.

    Raises OutOfSpace from `advance`, after which nothing of it is left; WalFailed when the disk fails.
    """

    def __init__(
        self, directory: Path, files: FileSystem, sequence: int, size_bytes: int, nonce: bytes, frames: bytes = b""
    ) -> None:
        self._files = files
        self._segment = Segment(sequence, segment_path(directory, sequence), nonce, size_bytes)
        self._temporary = self._segment.path.with_suffix(".tmp")
        self._head = encode_segment_header(sequence, nonce) + frames
        self._handle: int | None = None
        self._written = 0

    def advance(self, max_bytes: int | None = None) -> Segment | None:
        """Write about `max_bytes` more (default: all that is left) and sync them; the segment once it is complete."""
        size = self._segment.size_bytes
        stop = size if max_bytes is None else min(size, self._written + max_bytes)
        try:
            if self._handle is None:
                if self._files.exists(self._temporary):  # of an attempt that could not even be removed
                    self._files.unlink(self._temporary)
                self._handle = self._files.create(self._temporary)
                self._files.write(self._handle, (self._head,), 0)
                self._written = len(self._head)
            while self._written < stop:
                part = _ZEROS[: min(CHUNK_BYTES, stop - self._written)]
                self._files.write(self._handle, (part,), self._written)
                self._written += len(part)
        except OSError as error:
            self.abandon()
            raise out_of_space(error, self._temporary) or WalFailed(
                f"cannot make {self._temporary}: {error}"
            ) from error
        try:
            self._files.sync(self._handle)
            if self._written < size:
                return None
            self._files.rename(self._temporary, self._segment.path)
            self._files.sync_directory(self._segment.path.parent)
        except OSError as error:
            raise WalFailed(f"cannot make {self._segment.path} durable: {error}") from error
        self._segment.handle, self._handle = self._handle, None
        return self._segment

    def abandon(self) -> None:
        """Close and remove what there is, as far as that goes."""
        with contextlib.suppress(OSError):
            if self._handle is not None:
                handle, self._handle = self._handle, None
                self._files.close(handle)
            if self._files.exists(self._temporary):
                self._files.unlink(self._temporary)
