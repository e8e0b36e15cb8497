"""A member's data directory: who it is, that nobody else uses it, and how its last process ended.

    LOCK  identity  clean-stop  ballast  wal/  snapshots/  state/  quarantine-1/ ...

Rules of this module: one process at a time; data without an identity is never adopted, and an identity that was wiped
comes back as another incarnation (pitfall D15); data leaves by quarantine only, never by deletion; the clean-stop
marker counts once (rule 21).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from oarlock.storage.ballast import Ballast
from oarlock.storage.errors import Corrupt, DirectoryInUse, IdentityMismatch, StorageError
from oarlock.storage.files import FileSystem, RealFiles, read_file, replace_file
from oarlock.storage.identity import (
    INCARNATION_DIGITS,
    Identity,
    ResetRecord,
    check_name,
    decode_identity,
    encode_identity,
)

_DATA = ("wal", "snapshots", "state")
_RESETS_KEPT = 16


def random_incarnation() -> str:
    return secrets.token_hex(INCARNATION_DIGITS // 2)


class DataDirectory:
    """Made by `open`, which see for what is raised."""

    def __init__(
        self,
        path: Path,
        files: FileSystem,
        lock: int,
        identity: Identity,
        stopped_cleanly: bool,
        new_incarnation: Callable[[], str],
    ) -> None:
        self.path = path
        self.files = files
        self.ballast = Ballast(path / "ballast", files)
        self._lock = lock
        self._identity = identity
        self._stopped_cleanly = stopped_cleanly
        self._new_incarnation = new_incarnation

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        files: FileSystem | None = None,
        *,
        new_incarnation: Callable[[], str] = random_incarnation,
    ) -> DataDirectory:
        """Take the directory for this process; an absent or empty one becomes a new incarnation of `name`.

        Raises DirectoryInUse, IdentityMismatch, NewerFormat, Corrupt, ValueError (a bad name), OSError.
        """
        check_name(name)
        files = files or RealFiles()
        _make_directories(path, files)
        try:
            lock = files.lock(path / "LOCK")
        except BlockingIOError:
            raise DirectoryInUse(f"{path} is in use by another process") from None
        try:
            files.sync_directory(path)  # what is found shall stay: a process that was killed may not have come so far
            identity = _load_or_create(path, name, files, new_incarnation)
            if identity.pending_quarantine is not None:
                identity = _finish_quarantine(path, files, identity)
            stopped_cleanly = _consume_clean_stop(path, files)
        except BaseException:
            files.close(lock)
            raise
        return cls(path, files, lock, identity, stopped_cleanly, new_incarnation)

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def state(self) -> Path:
        return self.path / "state"

    def save(self, identity: Identity) -> None:
        """Replace the identity, atomically and durably. Raises ValueError for another node's, OSError."""
        if (identity.name, identity.node_id) != (self._identity.name, self._identity.node_id):
            raise ValueError("a node id changes by quarantine only")
        replace_file(self.files, self.path / "identity", encode_identity(identity))
        self._identity = identity

    @property
    def stopped_cleanly(self) -> bool:
        """Did the process before this one mark a clean stop? Then what is here is durable, and whole (rule 21)."""
        return self._stopped_cleanly

    def mark_clean_stop(self) -> None:
        """The last thing a clean stop does, after everything is synced. The next `open` consumes it. Raises OSError."""
        replace_file(self.files, self.path / "clean-stop", b"")

    def quarantine(self, request_id: str = "") -> Path:
        """Put all data aside and become a new incarnation that belongs to no cluster; where the old data is now.

        The log and the environment must be closed. With `request_id` the reset is recorded in the new identity.
        Crash-safe: the old id is gone for good before the first file moves, and the next `open` moves what is left.
        Raises OSError.
        """
        self._stopped_cleanly = False  # also where it fails: who set out for a reset may have left its state unsynced
        old = self._identity
        number = 1 + max((int(name.rpartition("-")[2]) for name in self._quarantines()), default=0)
        target = self.path / f"quarantine-{number}"
        self.files.mkdir(target)
        replace_file(self.files, target / "identity", encode_identity(old))
        self.files.sync_directory(self.path)
        node_id = f"{old.name}-{self._new_incarnation()}"
        record = (ResetRecord(request_id, old.node_id, node_id, target.name),) if request_id else ()
        fresh = Identity(
            name=old.name,
            node_id=node_id,
            pod_uid=old.pod_uid,
            volume_uid=old.volume_uid,
            reset_requests=(*old.reset_requests, *record)[-_RESETS_KEPT:],
            pending_quarantine=target.name,
        )
        replace_file(self.files, self.path / "identity", encode_identity(fresh))
        self._identity = fresh
        self._identity = _finish_quarantine(self.path, self.files, fresh)
        return target

    def free_bytes(self) -> int:
        """Space that this member may still use."""
        return self.files.free_bytes(self.path)

    def close(self) -> None:
        """Give the directory up."""
        if self._lock >= 0:
            self.files.close(self._lock)
            self._lock = -1

    def _quarantines(self) -> list[str]:
        """All but what a reset that failed has left: the next one uses that."""
        names = [n for n in self.files.listdir(self.path) if n.startswith("quarantine-") and n[11:].isdigit()]
        return [name for name in names if self.files.exists(self.path / name / "identity")]


def _make_directories(path: Path, files: FileSystem) -> None:
    """At the first start; their names are durable when it returns. Those that were there are made durable as well, as
    far as this process may: one that was killed may have left them."""
    if files.exists(path / "identity"):
        return
    for new in [one for one in reversed((path, *path.parents)) if not files.exists(one)]:
        files.mkdir(new)
        files.sync_directory(new.parent)
    for parent in path.parents:
        with contextlib.suppress(OSError):  # others' directories; what is wrong with our disk is found in our own
            files.sync_directory(parent)


def _load_or_create(path: Path, name: str, files: FileSystem, new_incarnation: Callable[[], str]) -> Identity:
    file = path / "identity"
    if not files.exists(file):
        if orphans := [part for part in _DATA if files.exists(path / part)]:
            raise Corrupt(f"{path} holds {', '.join(orphans)} but no identity; it cannot be told whose data that is")
        identity = Identity(name=name, node_id=f"{name}-{new_incarnation()}")
        replace_file(files, file, encode_identity(identity))
        return identity
    identity = decode_identity(read_file(files, file))
    if identity.name != name:
        raise IdentityMismatch(f"{path} belongs to the member {identity.name!r}, not to {name!r}")
    if identity.node_id.rpartition("-")[0] != name:
        raise Corrupt(f"{path}: the node id {identity.node_id!r} is not one of {name!r}")
    return identity


def _finish_quarantine(path: Path, files: FileSystem, identity: Identity) -> Identity:
    if identity.pending_quarantine is None:
        raise StorageError("no quarantine is pending")
    target = path / identity.pending_quarantine
    for part in _DATA:
        if files.exists(path / part):
            files.rename(path / part, target / part)
    files.sync_directory(target)
    files.sync_directory(path)
    done = msgspec.structs.replace(identity, pending_quarantine=None)
    replace_file(files, path / "identity", encode_identity(done))
    return done


def _consume_clean_stop(path: Path, files: FileSystem) -> bool:
    """Was it marked? The mark is gone for good before anything else is written."""
    marker = path / "clean-stop"
    if not files.exists(marker):
        return False
    files.unlink(marker)
    files.sync_directory(path)
    return True
