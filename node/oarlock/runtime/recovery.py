"""From a data directory to a member's state: what a start trusts, and what it rebuilds (rules 2-4, 18, 21).

Two rules: only the snapshot and the log are the truth, the working state is a cache; everything returned is durable.
All of it blocks, and runs in a thread while the loop answers probes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from oarlock.machine.environment import Environment
from oarlock.machine.errors import OutOfSpace
from oarlock.machine.protocol import Machine
from oarlock.raft.types import NOBODY, Entry, HardState, SnapshotMeta
from oarlock.storage import errors as storage_errors
from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import SPACE_ERRNOS, Corrupt
from oarlock.storage.frame import Frame
from oarlock.storage.recovery import Recovered as LogRecovered
from oarlock.storage.snapshots import SnapshotStore
from oarlock.storage.wal import Wal, random_nonce

log = structlog.get_logger()

COPY_CHUNK_BYTES = 64 << 20
PLAIN_CHUNK_BYTES = 1 << 20
_NO_KERNEL_COPY = frozenset((errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL))  # not on this file system


@dataclass(slots=True)
class Recovered:
    wal: Wal
    store: SnapshotStore
    snapshot: SnapshotMeta | None
    hard_state: HardState
    entries: tuple[Entry, ...]
    environment: Environment
    cut_bytes: int
    reused_state: bool

    def close(self) -> None:
        """For a start that was broken off."""
        self.environment.close()
        self.wal.close()


def recover(
    directory: DataDirectory, machine: Machine, segment_bytes: int, new_nonce: Callable[[], bytes] = random_nonce
) -> Recovered:
    """Opens log, snapshots and state. Raises storage.errors.Corrupt where the log or every snapshot is damaged,
    or the log gone; OutOfSpace (of the storage, or the machine) and OSError where nothing is wrong with them."""
    files = directory.files
    store = SnapshotStore(directory.snapshots, files)
    store.discard_partial()
    with contextlib.ExitStack() as unless_whole:
        try:
            wal, log = Wal.open(directory.wal, files, segment_bytes=segment_bytes, new_nonce=new_nonce)
        except storage_errors.OutOfSpace:
            if not directory.stopped_cleanly:
                drop_states(directory)  # it would not be believed, and nobody else may make room for the log
            raise
        unless_whole.callback(wal.close)
        if directory.identity.cluster_id is not None and not wal.begun:
            raise Corrupt("this member belongs to a cluster, and its log is gone")  # its votes, too (pitfall D15)
        snapshot = _base(store, log.marker, log.entries)
        entries = _after(snapshot, log.entries)
        last_index = entries[-1].index if entries else snapshot.index if snapshot else 0
        base_index = snapshot.index if snapshot else 0
        environment, reused = _open_state(directory, machine, store, snapshot, entries)
        unless_whole.callback(environment.close)
        commit = min(max(log.hard_state.commit, base_index, environment.applied.index), last_index)
        term, vote = log.hard_state.term, log.hard_state.vote
        if snapshot is not None and snapshot.term > term:  # it came before its leader's term was written
            term, vote = snapshot.term, NOBODY
        hard_state = HardState(term, vote, commit)
        if snapshot is not None and not _connected(snapshot, log):
            # Published, and the process ended before the marker was durable. Without it what is appended next would
            # leave a gap in the log, or stand behind entries that the snapshot contradicts.
            wal.append([Frame(hard_state, (), snapshot)])
        unless_whole.pop_all()
    return Recovered(wal, store, snapshot, hard_state, entries, environment, log.cut_bytes, reused)


def _base(store: SnapshotStore, marker: SnapshotMeta | None, entries: tuple[Entry, ...]) -> SnapshotMeta | None:
    """The newest sound snapshot that the log continues; an older one if the newest is damaged (two are kept)."""
    for meta in reversed(store.metas()):
        if not store.verify(meta):
            log.error("a snapshot is damaged: it is set aside", index=meta.index, term=meta.term)
            store.set_aside(meta)
            continue
        if marker is not None and meta.index < marker.index:
            break  # the log restarts after a later one: this cannot be continued
        if entries and entries[0].index > meta.index + 1:
            break
        return meta
    if marker is not None or (entries and entries[0].index > 1):
        needed = marker.index if marker is not None else entries[0].index - 1
        what = ", ".join(store.damaged()) or "none fits"
        raise Corrupt(f"the log begins after index {needed} and no sound snapshot reaches it ({what})")
    return None


def _after(snapshot: SnapshotMeta | None, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The log after the snapshot; nothing of it if the log disagrees with what the snapshot says of its index."""
    if snapshot is None:
        return entries
    for entry in entries:
        if entry.index == snapshot.index and entry.term != snapshot.term:
            return ()
    return tuple(e for e in entries if e.index > snapshot.index)


