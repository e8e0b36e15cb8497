"""The write-ahead log: frames in, durable when `append` returns.

Rules of this module:
* One append is one write and one sync, and is durable before the next begins; so only the last append can be torn, and
  every frame's watermark is simply where the append before it ended (rule 1).
* After a failed write or sync nothing more is written, ever, and nothing is acknowledged (rule 5, pitfall D1). A lack
  of space is not such a failure: it leaves the log as it was.
* What recovery could read but no watermark vouches for is written again and synced before it counts (rule 4).

All methods but `bytes` and `bytes_since` belong to one thread, and may block.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from oarlock.raft.types import HardState
from oarlock.storage.errors import OutOfSpace, WalFailed, out_of_space
from oarlock.storage.files import FileSystem
from oarlock.storage.frame import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    NONCE_BYTES,
    ORIGIN,
    Frame,
    Position,
    encode_header,
    encode_payload,
    frame_bytes,
)
from oarlock.storage.recovery import Recovered, Scan, add_mark, bytes_at, scan
from oarlock.storage.replay import Outline
from oarlock.storage.segment import SEGMENT_HEADER_BYTES, Preparation, Segment, remove_unfinished, segment_path

SEGMENT_BYTES = 64 * 1024 * 1024
_SETTLE_BYTES = 1024  # kept free at the end of a segment: `settle` must never have to wait for a new one

_Bytes: TypeAlias = bytes  # inside the class, `bytes` is a method
_Flagged: TypeAlias = tuple[Frame, bool]  # whether the frame's marker keeps the tail
NewNonce: TypeAlias = Callable[[], _Bytes]


def random_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


class Wal:
    """Made by `open`."""

    def __init__(self, directory: Path, files: FileSystem, segment_bytes: int, new_nonce: NewNonce) -> None:
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._new_nonce = new_nonce
        self._segments: list[Segment] = []  # live, oldest first; the last one is written to
        self._preparation: Preparation | None = None
        self._next: Segment | None = None  # complete, and still without a frame
        self._next_sequence = 1
        self._end = ORIGIN  # everything before it is durable: the watermark of the next frame
        self._crc = 0  # header CRC of the last frame
        self._hard_state = HardState()
        self._outline = Outline()
        self._settled = True
        self._written_bytes = 0  # of frames, since the oldest one that recovery saw
        self._marks: list[tuple[int, int]] = []
        self._failure: str | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        files: FileSystem,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        new_nonce: NewNonce = random_nonce,
    ) -> tuple[Wal, Recovered]:
        """Read the log in `directory` (made if absent) and make all that was read durable (rule 4).

        Raises Corrupt, NewerFormat, OutOfSpace (nothing is lost: free some and call again), WalFailed.
        """
        wal = cls(directory, files, segment_bytes, new_nonce)
        try:
            if not files.exists(directory):
                files.mkdir(directory)
                files.sync_directory(directory.parent)
            remove_unfinished(directory, files)
            files.sync_directory(directory)  # what is built upon shall stay, also what a killed process has named
            found = scan(directory, files)
            wal._resume(found)
        except OSError as error:
            wal.close()
            raise out_of_space(error, directory) or WalFailed(f"cannot recover {directory}: {error}") from error
        except BaseException:
            wal.close()
            raise
        return wal, found.recovered

    # --- writing

    def append(self, frames: Sequence[Frame]) -> int:
        """Write `frames` in order, with one write and one sync; the bytes written. Durable when it returns.

        Raises OutOfSpace (nothing of it counts; call again with the same frames), WalFailed (fatal), ValueError for
        frames that do not connect, which is the caller's mistake and changes nothing.
        """
        self._refuse_if_failed()
        if not frames:
            return 0
        outline = self._outline.copy()
        term = self._hard_state.term
        for frame in frames:
            if frame.hard_state.term < term:
                raise ValueError(f"term {frame.hard_state.term} after term {term}")
            term = frame.hard_state.term
        written = self._write([(frame, outline.add(frame)) for frame in frames], spare=_SETTLE_BYTES)
        self._outline = outline
        self._settled = False
        return written

    def begin(self) -> None:
        """Give a log without a frame an empty one, durable when it returns: whoever does this before anything is said
        in the log's name knows later that a log without one was lost (pitfall D15). Raises OutOfSpace, WalFailed.
        """
        if not self.begun:
            self.append([Frame(self._hard_state)])

    def settle(self) -> None:
        """Vouch for the last append with an empty frame, once; nothing if there is nothing new (rule 3).

        Raises WalFailed.
        """
        self._refuse_if_failed()
        if not self._settled:
            self._write([(Frame(self._hard_state), False)], spare=0)
            self._settled = True

    def prepare(self, max_bytes: int | None = None) -> bool:
        """Make the next segment ahead of need, at most about `max_bytes` of it; True once it is there (rule 5).

        Called between appends with a small bound, it keeps the zero-filling off the path of an append.
        Raises OutOfSpace (call again later), WalFailed.
        """
        self._refuse_if_failed()
        if self._next is not None:
            return True
        if self._preparation is None:
            self._preparation = self._new_segment(self._segment_bytes)
        self._next = self._advance(self._preparation, max_bytes)
        return self._next is not None

    def release(self, index: int) -> int:
        """Delete the oldest segments that name no index above `index`; the bytes freed.

        The caller promises that a durable snapshot covers `index` and that no transfer or peer needs what is at or
        below it. A segment stays until a later one holds a durable frame (rule 6), and one that says where the log
        begins: a log that lost its snapshot must be seen to have lost something. Raises WalFailed.
        """
        self._refuse_if_failed()
        freed = 0
        while self._segments and self._segments[0].max_index <= index:
            if not any(segment.anchored for segment in self._segments[1:]):
                break
            oldest = self._segments[0]
            with self._fatal(f"cannot delete {oldest.path}"):
                self._files.unlink(oldest.path)
                # One at a time: unsynced deletions may come undone singly, and a gap would look like a lost segment.
                self._files.sync_directory(self._directory)
            del self._segments[0]
            freed += oldest.size_bytes
        self._outline.forget(index)
        needed = [mark for mark in self._marks if mark[0] > index]
        self._marks = [*self._marks[: len(self._marks) - len(needed)][-1:], *needed]
        return freed

    def close(self) -> None:
        """Close the files. Neither settles nor syncs."""
        if self._preparation is not None:
            self._preparation.abandon()
            self._preparation = None
        for segment in (*self._segments, *([self._next] if self._next else [])):
            self._close(segment)
        self._failure = self._failure or "the log is closed"

    # --- views, from any thread

    @property
    def begun(self) -> bool:
        """Whether the log holds a frame. Once it does, it always will."""
        return bool(self._segments)

    def bytes(self) -> int:
        """Size of all files of the log."""
        ready = self._next
        return sum(segment.size_bytes for segment in tuple(self._segments)) + (ready.size_bytes if ready else 0)

    def bytes_since(self, index: int) -> int:
        """Bytes of the frames written since entry `index` was (rule 20); too high by at most 256 KiB."""
        return self._written_bytes - bytes_at(self._marks, index)

    # --- inside

    def _write(self, frames: Sequence[_Flagged], spare: int) -> int:
        payloads = [encode_payload(frame) for frame, _ in frames]
        total = 0
        for payload in payloads:
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise ValueError(f"a frame of {len(payload)} bytes is too large")
            total += frame_bytes(len(payload))
        segment = self._room_for(total + spare)
        sequence = segment.sequence
        offset, follows, crc = segment.end, self._end, self._crc
        watermark = self._end
        buffers: list[_Bytes] = []
        for (frame, keeps_tail), payload in zip(frames, payloads, strict=True):
            header, crc = encode_header(
                segment.nonce, Position(sequence, offset), follows, watermark, crc, frame, keeps_tail, payload
            )
            length = frame_bytes(len(payload))
            buffers += (header, payload, bytes(length - HEADER_BYTES - len(payload)))
            offset += length
            follows = Position(sequence, offset)
        handle = self._open_handle(segment)
        try:
            self._files.write_durably(handle, buffers, segment.end)
        except OSError as error:
            # A file system that copies on write can lack space even here. What was torn stands after the end of the log
            # and links to nothing; the next try writes all of it anew.
            if space := out_of_space(error, segment.path):
                raise space from error
            raise self._poisoned(f"cannot write {segment.path}: {error}") from error
        self._written_bytes += total
        for frame, keeps_tail in frames:
            segment.note(frame, keeps_tail)
            if frame.entries:
                add_mark(self._marks, frame.entries[0].index, frame.entries[-1].index, self._written_bytes)
        self._hard_state = frames[-1][0].hard_state
        self._crc = crc
        segment.end = offset
        self._end = Position(sequence, offset)
        if segment is self._next:
            self._next = None
            if self._segments:
                self._close(self._segments[-1])
            self._segments.append(segment)
        return total

    def _room_for(self, need: int) -> Segment:
        """The segment to write `need` bytes to: the last one, or a complete new one, which is then `_next`."""
        if self._segments and self._segments[-1].end + need <= self._segments[-1].size_bytes:
            return self._segments[-1]
        size = SEGMENT_HEADER_BYTES + need
        if size > self._segment_bytes:
            if self._next is None or self._next.size_bytes < size:
                self._drop_unused()
                self._next = self._advance(self._new_segment(-(-size // 4096) * 4096), None)
        else:
            self.prepare()
        assert self._next is not None
        return self._next

    def _drop_unused(self) -> None:
        if self._preparation is not None:
            self._preparation.abandon()
            self._preparation = None
        if self._next is not None:
            unused, self._next = self._next, None
            with self._fatal(f"cannot delete {unused.path}"):
                self._close(unused)
                self._files.unlink(unused.path)
                self._files.sync_directory(self._directory)

    def _new_segment(self, size_bytes: int, nonce: _Bytes | None = None, frames: _Bytes = b"") -> Preparation:
        preparation = Preparation(
            self._directory, self._files, self._next_sequence, size_bytes, nonce or self._new_nonce(), frames
        )
        self._next_sequence += 1
        return preparation

    def _advance(self, preparation: Preparation, max_bytes: int | None) -> Segment | None:
        try:
            segment = preparation.advance(max_bytes)
        except OutOfSpace:
            self._preparation = None
            raise
        except WalFailed as failure:
            raise self._poisoned(str(failure)) from failure
        if segment is not None:
            self._preparation = None
        return segment

    def _resume(self, found: Scan) -> None:
        """Take over what `scan` found: publish the doubtful tail as one new segment, then drop what it supersedes.

        The segment is complete and durable before it has its name, with a settle frame at its end. So after a crash
        there is either the old tail or the whole new one, and damage to the new one is known as corruption at once.
        """
        files, watermark = self._files, found.watermark
        recovered = found.recovered
        self._next_sequence = max(found.present, default=0) + 1
        self._hard_state = recovered.hard_state
        self._outline = found.outline
        self._written_bytes, self._marks = found.frame_bytes, found.marks
        if found.tail:
            self._publish(found)
        live = [segment for segment in found.segments if segment.sequence <= watermark.segment]
        self._segments[:0] = live
        for segment in live:
            if segment.sequence == watermark.segment:
                segment.end = min(segment.end, watermark.offset)
            if segment.size_bytes > segment.end:
                handle = files.open(segment.path)
                try:
                    files.truncate(handle, segment.end)
                    files.sync(handle)
                finally:
                    files.close(handle)
                segment.size_bytes = segment.end
        kept = {segment.sequence for segment in self._segments}
        for sequence in found.present:
            if sequence not in kept:
                files.unlink(segment_path(self._directory, sequence))
        files.sync_directory(self._directory)

    def _publish(self, found: Scan) -> None:
        nonce, sequence = self._new_nonce(), self._next_sequence
        offset, follows, crc = SEGMENT_HEADER_BYTES, found.watermark, found.tail_follows_crc
        watermark = found.watermark
        parts = []
        settle = Frame(found.tail[-1][0].hard_state)
        for frame, keeps_tail in (*found.tail, (settle, False)):
            if frame is settle:  # true to whoever reads it: the name comes after the sync
                watermark = follows
            payload = encode_payload(frame)
            length = frame_bytes(len(payload))
            header, crc = encode_header(
                nonce, Position(sequence, offset), follows, watermark, crc, frame, keeps_tail, payload
            )
            parts.append((header + payload).ljust(length, b"\0"))
            offset += length
            follows = Position(sequence, offset)
        segment = self._new_segment(offset, nonce, b"".join(parts)).advance()
        assert segment is not None
        segment.end = offset
        for frame, keeps_tail in found.tail:
            segment.note(frame, keeps_tail)
        self._segments.append(segment)
        self._end, self._crc = follows, crc

    def _open_handle(self, segment: Segment) -> int:
        if segment.handle is None:
            raise self._poisoned(f"{segment.path} is not open")
        return segment.handle

    def _close(self, segment: Segment) -> None:
        if segment.handle is not None:
            handle, segment.handle = segment.handle, None
            with contextlib.suppress(OSError):
                self._files.close(handle)

    def _fatal(self, what: str) -> contextlib.AbstractContextManager[None]:
        return _Fatal(self, what)

    def _poisoned(self, why: str) -> WalFailed:
        self._failure = self._failure or why
        return WalFailed(why)

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise WalFailed(self._failure)


class _Fatal(contextlib.AbstractContextManager[None]):
    """An OSError in its block ends the log."""

    def __init__(self, wal: Wal, what: str) -> None:
        self._wal = wal
        self._what = what

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise self._wal._poisoned(f"{self._what}: {error}") from error
