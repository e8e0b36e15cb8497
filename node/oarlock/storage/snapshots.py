"""Snapshots on disk: `<term>-<index>/` with the state file and `meta`, published whole by renaming the directory.

Rules of this module: a snapshot has its name only once its file and its meta are durable (rule 18); the latest is found
by numbers, never by the order of names (pitfall S11); a damaged one is set aside, never counted and never deleted in
place of a sound one (pitfall S12); two are kept, and every pinned one (rule 19).

Methods may be called from the loop's and from the snapshot thread; those that read or write whole files say so.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
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
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the meta file of a snapshot is damaged: {error}") from error


def _order(meta: SnapshotMeta) -> tuple[int, int]:
    return meta.term, meta.index


class SnapshotStore:
    """The snapshots in `directory`, which is made if absent. Raises OSError where the disk fails."""

    def __init__(self, directory: Path, files: FileSystem) -> None:
        self._directory = directory
        self._files = files
        self._pins: Counter[tuple[int, int]] = Counter()
        self._guard = threading.RLock()
        if not files.exists(directory):
            files.mkdir(directory)
            files.sync_directory(directory.parent)

    def metas(self) -> list[SnapshotMeta]:
        """Of every published snapshot, ascending by (term, index). A damaged meta file sets its snapshot aside.

        Raises NewerFormat.
        """
        found = []
        with self._guard:
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
            with self._guard:
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

    def latest_sound(self) -> SnapshotMeta | None:
        """The newest snapshot whose file verifies; damaged ones on the way are set aside. Reads whole files."""
        for meta in reversed(self.metas()):
            if self.verify(meta):
                return meta
            with self._guard:
                self._set_aside(self._home(meta).name)
        return None

    def damaged(self) -> list[str]:
        """Names of what was set aside; the files stay for a person to look at until the next `prune`."""
        return [name for name in self._files.listdir(self._directory) if name.startswith(_DAMAGED)]

    @contextlib.contextmanager
    def pinned(self, meta: SnapshotMeta) -> Iterator[Path]:
        """The state file, kept from deletion meanwhile."""
        self.pin(meta)
        try:
            yield self.path(meta)
        finally:
            self.unpin(meta)

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
        with self._guard:
            metas = self.metas()
            gone = [meta for meta in metas[:-KEPT] if self._pins[_order(meta)] <= 0]
            for meta in gone:
                self._discard(self._home(meta).name)
            if len(metas) >= KEPT:
                for name in self.damaged():
                    self._discard(name)
            return gone

    def discard_partial(self, keep: SnapshotMeta | None = None) -> None:
        """Delete what unfinished copies and transfers left, but for the one of `keep`."""
        kept = self.staging(keep).parent.name if keep is not None else None
        for name in self._files.listdir(self._directory):
            if name.startswith(_PARTIAL) and name != kept:
                remove_tree(self._files, self._directory / name)

    def _home(self, meta: SnapshotMeta) -> Path:
        return self._directory / f"{meta.term}-{meta.index}"

    def _set_aside(self, name: str) -> None:
        target = self._directory / f"{_DAMAGED}{name}"
        if self._files.exists(target):
            remove_tree(self._files, target)
        self._files.rename(self._directory / name, target)
        self._files.sync_directory(self._directory)

    def _discard(self, name: str) -> None:
        # Under a name that counts for nothing first: a crash half-way must not leave a snapshot without its file.
        doomed = self._directory / f"{_PARTIAL}discarded-{name}"
        if self._files.exists(doomed):
            remove_tree(self._files, doomed)
        self._files.rename(self._directory / name, doomed)
        self._files.sync_directory(self._directory)
        remove_tree(self._files, doomed)
