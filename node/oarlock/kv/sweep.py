"""Deleting what lies below the floor, in small steps, at any time that suits this member (rule 24).

Garbage arises where a revision supersedes another: so the sweep walks the revisions from the last one it has seen up to
the floor, and at each deletes the version before it of the same key, and a tombstone with it. What it has passed and
left is the current version, at the floor, of some key. Its cost is in proportion to the changes, not to the keys.

    revision   1      2      3           4      5            floor 4: at 3, 1 goes; at 4, 2 and 4 go;
    write      a=1    b=1    a=2         del b  a=3                   3 stays (current at 4), 5 is not reached

How far it has come is this member's own affair: it is no part of the state hash, but stands in the file, because it
describes what the file holds; a snapshot takes it along.
"""

from __future__ import annotations

from collections.abc import Callable

from oarlock.kv.head import KEYS, KV, REVISIONS, read_head
from oarlock.kv.layout import (
    REVISION_BYTES,
    TOMBSTONE,
    escape,
    inverted,
    pack_revision,
    record_key,
)
from oarlock.machine import Trees

_SWEPT = b"swept"
_LAST_SUB = (1 << 32) - 1


def sweep_due(trees: Trees) -> bool:
    floor = read_head(trees).floor
    return floor > 0 and _swept(trees) < pack_revision(floor, _LAST_SUB)


def sweep(trees: Trees, enough: Callable[[], bool]) -> None:
    """Works until all is swept or `enough` says True; one revision at least."""
    txn, revisions = trees.txn, trees.named[REVISIONS]
    end = pack_revision(read_head(trees).floor, _LAST_SUB)
    swept = _swept(trees)
    with txn.cursor(revisions) as cursor:
        while True:
            if not cursor.set_range(swept + b"\0") or cursor.key() > end:
                swept = end
                break
            swept = cursor.key()
            flags, key = record_key(cursor.value())
            _delete_before(trees, key, swept)
            if flags & TOMBSTONE:
                txn.delete(swept, db=revisions)
                txn.delete(escape(key) + inverted(swept), db=trees.named[KEYS])
            if enough():
                break
    txn.put(_SWEPT, swept, db=trees.named[KV])


def _delete_before(trees: Trees, key: bytes, revision: bytes) -> None:
    """Deletes the versions of `key` that are older than `revision`: one at most, where the sweep has passed before."""
    txn, keys = trees.txn, trees.named[KEYS]
    escaped = escape(key)
    position = escaped + inverted(revision) + b"\0"
    with txn.cursor(keys) as cursor:
        while cursor.set_range(position) and cursor.key().startswith(escaped):
            older = cursor.key()
            txn.delete(inverted(older[-REVISION_BYTES:]), db=trees.named[REVISIONS])
            cursor.delete()


def _swept(trees: Trees) -> bytes:
    return trees.txn.get(_SWEPT, pack_revision(0), db=trees.named[KV])
