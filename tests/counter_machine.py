"""A second user of the machine protocol: named counters. What a user's own machine looks like, whole.

A command is a name, in UTF-8, of at most 64 bytes; it adds one. The answer's body is the new count.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from oarlock.machine import ApplyContext, Head, Result, Status, Trees

MODULUS = 1 << 128


def digest(name: bytes, count: int) -> int:
    return int.from_bytes(blake2b(b"%d %b" % (count, name), digest_size=16).digest(), "big")


class CounterMachine:
    name = "counter"
    version = 3  # one may raise it twice
    trees = ("counts", "totals")

    def begin(self, trees: Trees) -> CounterSession:
        return CounterSession(trees)

    def head(self, trees: Trees) -> Head:
        data = trees.txn.get(b"total", bytes(24), db=trees.named["totals"])
        return Head(int.from_bytes(data[:8], "big"), data[8:])

    def query(self, trees: Trees, request: bytes) -> bytes:
        return trees.txn.get(request, b"0", db=trees.named["counts"])

    def housekeeping(self, trees: Trees, time_ms: int) -> bytes | None:
        return None

    def maintenance_due(self, trees: Trees) -> bool:
        return False

    def maintain(self, trees: Trees, enough: Callable[[], bool]) -> None:
        raise AssertionError("there is nothing to maintain")


class CounterSession:
    def __init__(self, trees: Trees) -> None:
        self._txn, self._counts, self._totals = trees.txn, trees.named["counts"], trees.named["totals"]
        data = self._txn.get(b"total", bytes(24), db=self._totals)
        self._total = int.from_bytes(data[:8], "big")
        self._digest = int.from_bytes(data[8:], "big")

    def apply(self, payload: bytes, context: ApplyContext) -> Result:
        if not 0 < len(payload) <= 64:
            return Result(Status.INVALID, self._total)
        before = int(self._txn.get(payload, b"0", db=self._counts))
        after = before + 1
        self._txn.put(payload, b"%d" % after, db=self._counts)
        self._total += 1
        self._digest += digest(payload, after) - (digest(payload, before) if before else 0)
        return Result(Status.OK, self._total, b"%d" % after)

    def finish(self) -> None:
        digest = (self._digest % MODULUS).to_bytes(16, "big")
        self._txn.put(b"total", self._total.to_bytes(8, "big") + digest, db=self._totals)
