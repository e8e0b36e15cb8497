"""How keys, revisions and values lie in the trees (rule 22). Pure: bytes in, bytes out.

    keys       escape(key) ~revision   ->  flags  create_revision  version  digest      one record for each version
    revisions  revision                ->  flags  length of key  key  value             the same, in order of time
    trail      cluster time (ms)       ->  revision                                     see trail.py
    kv         "head", "swept"         ->  see machine.py and sweep.py

A revision is twelve bytes: the store's revision (8) and a number within it (4, always 0 as yet), which leaves room for
operations that share a revision. In `keys` its bits are inverted, so that a key's newest version comes first: one seek
finds it, and a seek to `escape(key) ~r` finds the version that was current at revision r.

`escape` keeps the order of keys and makes none a prefix of another's (after MyRocks' memcomparable format): groups of
eight bytes, each followed by a byte that says 8, there is more, or how many of the group, filled up with zeros, count.

    "ab"        ->  61 62 00 00 00 00 00 00 02
    "abcdefgh"  ->  61 62 63 64 65 66 67 68 08  00 00 00 00 00 00 00 00 00
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

MAX_KEY_BYTES = 1536
"""Escaped and with its revision, such a key takes 1,749 of the 1,978 bytes that LMDB allows (rule 23)."""
MAX_VALUE_BYTES = 1536 * 1024

REVISION_BYTES = 12
DIGEST_BYTES = 16
DIGEST_MODULUS: Final = 1 << (8 * DIGEST_BYTES)

TOMBSTONE = 1
"""Flag: the key was deleted here. The other bits are 0, and kept for fields that are still to come (a lease)."""

META = struct.Struct(f">BQQ{DIGEST_BYTES}s")
"""flags, create_revision, version (1 for the first since creation), digest of this version for the state hash."""
BURIED = META.pack(TOMBSTONE, 0, 0, bytes(DIGEST_BYTES))

_GROUP = 8
_ZERO = b"\0"
_MORE = b"\x08"
_COUNTS = tuple(bytes((n,)) for n in range(_GROUP))
_REVISION = struct.Struct(">QI")
_ALL_ONES = (1 << 64) - 1
_SUB_ONES = (1 << 32) - 1
_RECORD = struct.Struct(">BH")
_DIGESTED = struct.Struct(">QIQQH")

AFTER_KEY = b"\xff" * (REVISION_BYTES + 1)
"""`escape(key) + AFTER_KEY` sorts after every version of the key and before the next key."""


def escape(key: bytes) -> bytes:
    size = len(key)
    if size < _GROUP:
        return key.ljust(_GROUP, _ZERO) + _COUNTS[size]
    full = size & -_GROUP
    groups = [key[at : at + _GROUP] for at in range(0, full, _GROUP)]
    groups.append(key[full:].ljust(_GROUP, _ZERO))
    return _MORE.join(groups) + _COUNTS[size - full]


def unescape(escaped: bytes) -> bytes:
    """The inverse of `escape`, for what `escape` has made."""
    step = _GROUP + 1
    groups = [escaped[at : at + _GROUP] for at in range(0, len(escaped), step)]
    groups[-1] = groups[-1][: escaped[-1]]
    return b"".join(groups)


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key that is greater than all keys with this prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def pack_revision(main: int, sub: int = 0) -> bytes:
    return _REVISION.pack(main, sub)


def invert_revision(main: int, sub: int = 0) -> bytes:
    return _REVISION.pack(_ALL_ONES - main, _SUB_ONES - sub)


def inverted(packed: bytes) -> bytes:
    """Turns a packed revision into an inverted one, and back."""
    main, sub = _REVISION.unpack(packed)
    return _REVISION.pack(_ALL_ONES - main, _SUB_ONES - sub)


def revision_of(keys_key: bytes) -> int:
    """The revision in a key of the tree `keys`."""
    return _ALL_ONES - int.from_bytes(keys_key[-REVISION_BYTES : -REVISION_BYTES + 8], "big")


def pack_record(flags: int, key: bytes, value: bytes) -> bytes:
    return b"".join((_RECORD.pack(flags, len(key)), key, value))


def record_key(record: bytes) -> tuple[int, bytes]:
    """flags, key: without copying the value"""
    flags, size = _RECORD.unpack_from(record)
    return flags, record[_RECORD.size : _RECORD.size + size]


def record_value(record: bytes, key: bytes) -> bytes:
    return record[_RECORD.size + len(key) :]


def version_digest(revision: int, create_revision: int, version: int, key: bytes, value: bytes) -> bytes:
    """Of one version of one key, for the sum that is the state hash."""
    head = _DIGESTED.pack(revision, 0, create_revision, version, len(key))
    return blake2b(b"".join((head, key, value)), digest_size=DIGEST_BYTES).digest()
