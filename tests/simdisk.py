"""A disk that forgets: the FileSystem of oarlock.storage, in memory, with what real disks do to unsynced data.

Rules of this module: all randomness is injected; what was synced (contents by `sync`, names by `sync_directory`)
survives everything but `flip` and `lying`; what was not survives in any subset, contents by sectors of 512 bytes, names
singly (a rename is one change: the old name and the new one are never there both, nor neither).

    disk = SimulatedFiles(random.Random(1))
    disk.power_loss()            # unsynced data is lost in part, every handle and lock is gone
    disk.kill()                  # the process alone: what it wrote stays readable, though it is not durable yet
    disk.fail = hook             # hook(operation, path) before each operation; raise OSError(EIO), or Crash
    disk.capacity_bytes = 4096   # ENOSPC beyond it
"""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR = 512


class Crash(BaseException):
    """The machine stops here. Not an Exception: code under test must not be able to handle it."""


@dataclass(eq=False)
class _File:
    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, bytes | None]] = field(
        default_factory=list
    )  # (offset, bytes), or (length, None): truncate

    def __deepcopy__(self, memo: object) -> _File:  # what is slow otherwise; tests copy disks by the ten thousand
        return _File(bytearray(self.live), bytearray(self.durable), list(self.changes))


@dataclass(eq=False)
class _Fate:
    """Of one change, which may stand in two directories: undecided until a sync or a loss."""

    survives: bool | None = None


@dataclass(eq=False)
class _Rename:
    """A change of names: also a creation (nothing removed) or a removal (nothing added)."""

    removed: tuple[str, ...]
    added: dict[str, _Node]
    fate: _Fate


@dataclass(eq=False)
class _Directory:
    live: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)
    changes: list[_Rename] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Directory:
        def nodes(named: dict[str, _Node]) -> dict[str, _Node]:
            return {name: copy.deepcopy(node, memo) for name, node in named.items()}

        changes = [_Rename(c.removed, nodes(c.added), copy.deepcopy(c.fate, memo)) for c in self.changes]
        return _Directory(nodes(self.live), nodes(self.durable), changes)


_Node = _File | _Directory
_Hook = Callable[[str, Path], None]


def healthy(operation: str, path: Path) -> None:
    pass


