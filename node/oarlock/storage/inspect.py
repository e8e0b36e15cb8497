"""Reads a log for people and for tests: every frame that can be read, whether it still counts or not.

Rule of this module: it changes nothing and judges nothing; what a member may believe is said by `recovery` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oarlock.storage.files import FileSystem, RealFiles, read_file
from oarlock.storage.frame import Frame, decode_frame, headers_after
from oarlock.storage.segment import SEGMENT_HEADER_BYTES, decode_segment_header, list_segments, segment_path


def scan(directory: Path, files: FileSystem | None = None) -> Iterator[tuple[int, int, Frame]]:
    """(segment sequence, byte offset, frame) of the log in `directory`, in the order of the disk.

    Frames that were superseded, overwritten or follow a damaged place are given too; a segment that a running member
    deletes meanwhile is passed over. Raises Corrupt for a damaged segment header, NewerFormat, OSError.
    """
    files = files or RealFiles()
    for sequence in list_segments(directory, files):
        try:
            data = read_file(files, segment_path(directory, sequence))
        except FileNotFoundError:
            continue
        nonce = decode_segment_header(data, sequence)
        for header in headers_after(data, SEGMENT_HEADER_BYTES, sequence, nonce):
            frame = decode_frame(data, header)
            if frame is not None:
                yield sequence, header.place.offset, frame
