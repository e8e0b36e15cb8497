"""A member's disk: the forgetful one of tests/simdisk, with LMDB's files beside it in real memory.

Rules of this module: LMDB opens files by name, so states and snapshots lie in a real directory too; a snapshot's file
obeys the simulated disk (what was not synced may be torn or gone after a power loss). A working state is synced by a
clean stop alone, and written back by the kernel now and then: after a power loss, each of its pages is as the last of
these found it, or as it was written since (rule 21), and each name that came or went since is there or not.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.simdisk import Crash, SimulatedFiles, _File, healthy
from tests.simulation.scheduler import THREAD_SECONDS, Loop

from oarlock.runtime.wal_thread import Durable, Item, Submission, WalThread
from oarlock.storage.snapshots import STATE_FILE
from oarlock.storage.wal import Wal

PAGE_BYTES = 4096
WRITEBACK = 50  # syncs of other files
FAST, SLOW = (0.0001, 0.0015), (0.02, 0.3)  # seconds of a write


class Disk(SimulatedFiles):
    """`root` is the real directory of the same name."""

    def __init__(self, rng: random.Random, root: Path) -> None:
        super().__init__(rng)
        self.root = root
        self.aside: Path | None = None  # where its real part lies while another is in its place
        self.slow = False
        self.hung = False
        self.waiting: list[Callable[[], None]] = []  # threads in a hung system call
        self._rotten: set[Path] = set()  # published snapshots, damaged under a member that does not know it
        self._states: dict[str, bytes] = {}  # working states, as much of them as is durable
        self._names: frozenset[str] = frozenset()  # of those, what is durable
        self._unwritten: set[int] = set()  # by a sync that failed; inodes, as names come again
        self._syncs = 0
        self._opened: dict[int, Path] = {}  # of those, by handle
        root.mkdir(parents=True)

    def write_seconds(self) -> float:
        return self.rng.uniform(*(SLOW if self.slow else FAST))

    def thread_seconds(self) -> float:
        """Of one piece of a member's work beside the log: a copy, a publication, a range of a snapshot written."""
        return self.rng.uniform(*THREAD_SECONDS) * (20 if self.slow else 1)

    def holds(self, go_on: Callable[[], None]) -> bool:
        """Does it hang? Then what the thread does next waits."""
        if self.hung:
            self.waiting.append(go_on)
        return self.hung

    def unhang(self) -> None:
        self.hung = False
        waiting, self.waiting = self.waiting, []
        for go_on in waiting:
            go_on()

    @property
    def _working(self) -> Path:
        return self.root / "state"

    # -- the mirror

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        if self.root in (path, *path.parents):
            path.mkdir(exist_ok=True)

    def open(self, path: Path) -> int:
        self._pull(path)
        if path.parent != self._working:
            return super().open(path)
        self.fail("open", path)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "absent", str(path))
        self._next_handle += 1
        self._opened[self._next_handle] = path
        return self._next_handle

    def close(self, handle: int) -> None:
        if self._opened.pop(handle, None) is None:
            super().close(handle)

    def sync(self, handle: int) -> None:
        path = self._opened.get(handle)
        if path is None:
            super().sync(handle)
            self._syncs += 1
            if self._syncs % WRITEBACK == 0:
                self._write_back()
            return
        written = path.read_bytes()
        try:
            self.fail("sync", path)
        except OSError:
            self._unwritten.add(path.stat().st_ino)
            raise
        if path.stat().st_ino in self._unwritten:  # its pages are marked clean all the same, as in tests/simdisk
            written = self._torn(self._states.get(path.name, b""), written)
        self._states[path.name] = written

    def sync_directory(self, path: Path) -> None:
        if path != self._working:
            super().sync_directory(path)
            return
        self.fail("sync_directory", path)
        self._names = frozenset(state.name for state in self._working_states())

    def exists(self, path: Path) -> bool:
        self._pull(path)
        return super().exists(path) or (path == self._working and path.exists())

    def listdir(self, path: Path) -> list[str]:
        self._pull(path / STATE_FILE)
        return super().listdir(path)

    def rename(self, old: Path, new: Path) -> None:
        if old.name == "state":  # of a quarantine; LMDB's alone
            old.rename(new)
            self._settle()
            return
        super().rename(old, new)
        if old.is_dir():
            old.rename(new)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        path.unlink(missing_ok=True)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        if path.is_dir():
            path.rmdir()

    def power_loss(self, survives: float | None = None) -> None:
        for path in sorted(self.root.rglob(STATE_FILE)):
            self._pull(path)
        super().power_loss(survives)
        for part in self.root.iterdir():
            if part.is_dir() and part.name != "state":
                self._push(part)
        for state in self._working_states():
            state.write_bytes(self._torn(self._states.get(state.name, b""), state.read_bytes()))
            if state.name not in self._names and self.rng.random() < 0.5:
                state.unlink()
        for name in sorted(self._names):
            if not (self._working / name).exists() and self.rng.random() < 0.5:
                (self._working / name).write_bytes(self._states.get(name, b""))
        self._settle()

    def _settle(self) -> None:
        """What there is, is all there is."""
        self._unwritten.clear()
        self._states = {}
        self._write_back()

    def _write_back(self) -> None:
        for path in self._working_states():
            if path.stat().st_ino not in self._unwritten:
                self._states[path.name] = path.read_bytes()
        self._names = frozenset(path.name for path in self._working_states())

    def _working_states(self) -> list[Path]:
        """And copies that were begun; not LMDB's lock files, which each process makes anew."""
        return sorted(path for path in self._working.glob("*") if not path.name.endswith("-lock"))

    def _torn(self, old: bytes, new: bytes) -> bytes:
        pages = []
        for at in range(0, max(len(old), len(new)), PAGE_BYTES):
            page = self.rng.choice((old, new))[at : at + PAGE_BYTES]
            pages.append(page.ljust(PAGE_BYTES, b"\0"))
        return b"".join(pages)

    def flip(self, path: Path, offset: int, bit: int) -> None:
        self._pull(path)
        super().flip(path, offset, bit)
        if path.exists():
            path.write_bytes(self.contents(path))

    def rot(self, path: Path) -> None:
        """A bit of a published snapshot, under the member that runs."""
        self.flip(path, self.rng.randrange(max(1, len(self.contents(path)))), self.rng.randrange(8))
        self._rotten.add(path)

    @property
    def rotten(self) -> bool:
        """Whether such a snapshot is still there."""
        return not self._rotten.isdisjoint(self.snapshot_files())

    def snapshot_files(self) -> list[Path]:
        """Of what is published."""
        return sorted((self.root / "snapshots").glob(f"[0-9]*/{STATE_FILE}"))

    def _pull(self, path: Path) -> None:
        """What LMDB or a fetch wrote to a snapshot's file is written, and not synced."""
        if path.name != STATE_FILE or not path.exists():
            return
        real = path.read_bytes()
        parent = self._directory(path.parent)
        node = parent.live.get(path.name)
        if node is None:
            node = _File()
            self._alter(parent, (), {path.name: node})
        assert isinstance(node, _File)
        if bytes(node.live) != real:
            if len(node.live) > len(real):
                node.live.clear()
                node.changes.append((0, None))
            self._change(node, 0, real)

    def _push(self, directory: Path) -> None:
        """The real directory becomes what the simulated one is."""
        if not super().exists(directory):
            shutil.rmtree(directory)
            return
        for name in os.listdir(directory):
            path = directory / name
            if path.is_dir():
                self._push(path)
            elif not super().exists(path):
                path.unlink()
        for name in super().listdir(directory):
            path = directory / name
            if self.is_directory(path):
                path.mkdir(exist_ok=True)
                self._push(path)
            elif name == STATE_FILE:
                path.write_bytes(self.contents(path))

    def is_directory(self, path: Path) -> bool:
        return SimulatedFiles.exists(self, path) and SimulatedFiles.is_directory(self, path)