class SimulatedFiles:
    def __init__(self, rng: random.Random | None = None) -> None:
        self.rng = rng or random.Random(0)
        self.fail: _Hook = healthy
        self.capacity_bytes: int | None = None
        self.lying = False  # syncs do nothing: the negative control
        self.operations: list[tuple[str, str]] = []  # (operation, name of the file), for tests of order
        self._root = _Directory()
        self._handles: dict[int, tuple[_File, Path]] = {}
        self._locks: dict[int, _File] = {}
        self._next_handle = 100

    # --- what happens to disks

    def kill(self) -> None:
        """The process ends without a word."""
        self._handles.clear()
        self._locks.clear()

    def power_loss(self, survives: float | None = None) -> None:
        """Every unsynced change is kept with probability `survives` (default: drawn; 0 loses all, 1 keeps all)."""
        self.kill()
        chance = self.rng.choice((0.0, 0.5, 0.9, 1.0, self.rng.random())) if survives is None else survives
        self._lose(self._root, chance, set())

    def flip(self, path: Path, offset: int, bit: int) -> None:
        """One bit on the medium turns over."""
        file = self._file(path)
        for data in (file.live, file.durable):
            if offset < len(data):
                data[offset] ^= 1 << bit

    def cut(self, path: Path, length: int) -> None:
        """The file ends early."""
        file = self._file(path)
        del file.live[length:], file.durable[length:]

    def contents(self, path: Path) -> bytes:
        return bytes(self._file(path).live)

    def used_bytes(self) -> int:
        return self._used(self._root)

    def open_handles(self) -> int:
        return len(self._handles)

    # --- the FileSystem

    def create(self, path: Path) -> int:
        parent = self._begin("create", path)
        if path.name in parent.live:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._need(0)
        file = _File()
        self._alter(parent, (), {path.name: file})
        return self._handle(file, path)

    def open(self, path: Path) -> int:
        self._begin("open", path)
        return self._handle(self._file(path), path)

    def lock(self, path: Path) -> int:
        parent = self._begin("lock", path)
        node = parent.live.get(path.name)
        file = node if isinstance(node, _File) else _File()
        if node is None:
            self._alter(parent, (), {path.name: file})
        if any(held is file for held in self._locks.values()):
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", str(path))
        handle = self._handle(file, path)
        self._locks[handle] = file
        return handle

    def close(self, handle: int) -> None:
        del self._handles[handle]
        self._locks.pop(handle, None)

    def read(self, handle: int, length: int, offset: int) -> bytes:
        file, path = self._handles[handle]
        self._begin("read", path)
        return bytes(file.live[offset : offset + length])

    def write(self, handle: int, buffers: Sequence[bytes], offset: int) -> None:
        file, path = self._handles[handle]
        data = b"".join(buffers)
        try:
            self._begin("write", path)
            self._need(max(0, offset + len(data) - len(file.live)))
        except (OSError, Crash):
            part = self.rng.randrange(len(data) + 1)  # a write that fails, or is cut off, may have happened in part
            growth = max(0, offset + part - len(file.live))
            if self.capacity_bytes is None or self.used_bytes() + growth <= self.capacity_bytes:
                self._change(file, offset, data[:part])
            raise
        self._change(file, offset, data)

    def write_durably(self, handle: int, buffers: Sequence[bytes], offset: int) -> None:
        self.write(handle, buffers, offset)
        self.sync(handle)

    def allocate(self, handle: int, length: int) -> None:
        file, path = self._handles[handle]
        self._begin("allocate", path)
        self._need(max(0, length - len(file.live)))
        self._change(file, len(file.live), bytes(max(0, length - len(file.live))))

    def truncate(self, handle: int, length: int) -> None:
        file, path = self._handles[handle]
        self._begin("truncate", path)
        _apply(file.live, length, None)
        file.changes.append((length, None))

    def sync(self, handle: int) -> None:
        file, path = self._handles[handle]
        try:
            self._begin("sync", path)
        except OSError:
            # ATC '20 (Rebello et al.): pages are marked clean though they never reached the disk. They stay readable,
            # and a later sync, which succeeds, does not write them.
            file.changes.clear()
            raise
        if not self.lying:
            for offset, data in file.changes:
                _apply(file.durable, offset, data)
            file.changes.clear()

    def size(self, handle: int) -> int:
        return len(self._handles[handle][0].live)

    def exists(self, path: Path) -> bool:
        try:
            self._node(path)
        except FileNotFoundError:
            return False
        return True

    def is_directory(self, path: Path) -> bool:
        return self.exists(path) and isinstance(self._node(path), _Directory)

    def mkdir(self, path: Path) -> None:
        parent = self._begin("mkdir", path)
        if path.name not in parent.live:
            self._alter(parent, (), {path.name: _Directory()})

    def listdir(self, path: Path) -> list[str]:
        return sorted(self._directory(path).live)

    def rename(self, old: Path, new: Path) -> None:
        self._begin("rename", old)
        source, target = self._directory(old.parent), self._directory(new.parent)
        node, replaced = self._node(old), target.live.get(new.name)
        if isinstance(replaced, _Directory) and replaced.live:
            raise OSError(errno.ENOTEMPTY, "not empty", str(new))
        self._handles = {
            handle: (file, new if file is node else path) for handle, (file, path) in self._handles.items()
        }
        if source is target:
            self._alter(source, (old.name,), {new.name: node})
        else:
            fate = _Fate()
            self._alter(target, (), {new.name: node}, fate)
            self._alter(source, (old.name,), {}, fate)

    def unlink(self, path: Path) -> None:
        parent = self._begin("unlink", path)
        self._file(path)
        self._alter(parent, (path.name,), {})

    def rmdir(self, path: Path) -> None:
        parent = self._begin("rmdir", path)
        if self._directory(path).live:
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self._alter(parent, (path.name,), {})

    def sync_directory(self, path: Path) -> None:
        self._begin("sync_directory", path)
        directory = self._directory(path)
        if not self.lying:
            directory.durable = dict(directory.live)
            for change in directory.changes:
                if change.added:  # syncing where a file was moved from says nothing about where it was moved to
                    change.fate.survives = True
            directory.changes.clear()

    def free_bytes(self, path: Path) -> int:
        return 2**40 if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    # --- inside

    def _begin(self, operation: str, path: Path) -> _Directory:
        self.operations.append((operation, path.name))
        self.fail(operation, path)
        return self._directory(path.parent)

    def _handle(self, file: _File, path: Path) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = (file, path)
        return self._next_handle

    def _node(self, path: Path) -> _Node:
        node: _Node = self._root
        for part in path.parts[1:]:
            if not isinstance(node, _Directory) or part not in node.live:
                raise FileNotFoundError(errno.ENOENT, "absent", str(path))
            node = node.live[part]
        return node

    def _file(self, path: Path) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise IsADirectoryError(errno.EISDIR, "a directory", str(path))
        return node

    def _directory(self, path: Path) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
        return node

    def _alter(
        self, directory: _Directory, removed: tuple[str, ...], added: dict[str, _Node], fate: _Fate | None = None
    ) -> None:
        for name in removed:
            del directory.live[name]
        directory.live.update(added)
        directory.changes.append(_Rename(removed, added, fate or _Fate()))

    def _change(self, file: _File, offset: int, data: bytes) -> None:
        _apply(file.live, offset, data)
        file.changes.append((offset, data))

    def _need(self, more: int) -> None:
        if self.capacity_bytes is not None and self.used_bytes() + more > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "no space")

    def _used(self, node: _Node) -> int:
        if isinstance(node, _File):
            return len(node.live)
        return sum(map(self._used, node.live.values()))

    def _lose(self, node: _Node, chance: float, seen: set[int]) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, _File):
            for offset, data in node.changes:
                self._survive(node.durable, offset, data, chance)
            node.changes.clear()
            node.live = bytearray(node.durable)
            return
        for change in node.changes:
            if change.fate.survives is None:
                change.fate.survives = self.rng.random() < chance
            if change.fate.survives:
                for name in change.removed:
                    node.durable.pop(name, None)
                node.durable.update(change.added)
        node.changes.clear()
        node.live = dict(node.durable)
        for child in node.live.values():
            self._lose(child, chance, seen)

    def _survive(self, durable: bytearray, offset: int, data: bytes | None, chance: float) -> None:
        if data is None:
            if self.rng.random() < chance:
                _apply(durable, offset, None)
            return
        at = offset
        while at < offset + len(data):
            end = min((at // SECTOR + 1) * SECTOR, offset + len(data))
            if self.rng.random() < chance:
                _apply(durable, at, data[at - offset : end - offset])
            at = end


def _apply(target: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del target[offset:]
        target.extend(bytes(offset - len(target)))
        return
    if not data:
        return
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


def crash_at(count: int) -> _Hook:
    """A hook that stops the machine at the operation number `count` (from 0) that changes anything."""
    left = [count]

    def hook(operation: str, path: Path) -> None:
        if operation in ("open", "read", "lock"):
            return
        if left[0] == 0:
            raise Crash
        left[0] -= 1

    return hook


def failing(operation: str, suffix: str = "", number: int = errno.EIO) -> _Hook:
    """A hook that fails every `operation` on names ending in `suffix` with an OSError."""

    def hook(what: str, path: Path) -> None:
        if what == operation and path.name.endswith(suffix):
            raise OSError(number, "injected", str(path))

    return hook
