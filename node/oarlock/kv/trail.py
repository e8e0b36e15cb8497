"""From cluster time to revisions: what the floor may be, so that RETAIN_MS of history stay readable (rule 24).

A sample (time, revision) says: at that time the store was at that revision. It is taken with a change, before it, at
most every SAMPLE_MS; so the store's revision at a time t is at least that of the last sample not later than t.
The trail is replicated state, and bounded: RETAIN_MS / SAMPLE_MS + 2 samples.
"""

from __future__ import annotations

from oarlock.kv.head import TRAIL, StoreHead
from oarlock.machine import Trees

RETAIN_MS = 300_000
SAMPLE_MS = 10_000


def add_sample(trees: Trees, time_ms: int, revision: int) -> None:
    tree = trees.named[TRAIL]
    trees.txn.put(_pack(time_ms), _pack(revision), db=tree)
    with trees.txn.cursor(tree) as cursor:
        # A sample is of no more use once the next one is old enough to be the floor.
        while cursor.first() and cursor.next() and _unpack(cursor.key()) <= time_ms - RETAIN_MS:
            cursor.first()
            cursor.delete()


def due_floor(trees: Trees, head: StoreHead, time_ms: int) -> int | None:
    """The revision to compact to at cluster time `time_ms`, if that is higher than the floor."""
    oldest_ms = time_ms - RETAIN_MS
    if head.changed_ms <= oldest_ms:
        floor = head.revision
    else:
        floor = 0
        with trees.txn.cursor(trees.named[TRAIL]) as cursor:
            for sample_ms, revision in cursor:
                if _unpack(sample_ms) > oldest_ms:
                    break
                floor = _unpack(revision)
    return floor if floor > head.floor else None


def _pack(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _unpack(packed: bytes) -> int:
    return int.from_bytes(packed, "big")