class LogThread(WalThread):
    """The log's writer, its steps taken in virtual time: what is queued when one begins is written when it ends."""

    disk: Disk  # set by the process that makes the class its own

    def __init__(self, wal: Wal, loop: Loop, on_durable: Callable[[Durable], None], *rest: Any) -> None:
        def told(durable: Durable) -> None:
            last = durable.submissions[-1].token
            if any(
                isinstance(item, Submission) and item.token.term > last.term for item in (*self._taken, *self._queued)
            ):
                loop.world.reach("raft: a persist token of an old term")
            on_durable(durable)

        super().__init__(wal, loop, told, *rest)
        self._simulated = loop
        self._queued: deque[Item] = deque()
        self._taken: list[Item] = []
        self._busy = False
        self._round = 0
        self._joined = loop.create_future()

    def start(self) -> None:
        self._busy = False

    def put(self, item: Item) -> None:
        self._queued.append(item)
        self._begin()

    async def close(self) -> None:
        self.put(None)
        if self.waits_for_space:
            self.give_up()
            self._end()
        await self._joined

    @property
    def idle(self) -> bool:
        """Everything it was given is written, and vouched for."""
        return not self._busy and not self._queued and self._wal._settled

    def crash(self, rng: random.Random) -> None:
        """The machine stops while a write is under way: some of it may be on the disk."""
        if not self._taken or self.ended or self.disk.hung or rng.random() < 0.5:
            return
        left = rng.randrange(4)

        def stop(operation: str, path: Path) -> None:
            nonlocal left
            if operation in ("write", "sync", "create", "allocate", "rename", "sync_directory"):
                if left == 0:
                    self._simulated.world.reach("crash: in a write of the log")
                    raise Crash
                left -= 1

        self.disk.fail = stop
        self.step(self._taken)
        self.disk.fail = healthy

    def _begin(self) -> None:
        if self._busy or self.ended or self.waits_for_space or not self._queued:
            return
        self._busy = True
        self._taken = list(self._queued)
        self._queued.clear()
        self._simulated.after(self.disk.write_seconds(), self._written)
        self._simulated.handover("a write begins")

    def _written(self) -> None:
        if self.disk.holds(lambda: self._simulated.after(0.0, self._written)):
            return
        taken, self._taken = self._taken, []
        due = self.step(taken)
        self._simulated.handover("a write is done")
        if not self._simulated.dead:
            self._next(due)

    def _next(self, due: float | None) -> None:
        self._busy = False
        self._round += 1
        if self.ended:
            self._end()
            return
        self._begin()
        if not self._busy and due is not None:
            self._simulated.after(due, self._passed, self._round)

    def _passed(self, round: int) -> None:
        if round != self._round or self._busy or self.ended:
            return
        if self.disk.holds(lambda: self._simulated.after(0.0, self._passed, round)):
            return
        self._next(self.step(()))

    def _end(self) -> None:
        if not self._joined.done() and not self._simulated.dead:
            self._joined.set_result(None)


def log_thread_of(disk: Disk) -> type[LogThread]:
    return type("LogThreadOfDisk", (LogThread,), {"disk": disk})
