"""The file system, as far as storage uses it. Every byte that storage keeps goes through here, so that a simulated
disk can stand below the real code.

Rules of this module: a write is whole or raises OSError; nothing is durable before `sync` (contents) and
`sync_directory` (names) have returned; nothing here retries.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1024 * 1024
_MAX_BUFFERS = 512  # below IOV_MAX (1024)


class FileSystem(Protocol):
    """Handles are integers. Every method may raise OSError; offsets, lengths and sizes are bytes."""

    def create(self, path: Path) -> int:
        """Make a new empty file, mode 0600, for reading and writing; FileExistsError if there is one."""
        ...

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        ...

    def lock(self, path: Path) -> int:
        """Make or open `path` and take its lock until closed; BlockingIOError if another holds it."""
        ...

    def close(self, handle: int) -> None: ...

    def read(self, handle: int, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end of the file."""
        ...

    def write(self, handle: int, buffers: Sequence[bytes], offset: int) -> None: ...

    def write_durably(self, handle: int, buffers: Sequence[bytes], offset: int) -> None:
        """`write`, durable when it returns. The file must have that space, and nothing else unsynced, already.

        An error says nothing about what reached the disk: whoever goes on must write all of it anew (pitfall D1).
        """
        ...

    def allocate(self, handle: int, length: int) -> None:
        """Give the file real space for `length` bytes, which read as zeros."""
        ...

    def truncate(self, handle: int, length: int) -> None: ...

    def sync(self, handle: int) -> None:
        """Contents and size of the file are durable when this returns."""
        ...

    def size(self, handle: int) -> int: ...

    def exists(self, path: Path) -> bool: ...

    def is_directory(self, path: Path) -> bool: ...

    def mkdir(self, path: Path) -> None:
        """Make one directory, mode 0700; nothing if it is there."""
        ...

    def listdir(self, path: Path) -> list[str]:
        """Names, sorted."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Atomic, within one directory or between two; replaces a file."""
        ...

    def unlink(self, path: Path) -> None: ...

    def rmdir(self, path: Path) -> None: ...

    def sync_directory(self, path: Path) -> None:
        """Names made, renamed or removed directly in `path` are durable when this returns (pitfall D10)."""
        ...

    def free_bytes(self, path: Path) -> int: ...


class RealFiles:
    """The operating system's files (Linux)."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def lock(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def close(self, handle: int) -> None:
        os.close(handle)

    def read(self, handle: int, length: int, offset: int) -> bytes:
        first = os.pread(handle, length, offset)
        if len(first) == length or not first:
            return first
        parts, got = [first], len(first)
        while got < length and (part := os.pread(handle, length - got, offset + got)):
            parts.append(part)
            got += len(part)
        return b"".join(parts)

    def write(self, handle: int, buffers: Sequence[bytes], offset: int) -> None:
        self._write(handle, buffers, offset, 0)

    def write_durably(self, handle: int, buffers: Sequence[bytes], offset: int) -> None:
        # One call, not a write and a sync: between the two, a thread would wait for the interpreter's lock.
        if len(buffers) <= _MAX_BUFFERS:
            try:
                self._write(handle, buffers, offset, os.RWF_DSYNC)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            else:
                return
        self._write(handle, buffers, offset, 0)
        os.fdatasync(handle)

    def _write(self, handle: int, buffers: Sequence[bytes], offset: int, flags: int) -> None:
        for start in range(0, len(buffers), _MAX_BUFFERS):
            group = buffers[start : start + _MAX_BUFFERS]
            want = sum(map(len, group))
            done = os.pwritev(handle, group, offset, flags)
            if done < want:  # signals, quotas and the 2 GiB limit of the kernel cut a write short
                rest = memoryview(b"".join(group))
                while done < want:
                    done += os.pwritev(handle, [rest[done:]], offset + done, flags)
            offset += want

    def allocate(self, handle: int, length: int) -> None:
        os.posix_fallocate(handle, 0, length)

    def truncate(self, handle: int, length: int) -> None:
        os.ftruncate(handle, length)

    def sync(self, handle: int) -> None:
        os.fdatasync(handle)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def mkdir(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def listdir(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


def read_file(files: FileSystem, path: Path) -> bytes:
    """The whole of a file. Raises FileNotFoundError, OSError."""
    handle = files.open(path)
    try:
        return files.read(handle, files.size(handle), 0)
    finally:
        files.close(handle)


def write_file(files: FileSystem, path: Path, data: bytes) -> None:
    """Make `path` with exactly `data`, contents durable; the name is not, until its directory is synced."""
    handle = files.create(path)
    try:
        files.write(handle, (data,), 0)
        files.sync(handle)
    finally:
        files.close(handle)


def replace_file(files: FileSystem, path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically and durably: temporary file, sync, rename, directory sync (pitfall D10)."""
    temporary = path.with_name(path.name + ".tmp")
    if files.exists(temporary):  # of a crash in here; never read
        files.unlink(temporary)
    write_file(files, temporary, data)
    files.rename(temporary, path)
    files.sync_directory(path.parent)


def remove_tree(files: FileSystem, path: Path) -> None:
    """Remove a file, or a directory with all it holds. Not durable before the parent is synced."""
    if not files.is_directory(path):
        files.unlink(path)
        return
    for name in files.listdir(path):
        remove_tree(files, path / name)
    files.rmdir(path)
