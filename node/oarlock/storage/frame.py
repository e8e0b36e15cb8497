"""One frame of the write-ahead log: what it holds, and its bytes. Pure: no file is touched here.

Rules of this module: a frame is taken for a frame only if it names its own place (segment nonce, sequence, offset), so
that neither client bytes nor a block in the wrong place can imitate one (rule 2); every frame carries the whole hard
state and the watermark (rule 1); a changed layout gets a new FORMAT_VERSION (rule 34).

    header (96 bytes)                                         payload            padding
    magic version | nonce | flags count | place | follows |   msgpack of Frame   zeros, up to a multiple of 64
    watermark | previous CRC | length | payload CRC | CRC
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import NamedTuple

import msgspec
from google_crc32c import value as crc32c
from msgspec import Struct

from oarlock.raft.types import Entry, HardState, SnapshotMeta

ALIGNMENT_BYTES = 64
FORMAT_VERSION = 1
NONCE_BYTES = 16

_MAGIC = b"OarF"
_PREFIX = Layout("<4sH16s")
_HEADER = Layout("<4sH16sHIQQQQQQIII")
_CRC = Layout("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
MAX_PAYLOAD_BYTES = 2**32 - 1
_KEEPS_TAIL = 1


class Position(NamedTuple):
    """A place in the log, ordered. Always the end of a frame, or ORIGIN."""

    segment: int
    offset: int  # bytes from the start of the segment's file

    def __str__(self) -> str:
        return f"segment {self.segment}, byte {self.offset}"


ORIGIN = Position(0, 0)
"""Before the first frame there ever was."""


class Frame(Struct, frozen=True, array_like=True, gc=False):
    """What one Ready persists. Replayed in this order: `marker` (the log restarts there), then `entries`, which replace
    what the log holds from entries[0].index on. Empty but for the hard state: a vote, or a new watermark (rule 3)."""

    hard_state: HardState
    entries: tuple[Entry, ...] = ()
    marker: SnapshotMeta | None = None


class Header(NamedTuple):
    place: Position  # of the header's first byte
    follows: Position  # where the frame before it ended; in another segment for the first of a segment
    watermark: Position  # everything before it was durable when this frame was written (rule 1)
    previous_crc: int  # header CRC of the frame before it; 0 after ORIGIN
    keeps_tail: bool  # of the marker: the log after it stays
    entries: int
    length: int  # payload bytes
    payload_crc: int
    crc: int  # of the header

    @property
    def end(self) -> Position:
        place = self.place
        return Position(place.segment, place.offset + frame_bytes(self.length))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
encode_payload = _encoder.encode


def frame_bytes(payload_length: int) -> int:
    """Bytes on disk of a frame whose payload has `payload_length` bytes."""
    return -(-(HEADER_BYTES + payload_length) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def encode_header(
    nonce: bytes,
    place: Position,
    follows: Position,
    watermark: Position,
    previous_crc: int,
    frame: Frame,
    keeps_tail: bool,
    payload: bytes,
) -> tuple[bytes, int]:
    """The header's bytes, and its CRC for the next frame's `previous_crc`."""
    flags = _KEEPS_TAIL if keeps_tail else 0
    places = (*place, *follows, *watermark)
    sums = (previous_crc, len(payload), crc32c(payload))
    fixed = _HEADER.pack(_MAGIC, FORMAT_VERSION, nonce, flags, len(frame.entries), *places, *sums)
    crc = crc32c(fixed)
    return fixed + _CRC.pack(crc), crc


def decode_header(data: bytes, offset: int, segment: int, nonce: bytes) -> Header | None:
    """The header at `offset` of the segment whose bytes are `data`, or None if there is none that belongs there."""
    fixed_end = offset + _HEADER.size
    if fixed_end + _CRC.size > len(data):
        return None
    magic, version, own_nonce, flags, count, *numbers = _HEADER.unpack_from(data, offset)
    if own_nonce != nonce or magic != _MAGIC or version != FORMAT_VERSION or flags & ~_KEEPS_TAIL:
        return None
    (crc,) = _CRC.unpack_from(data, fixed_end)
    if crc != crc32c(data[offset:fixed_end]):
        return None
    place = Position(numbers[0], numbers[1])
    if place != (segment, offset):
        return None
    follows, watermark = Position(numbers[2], numbers[3]), Position(numbers[4], numbers[5])
    return Header(place, follows, watermark, numbers[6], flags != 0, count, numbers[7], numbers[8], crc)


def decode_frame(data: bytes, header: Header) -> Frame | None:
    """The frame under a valid header, or None if its payload is not what was written."""
    start = header.place.offset + HEADER_BYTES
    payload = data[start : start + header.length]
    if len(payload) != header.length or crc32c(payload) != header.payload_crc:
        return None
    try:
        frame = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return frame if len(frame.entries) == header.entries else None


def headers_after(data: bytes, offset: int, segment: int, nonce: bytes) -> list[Header]:
    """Every valid header at an aligned place in `data` from `offset` on, whether its payload is whole or not."""
    found = []
    start = offset
    needle = _PREFIX.pack(_MAGIC, FORMAT_VERSION, nonce)
    while (at := data.find(needle, start)) >= 0:
        header = decode_header(data, at, segment, nonce) if at % ALIGNMENT_BYTES == 0 else None
        if header is not None:
            found.append(header)
        start = at + 1
    return found
