"""What a replicated state machine is.

A machine may:
* read and write its own named trees, in the transaction it is handed, and nothing else;
* keep what it likes in memory for one transaction (a Session), if `finish` writes it down before the commit.
It may not:
* look at a clock, a random number, the order of a set, a file or the network in `apply`: the same entries give the
  same state on every member (rule 28). What differs between members (sweeping old data) goes into `maintain`;
* raise out of `apply`, whatever the payload: a payload that makes no sense answers Status.INVALID;
* work without bound for one command: applying is sliced between commands, not inside them (rule 24);
* commit, abort or keep the transaction.

Snapshot and restore are not the machine's: its trees live in the one LMDB file that *is* the state, so a copy of the
file is a snapshot and opening it is the restore. A user's own machine needs only what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from oarlock.machine.command import Result

if TYPE_CHECKING:
    import lmdb

Tree: TypeAlias = "lmdb._Database"
"""A named tree of the environment, as LMDB's calls take it (`db=`)."""


class Trees(NamedTuple):
    """A machine's view of one transaction: `trees.txn.get(key, db=trees.named["counts"])`."""

    txn: lmdb.Transaction[bytes]
    named: Mapping[str, Tree]


class ApplyContext(Struct, frozen=True, gc=False):
    """Everything about an entry that apply may depend on, the same on every member.

    `time_ms` is cluster time (rule 28), for lifetimes; `wall_ms` is the leader's wall clock, for display only: it may
    jump, also backwards. `cluster_version` is the one in force at this entry (rule 34).
    """

    index: int
    term: int
    time_ms: int
    wall_ms: int
    cluster_version: int


class Head(NamedTuple):
    """The state in short. `revision` never decreases and changes with every change a client could see; `digest` is
    equal on two members if and only if (but for a collision) what clients could read is equal."""

    revision: int
    digest: bytes


class Session(Protocol):
    """A machine at work in one write transaction."""

    def apply(self, payload: bytes, context: ApplyContext) -> Result: ...

    def finish(self) -> None:
        """Writes what the session kept in memory. Called once, last, before the commit."""


class Machine(Protocol):
    """The machine itself holds no state: everything is in its trees, so that it survives any restart and restore."""

    @property
    def name(self) -> str:
        """Recorded in the state: a state is never opened by another machine."""

    @property
    def version(self) -> int:
        """The highest cluster version this code can apply (rule 34)."""

    @property
    def trees(self) -> tuple[str, ...]:
        """The names of its trees. A new version may add some."""

    def begin(self, trees: Trees) -> Session:
        """Starts a session in a write transaction."""

    def head(self, trees: Trees) -> Head:
        """Cheap: it is read after every transaction."""

    def query(self, trees: Trees, request: bytes) -> bytes:
        """A read in the machine's own encoding. Raises ValueError for a request it does not understand."""

    def housekeeping(self, trees: Trees, time_ms: int) -> bytes | None:
        """A command that the leader should propose now for the machine's own sake, if any; `time_ms` is cluster time.
        Reads only. Asked every few seconds; the proposal has no client."""

    def maintenance_due(self, trees: Trees) -> bool:
        """Whether `maintain` has work. Reads only, and is cheap."""

    def maintain(self, trees: Trees, enough: Callable[[], bool]) -> None:
        """Does work that no client can see and no digest covers, at any time that suits this member, in a write
        transaction of its own. Calls `enough` between small steps and returns once it says True, or when all is done.
        """
