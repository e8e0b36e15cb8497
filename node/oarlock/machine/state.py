"""What an environment remembers of the log beside the machine's own trees: one small record, and the configuration.

The record is written in every transaction that moves the applied index (pitfall C6: the state and its index are one
atomic write), so that a copy of the file says by itself what it covers.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from oarlock.machine.errors import NewerState, WrongState
from oarlock.machine.protocol import Head
from oarlock.raft.types import Configuration, PlacedConfiguration

if TYPE_CHECKING:
    import lmdb

    from oarlock.machine.protocol import Tree

FORMAT = 1

_FORMAT = b"format"
_MACHINE = b"machine"
_POSITION = b"position"
_PLACED = b"placed"


class Applied(Struct, frozen=True, gc=False):
    """How far the log has been applied, with the cluster time of that entry (milliseconds; rule 28)."""

    index: int
    term: int
    time_ms: int


class Position(Struct, frozen=True, array_like=True, gc=False):
    index: int = 0
    term: int = 0
    time_ms: int = 0
    cluster_version: int = 0
    records: int = 0  # how many idempotency records there are,
    records_digest: bytes = bytes(16)  # and the sum of their digests

    @property
    def applied(self) -> Applied:
        return Applied(self.index, self.term, self.time_ms)


UNPLACED = PlacedConfiguration(0, 0, Configuration())
"""The configuration of an empty state: nobody takes part."""

_encoder = msgspec.msgpack.Encoder()
_position_decoder = msgspec.msgpack.Decoder(Position)
_placed_decoder = msgspec.msgpack.Decoder(PlacedConfiguration)


def create(txn: lmdb.Transaction[bytes], tree: Tree, machine: str) -> None:
    """Makes an empty file a state of `machine`."""
    txn.put(_FORMAT, str(FORMAT).encode(), db=tree)
    txn.put(_MACHINE, machine.encode(), db=tree)
    write_position(txn, tree, Position())
    write_placed(txn, tree, UNPLACED)


def check(txn: lmdb.Transaction[bytes], tree: Tree, machine: str) -> bool:
    """False for an empty file. Raises WrongState (NewerState) for a state that this program must not touch."""
    found = txn.get(_FORMAT, db=tree)
    if found is None:
        return False
    if found != str(FORMAT).encode():
        newer = found.isdigit() and int(found) > FORMAT
        kind = NewerState if newer else WrongState
        raise kind(f"the state has format {found.decode(errors='replace')}; this program knows {FORMAT}")
    name = txn.get(_MACHINE, b"", db=tree).decode()
    if name != machine:
        raise WrongState(f"the state belongs to the machine {name!r}, not to {machine!r}")
    return True


def read_position(txn: lmdb.Transaction[bytes], tree: Tree) -> Position:
    data = txn.get(_POSITION, db=tree)
    if data is None:
        raise WrongState("the file holds no applied position")
    return _position_decoder.decode(data)


def write_position(txn: lmdb.Transaction[bytes], tree: Tree, position: Position) -> None:
    txn.put(_POSITION, _encoder.encode(position), db=tree)


def read_placed(txn: lmdb.Transaction[bytes], tree: Tree) -> PlacedConfiguration:
    data = txn.get(_PLACED, db=tree)
    if data is None:
        raise WrongState("the file holds no configuration")
    return _placed_decoder.decode(data)


def write_placed(txn: lmdb.Transaction[bytes], tree: Tree, placed: PlacedConfiguration) -> None:
    txn.put(_PLACED, _encoder.encode(placed), db=tree)


def placed_digest(placed: PlacedConfiguration) -> bytes:
    """The configuration's part of the state hash: it seldom changes, and with thousands of tombstones it is long."""
    return blake2b(_encoder.encode(placed), digest_size=16).digest()


def state_hash(position: Position, placed_digest: bytes, head: Head) -> str:
    """One digest of everything replicated, 32 hex digits: equal at equal applied indices on every member (rule 26).

    The machine's part and the records' part are kept incrementally; hashing this summary is all that is left to do.
    Members of two versions compare it: a field more in one of these structs changes it, even with its default.
    """
    summary = _encoder.encode((position, placed_digest, head.revision, head.digest))
    return blake2b(summary, digest_size=16).hexdigest()
