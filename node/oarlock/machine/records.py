"""Idempotency records (rule 30): a command that carries a key is applied once, however often it is sent.

Three rules of this module:
* a record lives LIFETIME_MS of cluster time, from the entry that made it, and is never evicted earlier; a full table
  refuses new keys instead;
* nothing here depends on configuration, a clock or on how many entries share a transaction: bound and lifetime are
  constants of the cluster version, and expired records are removed entry by entry;
* a record that has outlived its time counts as absent even while it still stands in the tree.

Two trees. Records: key -> record. Expiry: (big-endian expiry time, key) -> nothing, so that the oldest come first.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from oarlock.machine.command import Command, Result, Status

if TYPE_CHECKING:
    import lmdb

    from oarlock.machine.protocol import Tree

LIFETIME_MS = 300_000
MAX_RECORDS = 1_048_576
"""About 3,500 keyed writes a second for the whole lifetime; at 100 bytes or so each, a table of 100 to 200 MiB."""
MAX_KEY_BYTES = 255
MAX_BODY_BYTES = 1024

SWEEP_AFTER_COMMAND = 2
"""After each keyed command: removal outruns arrival, and no single step is long."""
SWEEP_AFTER_ENTRY = 64
_DIGEST_BYTES = 16
_MODULUS = 1 << (8 * _DIGEST_BYTES)

_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z", re.IGNORECASE)


class Record(Struct, frozen=True, array_like=True, gc=False):
    """What a retry is answered with. A body beyond MAX_BODY_BYTES is not kept: the retry gets an empty one."""

    expires_ms: int
    fingerprint: bytes
    status: int
    revision: int
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def uuid7_ms(key: str) -> int | None:
    """The Unix milliseconds in a UUIDv7 (RFC 9562, 5.7); None for any other key."""
    match = _UUID7.match(key)
    return int(match[1] + match[2], 16) if match else None


class Records:
    """The records within one write transaction; the environment remembers `count` and `digest_bytes` between two."""

    __slots__ = ("_digest", "_expiry", "_oldest", "_records", "_txn", "count")

    def __init__(self, txn: lmdb.Transaction[bytes], records: Tree, expiry: Tree, count: int, digest: bytes) -> None:
        self._txn = txn
        self._records = records
        self._expiry = expiry
        self._oldest = txn.cursor(expiry)
        self.count = count
        self._digest = int.from_bytes(digest, "big")  # the sum of the records' digests: their order does not matter

    @property
    def digest_bytes(self) -> bytes:
        return self._digest.to_bytes(_DIGEST_BYTES, "big")

    def answer(self, command: Command, time_ms: int, wall_ms: int) -> Result | None:
        """What this keyed command is answered without being applied, or None: apply it, then `keep` its result."""
        key = command.key.encode()
        if len(key) > MAX_KEY_BYTES:
            return Result(Status.INVALID, 0)
        data = self._txn.get(key, db=self._records)
        if data is not None:
            record = _decoder.decode(data)
            if record.expires_ms > time_ms:
                if record.fingerprint != command.fingerprint:
                    return Result(Status.KEY_REUSED, 0)
                return Result(record.status, record.revision, record.body)
            self._remove(key, data, record.expires_ms)
        # A key that says when it was made, and is older than any record: it may have been applied and forgotten.
        made_ms = uuid7_ms(command.key)
        if made_ms is not None and made_ms + LIFETIME_MS < wall_ms:
            return Result(Status.KEY_EXPIRED, 0)
        if self.count >= MAX_RECORDS:
            return Result(Status.KEYS_FULL, 0)
        return None

    def keep(self, command: Command, result: Result, time_ms: int) -> None:
        key = command.key.encode()
        expires_ms = time_ms + LIFETIME_MS
        body = result.body if len(result.body) <= MAX_BODY_BYTES else b""
        data = _encoder.encode(Record(expires_ms, command.fingerprint, result.status, result.revision, body))
        self._txn.put(key, data, db=self._records)
        self._txn.put(expires_ms.to_bytes(8, "big") + key, b"", db=self._expiry)
        self.count += 1
        self._digest = (self._digest + _digest(key, data)) % _MODULUS

    def sweep(self, time_ms: int, most: int) -> None:
        """Removes up to `most` expired records, the oldest first."""
        if not self.count:
            return
        for _ in range(most):
            if not self._oldest.first():
                return
            item = self._oldest.key()
            expires_ms, key = int.from_bytes(item[:8], "big"), item[8:]
            if expires_ms > time_ms:
                return
            data = self._txn.get(key, db=self._records)
            assert data is not None, "an expiry without its record"
            self._remove(key, data, expires_ms)

    def _remove(self, key: bytes, data: bytes, expires_ms: int) -> None:
        self._txn.delete(key, db=self._records)
        self._txn.delete(expires_ms.to_bytes(8, "big") + key, db=self._expiry)
        self.count -= 1
        self._digest = (self._digest - _digest(key, data)) % _MODULUS


def _digest(key: bytes, data: bytes) -> int:
    return int.from_bytes(blake2b(len(key).to_bytes(2, "big") + key + data, digest_size=_DIGEST_BYTES).digest(), "big")
