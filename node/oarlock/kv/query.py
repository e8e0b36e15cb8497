"""Reading the store, in one transaction. Nothing here changes anything, and no call works for longer than a page.

A read at a revision sees the store as it was then. `Compacted` where that is below the floor, `FutureRevision` where
it has not come yet: both depend on replicated state alone, so every member that has applied as much answers the same.
"""

from __future__ import annotations

from msgspec import Struct

from oarlock.kv.head import KEYS, REVISIONS, StoreHead, read_head
from oarlock.kv.layout import (
    AFTER_KEY,
    META,
    REVISION_BYTES,
    TOMBSTONE,
    escape,
    invert_revision,
    inverted,
    prefix_end,
    record_value,
    revision_of,
    unescape,
)
from oarlock.kv.validate import MAX_PAGE_KEYS, check_limit
from oarlock.machine import Trees

PAGE_BYTES = 1 << 20
PAGE_STEPS = 4096
"""Versions looked at for one page: a page of long-dead keys ends early, so that it cannot hold up the loop."""


class RevisionUnavailable(ValueError):
    """The store cannot be read at the revision asked for."""


class Compacted(RevisionUnavailable):
    def __init__(self, revision: int, floor: int) -> None:
        super().__init__(f"revision {revision} has been compacted; the oldest that can be read is {floor}")
        self.floor = floor


class FutureRevision(RevisionUnavailable):
    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} does not exist yet; the store is at {current}")
        self.current = current


class KeyValue(Struct, frozen=True, array_like=True, gc=False):
    key: bytes
    value: bytes  # empty in a list of keys only
    create_revision: int
    mod_revision: int
    version: int


class Page(Struct, frozen=True, array_like=True):
    """A part of a list. If `more`, the next part is asked for with `after` and `revision` as given here. A page may be
    shorter than its limit, and even empty, and still say `more`."""

    items: tuple[KeyValue, ...]
    count: int  # of the keys on this page; also when only the count was asked for
    more: bool
    after: bytes
    revision: int


def get(trees: Trees, key: bytes, revision: int | None = None) -> KeyValue | None:
    """The key as it is, or was at `revision`. Raises Compacted, FutureRevision."""
    txn = trees.txn
    escaped = escape(key)
    if revision is None:
        start = escaped
    else:
        _check_readable(read_head(trees), revision)
        start = escaped + invert_revision(revision)
    cursor = txn.cursor(trees.named[KEYS])
    if not cursor.set_range(start):
        return None
    found, meta = cursor.item()
    if not found.startswith(escaped):
        return None
    flags, create_revision, version, _ = META.unpack(meta)
    if flags & TOMBSTONE:
        return None
    record = txn.get(inverted(found[-REVISION_BYTES:]), db=trees.named[REVISIONS])
    assert record is not None, "a version without its value"
    return KeyValue(key, record_value(record, key), create_revision, revision_of(found), version)


def list_page(
    trees: Trees,
    prefix: bytes = b"",
    after: bytes = b"",
    limit: int = MAX_PAGE_KEYS,
    keys_only: bool = False,
    count_only: bool = False,
    revision: int | None = None,
) -> Page:
    """Keys with `prefix`, greater than `after`, in the order of their bytes: at most `limit`, or about PAGE_BYTES of
    keys and values (one at least). Only counting stops for neither, but after PAGE_STEPS versions like all.

    Raises Compacted, FutureRevision, and Invalid for a limit out of bounds.
    """
    check_limit(limit)
    head = read_head(trees)
    if revision is None:
        revision = head.revision
    else:
        _check_readable(head, revision)
    at_revision = invert_revision(revision)
    end_key = prefix_end(prefix)
    end = None if end_key is None else escape(end_key)
    start = escape(prefix) if after < prefix else escape(after) + AFTER_KEY
    items: list[KeyValue] = []
    count = page_bytes = 0
    last = after

    cursor = trees.txn.cursor(trees.named[KEYS])
    valid = cursor.set_range(start)
    for _ in range(PAGE_STEPS):
        if not valid:
            return Page(tuple(items), count, False, b"", revision)
        found, meta = cursor.item()
        if end is not None and found >= end:
            return Page(tuple(items), count, False, b"", revision)
        escaped = found[:-REVISION_BYTES]
        if found[-REVISION_BYTES:] < at_revision:  # newer than asked for
            valid = cursor.set_range(escaped + at_revision)
            continue
        flags, create_revision, version, _ = META.unpack(meta)
        key = unescape(escaped)
        if not flags & TOMBSTONE:
            if count_only:
                count += 1
            else:
                value = b"" if keys_only else _value(trees, found, key)
                page_bytes += len(key) + len(value)
                if count and (count == limit or page_bytes > PAGE_BYTES):
                    return Page(tuple(items), count, True, last, revision)
                items.append(KeyValue(key, value, create_revision, revision_of(found), version))
                count += 1
        last = key
        # Most keys have one version: the next record is the next key, and cheaper to reach than by a seek.
        valid = cursor.next()
        if valid and cursor.key().startswith(escaped):
            valid = cursor.set_range(escaped + AFTER_KEY)
    return Page(tuple(items), count, True, last, revision)


def _value(trees: Trees, found: bytes, key: bytes) -> bytes:
    record = trees.txn.get(inverted(found[-REVISION_BYTES:]), db=trees.named[REVISIONS])
    assert record is not None, "a version without its value"
    return record_value(record, key)


def _check_readable(head: StoreHead, revision: int) -> None:
    if revision > head.revision:
        raise FutureRevision(revision, head.revision)
    if revision < head.floor:
        raise Compacted(revision, head.floor)
