"""Snapshots on disk: `<term>-<index>/` with the state file and `meta`, published whole by renaming the directory.

Rules of this module: a snapshot has its name only once its file and its meta are durable (rule 18); the latest is found
by numbers, never by the order of names (pitfall S11); a damaged one is set aside, never counted and never deleted in
place of a sound one (pitfall S12); two are kept, and every pinned one (rule 19).

Methods belong to one thread, the snapshot thread, and may block; but `pin`, `unpin` and `path` are for any thread and
never wait for the disk.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from pathlib import Path

import msgspec
from google_crc32c import value as crc32c

from oarlock.raft.types import SnapshotMeta
from oarlock.storage.errors import Corrupt, NewerFormat, WalFailed, out_of_space
from oarlock.storage.files import CHUNK_BYTES, FileSystem, read_file, remove_tree, write_file

FORMAT_VERSION = 1
KEPT = 2
STATE_FILE = "state.mdb"
_META_FILE = "meta"
_MAGIC = b"OarM"
_NAME = re.compile(r"(\d+)-(\d+)")
_PARTIAL = "partial-"
_DAMAGED = "damaged-"
_meta_decoder = msgspec.msgpack.Decoder(SnapshotMeta)


def digest_file(path: Path, files: FileSystem) -> tuple[str, int]:
    """(hex SHA-256, size in bytes) of a file. Reads all of it, with the GIL released while hashing. Raises OSError."""
    digest, offset = hashlib.sha256(), 0
    handle = files.open(path)
    try:
        while part := files.read(handle, CHUNK_BYTES, offset):
            digest.update(part)
            offset += len(part)
    finally:
        files.close(handle)
    return digest.hexdigest(), offset


def _crc(data: bytes) -> bytes:
    crc: int = crc32c(data)
    return crc.to_bytes(4, "little")


def encode_meta(meta: SnapshotMeta) -> bytes:
    body = _MAGIC + FORMAT_VERSION.to_bytes(2, "little") + msgspec.msgpack.encode(meta)
    return body + _crc(body)


def decode_meta(data: bytes) -> SnapshotMeta:
    """Raises Corrupt, NewerFormat."""
    body, crc = data[:-4], data[-4:]
    if len(data) < 10 or _crc(body) != crc or body[:4] != _MAGIC:
        raise Corrupt("the meta file of a snapshot is damaged")
    version = int.from_bytes(body[4:6], "little")
    if version > FORMAT_VERSION:
        raise NewerFormat(f"a snapshot has format version {version}; this version reads up to {FORMAT_VERSION}")
    try:
        return _meta_decoder.decode(body[6:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the meta file of a snapshot is damaged: {error}") from error


def _order(meta: SnapshotMeta) -> tuple[int, int]:
    return meta.term, meta.index


class SnapshotStore:
    """The snapshots in `directory`, which is made if absent. Raises OSError where the disk fails."""

    def __init__(self, directory: Path, files: FileSystem) -> None:
        self._directory = directory
        self._files = files
        self._pins: Counter[tuple[int, int]] = Counter()
        self._guard = threading.Lock()  # of the pins, and of the choice of what is deleted; never held over a sync
        if not files.exists(directory):
            files.mkdir(directory)
            files.sync_directory(directory.parent)
        files.sync_directory(directory)  # a process that was killed may have left names that are not durable

    def metas(self) -> list[SnapshotMeta]:
        """Of every published snapshot, ascending by (term, index). A damaged meta file sets its snapshot aside.

        Raises NewerFormat.
        """
        found = []
        for name in self._files.listdir(self._directory):
            if match := _NAME.fullmatch(name):
                try:
                    meta = decode_meta(read_file(self._files, self._directory / name / _META_FILE))
                    if _order(meta) != (int(match[1]), int(match[2])):
                        raise Corrupt(f"{name} holds the snapshot {meta.term}-{meta.index}")
                except (Corrupt, FileNotFoundError):
                    self._set_aside(name)
                    continue
                found.append(meta)
        return sorted(found, key=_order)

    def path(self, meta: SnapshotMeta) -> Path:
        """The published state file. It must not be changed."""
        return self._home(meta) / STATE_FILE

    def staging(self, meta: SnapshotMeta) -> Path:
        """Where to write the file that will be published as `meta`; what a broken transfer left there may be continued.

        A local copy, whose digest is not known yet, has "" for it.
        """
        home = self._directory / f"{_PARTIAL}{meta.term}-{meta.index}-{meta.digest[:16] or 'local'}"
        self._files.mkdir(home)
        return home / STATE_FILE

    def publish(self, path: Path, meta: SnapshotMeta) -> SnapshotMeta:
        """Make the staged file at `path` a snapshot: durable under its name when it returns. Older ones than two go.

        `path` is what `staging` gave, and its contents are what `meta` says: the caller has computed or compared the
        digest. If there is a sound one of that place already, that one stays and is returned (its file is read whole).
        Raises OutOfSpace (try again later), WalFailed.
        """
        home = self._home(meta)
        staged = path.parent
        try:
            present = next((have for have in self.metas() if _order(have) == _order(meta)), None)
            if present is not None:
                if self.verify(present):
                    remove_tree(self._files, staged)
                    return present
                self._set_aside(home.name)
            if self._files.exists(staged / _META_FILE):  # of a try that ran out of space
                self._files.unlink(staged / _META_FILE)
            write_file(self._files, staged / _META_FILE, encode_meta(meta))
            handle = self._files.open(path)
            try:
                self._files.sync(handle)
            finally:
                self._files.close(handle)
            self._files.sync_directory(staged)
            self._files.rename(staged, home)
            self._files.sync_directory(self._directory)
            self.prune()
        except OSError as error:
            raise out_of_space(error, path) or WalFailed(f"cannot publish {home}: {error}") from error
        return meta

    def verify(self, meta: SnapshotMeta) -> bool:
        """Whether the published file has the digest and size of `meta`. Reads all of it."""
        try:
            return digest_file(self.path(meta), self._files) == (meta.digest, meta.size_bytes)
        except FileNotFoundError:
            return False

    def set_aside(self, meta: SnapshotMeta) -> None:
        """Count a snapshot whose file does not verify no longer."""
        self._set_aside(self._home(meta).name)

    def damaged(self) -> list[str]:
        """Names of what was set aside; the files stay for a person to look at until the next `prune`."""
        return [name for name in self._files.listdir(self._directory) if name.startswith(_DAMAGED)]

    def pin(self, meta: SnapshotMeta) -> None:
        """Keep `meta` from deletion until as many `unpin`."""
        with self._guard:
            self._pins[_order(meta)] += 1

    def unpin(self, meta: SnapshotMeta) -> None:
        """Takes effect at the next `prune`."""
        with self._guard:
            self._pins[_order(meta)] -= 1

    def prune(self) -> list[SnapshotMeta]:
        """Delete all but the newest two and the pinned ones, and say which; damaged ones too, if two others stay."""
        metas = self.metas()
        with self._guard:
            gone = [meta for meta in metas[:-KEPT] if self._pins[_order(meta)] <= 0]
            names = [self._home(meta).name for meta in gone]
            if len(metas) >= KEPT:
                names += self.damaged()
            # Under a name that counts for nothing first: a crash half-way must not leave a snapshot without its file.
            for name in names:
                self._files.rename(self._directory / name, self._directory / f"{_PARTIAL}discarded-{name}")
        if names:
            self._files.sync_directory(self._directory)
        for name in names:
            remove_tree(self._files, self._directory / f"{_PARTIAL}discarded-{name}")
        return gone

    def discard_partial(self) -> None:
        """Delete what unfinished copies, transfers and deletions left. For a start: nothing may be under way."""
        for name in self._files.listdir(self._directory):
            if name.startswith(_PARTIAL):
                remove_tree(self._files, self._directory / name)

    def _home(self, meta: SnapshotMeta) -> Path:
        return self._directory / f"{meta.term}-{meta.index}"

    def _set_aside(self, name: str) -> None:
        target = self._directory / f"{_DAMAGED}{name}"
        if self._files.exists(target):
            remove_tree(self._files, target)
        self._files.rename(self._directory / name, target)
        self._files.sync_directory(self._directory)
