"""One LMDB environment: one file that is the whole replicated state of a member.

Four rules of this module:
* one write transaction at a time, an ApplyJob or a slice of maintenance, begun and ended on the same thread;
* no read transaction outlives a turn of the loop, the snapshot copy apart (rule 25): `reader()` is for a `with`
  without an `await` in it;
* what the properties say is what was last committed, never what a job is about to do (rule 24);
* nothing is synced here: the file is a cache, the snapshot and the log are the truth (rule 21). Without
  `writemap` a full disk is an error of `commit`; with it, it would be a SIGBUS.

LMDB's 1.0 engine (`lib_version=1`): keys up to 1,978 bytes (rule 23). The map is 1 TiB of addresses, not of disk, so
that a committed entry never meets a full map (rule 5).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import lmdb

from oarlock.machine import state
from oarlock.machine.apply import ApplyJob
from oarlock.machine.errors import NewerState, OutOfSpace, WrongState, out_of_space
from oarlock.machine.protocol import Head, Machine, Tree, Trees
from oarlock.machine.state import Applied, Position
from oarlock.raft.types import Entry, PlacedConfiguration

MAP_BYTES = 1 << 40
_LOCK_BYTES = 1 << 14

_STATE = "_state"
_RECORDS = "_records"
_EXPIRY = "_expiry"
_OWN_TREES = (_STATE, _RECORDS, _EXPIRY)
_SPARE_READERS = 4


class Content(NamedTuple):
    """What a copy of the state covers: a SnapshotMeta without its size and digest."""

    applied: Applied
    placed: PlacedConfiguration
    cluster_version: int


class Reader:
    """`with environment.reader() as trees:` gives one consistent view of the last committed state."""

    __slots__ = ("_env", "_named", "_txn")

    def __init__(self, env: lmdb.Environment, named: Mapping[str, Tree]) -> None:
        self._env = env
        self._named = named

    def __enter__(self) -> Trees:
        self._txn = self._env.begin()
        return Trees(self._txn, self._named)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()


class Environment:
    """Use `Environment.open`. The attributes without an underscore that are not properties are for ApplyJob."""

    def __init__(self, env: lmdb.Environment, machine: Machine) -> None:
        self.machine = machine
        self.state_tree = _tree(env, _STATE)
        self.records_tree = _tree(env, _RECORDS)
        self.expiry_tree = _tree(env, _EXPIRY)
        self._env = env
        with env.begin(write=True) as txn:
            if not state.check(txn, self.state_tree, machine.name):
                state.create(txn, self.state_tree, machine.name)
        self.named: Mapping[str, Tree] = {name: _tree(env, name) for name in machine.trees}
        with env.begin() as txn:
            self.position = state.read_position(txn, self.state_tree)
            self._placed = state.read_placed(txn, self.state_tree)
            self._placed_digest = state.placed_digest(self._placed)
            self._head = machine.head(Trees(txn, self.named))
        if self.position.cluster_version > machine.version:
            raise NewerState(
                f"the state is of cluster version {self.position.cluster_version}; this program knows {machine.version}"
            )
        self._job: ApplyJob | None = None
        self._lock = threading.Lock()  # around the two fields below: a copy runs in the snapshot thread
        self._copies = 0
        self._closing = False

    @classmethod
    def open(cls, path: Path, machine: Machine) -> Environment:
        """Opens the file, or makes an empty state at applied index 0. `<path>-lock` is LMDB's, made anew each time.

        Raises WrongState, NewerState, OutOfSpace, and lmdb.Error if the file cannot be read. The same file must not
        be opened twice in one process (LMDB's own rule).
        """
        clash = [name for name in machine.trees if name.startswith("_")]
        if clash:
            raise ValueError(f"a tree's name must not start with an underscore: {clash}")
        _reserve_lock(path)
        try:
            env = lmdb.open(
                str(path),
                map_size=MAP_BYTES,
                subdir=False,
                sync=False,
                metasync=False,
                mode=0o600,
                max_dbs=len(_OWN_TREES) + len(machine.trees),
                max_spare_txns=_SPARE_READERS,
                lib_version=1,
            )
        except lmdb.Error as error:
            if out_of_space(error):
                raise OutOfSpace(str(error)) from error
            raise
        try:
            return cls(env, machine)
        except BaseException as error:
            env.close()
            if out_of_space(error):
                raise OutOfSpace(str(error)) from error
            raise

    @staticmethod
    def peek(path: Path) -> Applied | None:
        """What a state file that nobody has open was applied to (rule 21); None if there is none, or no state in it.

        Only for a file that may be trusted: one that was synced when the process before this one ended.
        """
        try:
            return contents(path).applied
        except (lmdb.Error, WrongState, OSError):
            return None

    @property
    def applied(self) -> Applied:
        return self.position.applied

    @property
    def placed(self) -> PlacedConfiguration:
        """The configuration that was applied last (rule 17), not the latest appended."""
        return self._placed

    @property
    def cluster_version(self) -> int:
        return self.position.cluster_version

    @property
    def revision(self) -> int:
        return self._head.revision

    @property
    def idempotency_records(self) -> int:
        """How many there are, of at most records.MAX_RECORDS (rule 33)."""
        return self.position.records

    @property
    def state_hash(self) -> str:
        """32 hex digits; equal on every member at the same applied index (rule 26)."""
        return state.state_hash(self.position, self._placed_digest, self._head)

    def begin(self, entries: Sequence[Entry]) -> ApplyJob:
        """Starts applying committed entries, which follow the applied index without a gap. One job at a time.

        Raises ValueError for entries that are not the next ones.
        """
        if self._job is not None:
            raise RuntimeError("the last job has been neither committed nor aborted")
        txn = self._env.begin(write=True)
        try:
            self._job = ApplyJob(self, txn, entries)
        except BaseException:
            txn.abort()
            raise
        return self._job

    def reader(self) -> Reader:
        """A view of the last committed state, for this turn of the loop (rule 25)."""
        return Reader(self._env, self.named)

    def maintain(self, budget_seconds: float, clock: Callable[[], float]) -> bool:
        """One slice of the machine's invisible work, in a small write transaction. True if there is more to do.

        To be called between jobs; while one is open it does nothing. Raises OutOfSpace: try again later.
        """
        if self._job is not None:
            return True
        with self.reader() as trees:
            if not self.machine.maintenance_due(trees):
                return False
        deadline = clock() + budget_seconds
        try:
            with self._env.begin(write=True) as txn:
                trees = Trees(txn, self.named)
                self.machine.maintain(trees, lambda: clock() >= deadline)
                return self.machine.maintenance_due(trees)
        except lmdb.Error as error:
            if out_of_space(error):
                raise OutOfSpace(str(error)) from error
            raise

    def copy_to(self, path: Path) -> Content:
        """Writes a compact copy of the last committed state to `path`, which must not exist. Not synced.

        For the snapshot thread: LMDB copies without the GIL, from a read transaction of its own, while writes go on.
        What the copy covers is read from the copy, so that it is true of it. Raises OutOfSpace (nothing is left).
        """
        with self._lock:
            if self._closing:
                raise RuntimeError("the environment is closed")
            self._copies += 1
        try:
            self._env.copy(str(path), compact=True)
            return contents(path)
        except lmdb.Error as error:
            if out_of_space(error):
                path.unlink(missing_ok=True)
                raise OutOfSpace(str(error)) from error
            raise
        finally:
            with self._lock:
                self._copies -= 1
                last = self._closing and not self._copies
            if last:
                self._env.close()

    def close(self) -> None:
        """Drops a job that is not committed. The file itself closes when a copy that is still running has ended."""
        if self._job is not None:
            self._job.abort()
        with self._lock:
            if self._closing:
                return
            self._closing = True
            last = not self._copies
        if last:
            self._env.close()

    def moved(self, job: ApplyJob, position: Position, placed: PlacedConfiguration, head: Head) -> None:
        """`job` has been committed."""
        self.position = position
        if placed is not self._placed:
            self._placed, self._placed_digest = placed, state.placed_digest(placed)
        self._head = head
        self.dropped(job)

    def dropped(self, job: ApplyJob) -> None:
        """`job` is over."""
        if self._job is job:
            self._job = None


def _reserve_lock(path: Path) -> None:
    """LMDB writes its lock file through a map: where the disk has no page left for it, the process would die of SIGBUS.
    Raises OutOfSpace, OSError."""
    try:
        lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(lock, 0, _LOCK_BYTES)
        finally:
            os.close(lock)
    except OSError as error:
        if out_of_space(error):
            raise OutOfSpace(f"no space for the lock file of {path}") from error
        raise


def contents(path: Path) -> Content:
    """What the state file at `path`, opened by nobody, covers. Raises WrongState, lmdb.Error, OSError."""
    with lmdb.open(
        str(path), map_size=MAP_BYTES, subdir=False, readonly=True, lock=False, max_dbs=1, lib_version=1
    ) as env:
        try:
            tree = env.open_db(_STATE.encode(), create=False)
        except lmdb.NotFoundError:
            raise WrongState("the file holds no state") from None
        with env.begin() as txn:
            position = state.read_position(txn, tree)
            return Content(position.applied, state.read_placed(txn, tree), position.cluster_version)


def _tree(env: lmdb.Environment, name: str) -> Tree:
    return env.open_db(name.encode())
