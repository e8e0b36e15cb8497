"""How messages are cut on a stream: `length (4) | CRC32C of the payload (4) | payload`, big endian.

Rules of this module:
* Sans-IO: bytes in, payloads out.
* A length is checked before anything is kept for it: a reader never holds more than one frame of MAX_FRAME_BYTES and
  the chunk that it was given last.
* After a FrameError the place in the stream is lost: the stream must be closed, the reader thrown away.

An empty frame (length 0) says only that the sender lives. TCP's own checksum has 16 bits; a flipped bit in an entry
would be made durable on one member and not on the others, so frames bring a better one (0.1 µs for a small frame).
The format of frames is named by the hello's `format_version`.
"""

from __future__ import annotations

import struct

import google_crc32c

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""The longest payload. The largest append is one entry of 1 MiB, or a single command of at most 1.5 MiB (rule 32)."""

HEADER = struct.Struct(">II")
HEADER_BYTES = HEADER.size
EMPTY_FRAME = bytes(HEADER_BYTES)


class FrameError(Exception):
    """The stream cannot be read on. `code` is `oversized` or `damaged`."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def encode_frame(payload: bytes) -> bytes:
    """One frame. Raises ValueError for a payload that no reader would take."""
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame holds at most {MAX_FRAME_BYTES} bytes, not {len(payload)}")
    return HEADER.pack(len(payload), google_crc32c.value(payload)) + payload


class FrameReader:
    """Cuts one stream into payloads; empty frames are swallowed."""

    __slots__ = ("_missing", "_tail")

    def __init__(self) -> None:
        self._tail = bytearray()  # the beginning of a frame that is not whole yet
        self._missing = 0  # bytes of it still to come, as far as known; spares a parse for each chunk of a long frame

    @property
    def buffered_bytes(self) -> int:
        return len(self._tail)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completes, in order. Raises FrameError; payloads before the bad frame are lost
        with it, as a broken connection may lose them too."""
        if self._tail:
            self._tail += chunk
            if len(chunk) < self._missing:
                self._missing -= len(chunk)
                return []
            chunk = bytes(self._tail)
            self._tail = bytearray()
        payloads = []
        at, end = 0, len(chunk)
        self._missing = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            length, checksum = HEADER.unpack_from(chunk, at)
            if length > MAX_FRAME_BYTES:
                raise FrameError("oversized", f"a frame of {length} bytes; the bound is {MAX_FRAME_BYTES}")
            start = at + HEADER_BYTES
            if end - start < length:
                self._missing = length + HEADER_BYTES
                break
            payload = chunk[start : start + length]
            if google_crc32c.value(payload) != checksum:
                raise FrameError("damaged", f"the checksum of a frame of {length} bytes does not match")
            if length:
                payloads.append(payload)
            at = start + length
        if at < end:
            self._tail += chunk[at:]
            self._missing -= end - at
        return payloads
