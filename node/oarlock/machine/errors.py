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
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, _MDB_SHORT_WRITE))


def out_of_space(error: lmdb.Error) -> bool:
    """Whether LMDB failed for want of disk. Its 1.0 engine reports a full disk as a short write, mostly."""
    return getattr(error, "code", None) in NO_ROOM  # errors of the binding itself carry no code
