"""The state machine we ship: a store of versioned keys (rules 22-24).

Two rules of this module: the revision moves by one for each command that changes something, and for no other; whatever
a payload holds, `apply` answers, and answers the same on every member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct

from oarlock.kv import query, sweep, trail
from oarlock.kv.commands import Compact, Delete, Put, decode_operation, encode_compact, pack_number
from oarlock.kv.head import KEYS, REVISIONS, TREES, StoreHead, read_head, write_head
from oarlock.kv.layout import (
    BURIED,
    DIGEST_BYTES,
    DIGEST_MODULUS,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    META,
    REVISION_BYTES,
    TOMBSTONE,
    escape,
    invert_revision,
    pack_record,
    pack_revision,
    revision_of,
    unescape,
    version_digest,
)
from oarlock.kv.validate import Invalid
from oarlock.machine import ApplyContext, Head, Result, Status, Trees

# An enum's members are slow to look up; these three are on the hot path.
_OK = int(Status.OK)
_CREATED = int(Status.CREATED)
_PRECONDITION = int(Status.PRECONDITION)


class GetQuery(Struct, frozen=True, array_like=True, tag=1):
    key: bytes
    revision: int | None = None


class ListQuery(Struct, frozen=True, array_like=True, tag=2):
    prefix: bytes = b""
    after: bytes = b""
    limit: int = 1000
    keys_only: bool = False
    count_only: bool = False
    revision: int | None = None


Query: TypeAlias = GetQuery | ListQuery

_encoder = msgspec.msgpack.Encoder()
_query_decoder: msgspec.msgpack.Decoder[Query] = msgspec.msgpack.Decoder(Query)


class KvMachine:
    """See machine.protocol.Machine."""

    name = "kv"
    version = 1
    trees = TREES

    def begin(self, trees: Trees) -> KvSession:
        return KvSession(trees)

    def head(self, trees: Trees) -> Head:
        head = read_head(trees)
        return Head(head.revision, head.digest + pack_number(head.floor))

    def query(self, trees: Trees, request: bytes) -> bytes:
        """A GetQuery gives a KeyValue or nil, a ListQuery a Page. Raises RevisionUnavailable, or Invalid for what is
        neither."""
        try:
            asked = _query_decoder.decode(request)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Invalid(f"not a query of the store: {error}") from error
        if isinstance(asked, GetQuery):
            return _encoder.encode(query.get(trees, asked.key, asked.revision))
        return _encoder.encode(
            query.list_page(
                trees, asked.prefix, asked.after, asked.limit, asked.keys_only, asked.count_only, asked.revision
            )
        )

    def housekeeping(self, trees: Trees, time_ms: int) -> bytes | None:
        """Compaction to the newest revision that is older than five minutes, when there is one."""
        floor = trail.due_floor(trees, read_head(trees), time_ms)
        return None if floor is None else encode_compact(floor)

    def maintenance_due(self, trees: Trees) -> bool:
        return sweep.sweep_due(trees)

    def maintain(self, trees: Trees, enough: Callable[[], bool]) -> None:
        sweep.sweep(trees, enough)


class KvSession:
    """The store in one write transaction. What `head` remembers is kept here, and written once."""

    __slots__ = (
        "_changed_ms",
        "_cursor",
        "_digest",
        "_floor",
        "_keys",
        "_revision",
        "_revisions",
        "_sampled_ms",
        "_trees",
        "_txn",
    )

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._txn = trees.txn
        self._keys = trees.named[KEYS]
        self._revisions = trees.named[REVISIONS]
        self._cursor = trees.txn.cursor(self._keys)
        head = read_head(trees)
        self._revision = head.revision
        self._floor = head.floor
        self._changed_ms = head.changed_ms
        self._sampled_ms = head.sampled_ms
        self._digest = int.from_bytes(head.digest, "big")

    def apply(self, payload: bytes, context: ApplyContext) -> Result:
        try:
            operation = decode_operation(payload)
        except (msgspec.DecodeError, RecursionError):
            return Result(Status.INVALID, self._revision)
        if isinstance(operation, Put):
            return self._put(operation, context.time_ms)
        if isinstance(operation, Delete):
            return self._delete(operation, context.time_ms)
        return self._compact(operation)

    def finish(self) -> None:
        digest = self._digest.to_bytes(DIGEST_BYTES, "big")
        write_head(self._trees, StoreHead(self._revision, self._floor, self._changed_ms, self._sampled_ms, digest))

    def _put(self, put: Put, time_ms: int) -> Result:
        key, value = put.key, put.value
        if not 0 < len(key) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            return Result(Status.INVALID, self._revision)
        escaped = escape(key)
        current, create_revision, version, digest = self._current(escaped)
        if (put.if_none_match and current) or (put.if_match is not None and not (current and current == put.if_match)):
            return Result(_PRECONDITION, self._revision, pack_number(current))
        revision = self._advance(time_ms)
        version += 1
        if not current:
            create_revision = revision
        new = version_digest(revision, create_revision, version, key, value)
        self._txn.put(escaped + invert_revision(revision), META.pack(0, create_revision, version, new), db=self._keys)
        self._txn.put(pack_revision(revision), pack_record(0, key, value), append=True, db=self._revisions)
        self._count(new, digest)
        return Result(_OK if current else _CREATED, revision, pack_number(version))

    def _delete(self, delete: Delete, time_ms: int) -> Result:
        key = delete.key
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return Result(Status.INVALID, self._revision)
        escaped = escape(key)
        current, _, _, digest = self._current(escaped)
        if delete.if_match is not None and not (current and current == delete.if_match):
            return Result(_PRECONDITION, self._revision, pack_number(current))
        if not current:
            return Result(Status.NOT_FOUND, self._revision)
        revision = self._advance(time_ms)
        self._txn.put(escaped + invert_revision(revision), BURIED, db=self._keys)
        self._txn.put(pack_revision(revision), pack_record(TOMBSTONE, key, b""), append=True, db=self._revisions)
        self._count(bytes(DIGEST_BYTES), digest)
        return Result(_OK, revision)

    def _compact(self, compact: Compact) -> Result:
        if compact.revision > self._revision:
            return Result(Status.FUTURE, self._revision)
        if compact.revision <= self._floor:
            return Result(Status.COMPACTED, self._revision)
        self._floor = compact.revision
        return Result(_OK, self._revision)

    def _current(self, escaped: bytes) -> tuple[int, int, int, bytes]:
        """mod_revision, create_revision, version, digest of the key as it is; zeros if it does not exist."""
        if self._cursor.set_range(escaped):
            found, meta = self._cursor.item()
            if found.startswith(escaped):
                flags, create_revision, version, digest = META.unpack(meta)
                if not flags & TOMBSTONE:
                    return revision_of(found), create_revision, version, digest
        return 0, 0, 0, bytes(DIGEST_BYTES)

    def _advance(self, time_ms: int) -> int:
        """Takes the next revision."""
        if time_ms - self._sampled_ms >= trail.SAMPLE_MS:
            trail.add_sample(self._trees, time_ms, self._revision)
            self._sampled_ms = time_ms
        self._changed_ms = time_ms
        self._revision += 1
        return self._revision

    def _count(self, new: bytes, old: bytes) -> None:
        """The sum of digests after one version has taken another's place."""
        self._digest = (self._digest + int.from_bytes(new, "big") - int.from_bytes(old, "big")) % DIGEST_MODULUS


def scan_digest(trees: Trees) -> bytes:
    """The digest that the head ought to hold, from every key and value in the store: without bound, for tests and for
    checking a file that nobody serves from."""
    total = 0
    escaped = b""
    with trees.txn.cursor(trees.named[KEYS]) as cursor:
        for found, meta in cursor:
            if escaped and found.startswith(escaped):
                continue  # an older version
            escaped = found[:-REVISION_BYTES]
            flags, create_revision, version, _ = META.unpack(meta)
            if flags & TOMBSTONE:
                continue
            item = query.get(trees, unescape(escaped))
            assert item is not None
            digest = version_digest(revision_of(found), create_revision, version, item.key, item.value)
            total = (total + int.from_bytes(digest, "big")) % DIGEST_MODULUS
    return total.to_bytes(DIGEST_BYTES, "big")