def _connected(snapshot: SnapshotMeta, log: LogRecovered) -> bool:
    """Does the log on the disk go on from the snapshot as it is?"""
    if log.marker is not None and log.marker.index == snapshot.index:
        return True
    if not log.entries:
        return log.marker is None
    offset = snapshot.index - log.entries[0].index
    if offset < 0:
        return True  # it begins right after it
    return offset < len(log.entries) and log.entries[offset].term == snapshot.term


def _open_state(
    directory: DataDirectory,
    machine: Machine,
    store: SnapshotStore,
    snapshot: SnapshotMeta | None,
    entries: tuple[Entry, ...],
) -> tuple[Environment, bool]:
    current = newest_state(directory)
    if current is not None and directory.stopped_cleanly and _vouched_for(current, snapshot, entries):
        drop_states(directory, but=current)
        return Environment.open(current, machine), True
    fresh = next_state(directory)
    drop_states(directory)  # first: the copy may need their space
    if snapshot is not None:
        copy_state(store.path(snapshot), fresh)
    return Environment.open(fresh, machine), False


def _vouched_for(path: Path, snapshot: SnapshotMeta | None, entries: tuple[Entry, ...]) -> bool:
    """Rule 21: is the state at a place that the recovered log or the snapshot has, too?"""
    applied = Environment.peek(path)
    if applied is None:
        return False
    if snapshot is None and applied.index == 0:
        return True
    if snapshot is not None and (applied.index, applied.term) == (snapshot.index, snapshot.term):
        return True
    if not entries or not entries[0].index <= applied.index <= entries[-1].index:
        return False
    return entries[applied.index - entries[0].index].term == applied.term


def sync_state(directory: DataDirectory) -> None:
    """Before a clean stop: makes the newest state durable, which the next start may reuse, and that it is the newest: a
    power loss could bring one back that it has replaced. Raises OSError; it must not be tried again (pitfall D1)."""
    path, files = newest_state(directory), directory.files
    assert path is not None, "a state is in use"
    handle = files.open(path)
    try:
        files.sync(handle)
    finally:
        files.close(handle)
    files.sync_directory(path.parent)


def newest_state(directory: DataDirectory) -> Path | None:
    return max(_states(directory), key=_number, default=None)


def next_state(directory: DataDirectory) -> Path:
    """The path after the newest: a new state never replaces the file that readers may hold (rule 18)."""
    directory.state.mkdir(mode=0o700, exist_ok=True)
    return directory.state / f"state-{max(map(_number, _states(directory)), default=0) + 1}.mdb"


def drop_states(directory: DataDirectory, but: Path | None = None) -> None:
    """Deletes all states, or all `but` one, and what copies left behind."""
    if not directory.state.is_dir():
        return
    for path in directory.state.iterdir():
        if but is None or not path.name.startswith(but.name):
            path.unlink() if path.is_file() else shutil.rmtree(path)


def _states(directory: DataDirectory) -> list[Path]:
    if not directory.state.is_dir():
        return []
    return [p for p in directory.state.glob("state-*.mdb") if p.stem.removeprefix("state-").isdigit()]


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("state-"))


def copy_state(source: Path, destination: Path) -> None:
    """Copies in the kernel: a reflink where the file system has it. Where it cannot, plainly; the GIL is free
    meanwhile either way. Not synced.

    Raises OutOfSpace (nothing is left of the copy), OSError.
    """
    partial = destination.with_suffix(".partial")
    try:
        with source.open("rb") as src, partial.open("wb") as dst:
            size = os.fstat(src.fileno()).st_size
            try:
                _copy_in_kernel(src.fileno(), dst.fileno(), size)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                src.seek(0)
                dst.seek(0)
                shutil.copyfileobj(src, dst, PLAIN_CHUNK_BYTES)
                if dst.tell() != size:
                    raise OSError(f"{source} has {size} bytes, and {dst.tell()} were copied") from error
        partial.rename(destination)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in SPACE_ERRNOS:
            raise OutOfSpace(f"no space for a copy of {source}") from error
        raise


def _copy_in_kernel(source: int, destination: int, size: int) -> None:
    left = size
    while left > 0:
        copied = os.copy_file_range(source, destination, min(left, COPY_CHUNK_BYTES))
        if copied == 0:
            raise OSError(f"the file ended {left} bytes early while it was copied")
        left -= copied
