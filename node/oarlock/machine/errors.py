"""What can go wrong between a log and the state it builds. None of these leaves a half-applied entry behind."""

from __future__ import annotations

import errno

import lmdb

from oarlock.raft.types import Entry


class UnknownEntry(Exception):
    """This member does not know how to apply `entry` (rule 34): the state ends just before it, and stays there."""

    def __init__(self, entry: Entry, why: str) -> None:
        super().__init__(f"entry {entry.index} of term {entry.term} cannot be applied here: {why}")
        self.entry = entry


class WrongState(Exception):
    """The file is not a state this program can open: another machine's, or damaged."""


class NewerState(WrongState):
    """The state is sound, and a newer version of this software wrote it (rule 34)."""


class OutOfSpace(Exception):
    """The disk has no room for the transaction (rule 5). Nothing was applied; try again when there is."""


_MDB_SHORT_WRITE = -30772
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, _MDB_SHORT_WRITE))


def out_of_space(error: BaseException) -> bool:
    """Whether a file or LMDB found the disk full, which LMDB's 1.0 engine mostly reports as a short write."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, lmdb.Error) and getattr(error, "code", None) in _NO_ROOM  # the binding's own have none
