"""The store's head: the one record that every transaction with a change rewrites."""

from __future__ import annotations

import struct
from typing import NamedTuple

from oarlock.kv.layout import DIGEST_BYTES
from oarlock.machine import Trees

KEYS = "keys"
REVISIONS = "revisions"
TRAIL = "trail"
KV = "kv"
TREES = (KEYS, REVISIONS, TRAIL, KV)

_HEAD = b"head"
_STRUCT = struct.Struct(f">QQqq{DIGEST_BYTES}s")


class StoreHead(NamedTuple):
    """`floor` is the lowest revision that can still be read (0: all). Times are cluster time in milliseconds.

    `digest` is the sum, modulo 2^128, of the digests of the current version of every key. Of all incremental hashes
    this one can be checked against the store itself by a scan (see machine.scan_digest), does not depend on the order
    of anything, and does not see whether an old revision has been swept yet (rule 24). A chained hash of the log would
    be cheaper, but would say only that two members read the same log, not that they hold the same keys.
    """

    revision: int
    floor: int
    changed_ms: int  # when the revision last moved
    sampled_ms: int  # when the trail last got a sample
    digest: bytes


EMPTY = StoreHead(0, 0, 0, 0, bytes(DIGEST_BYTES))


def read_head(trees: Trees) -> StoreHead:
    data = trees.txn.get(_HEAD, db=trees.named[KV])
    return EMPTY if data is None else StoreHead._make(_STRUCT.unpack(data))


def write_head(trees: Trees, head: StoreHead) -> None:
    trees.txn.put(_HEAD, _STRUCT.pack(*head), db=trees.named[KV])
