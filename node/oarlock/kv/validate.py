"""What is refused before it is proposed, each with a sentence for the caller. Pure.

The same bounds hold in every interface (rule 23). Apply checks them again, because a log outlives its validators, and
answers Status.INVALID.
"""

from __future__ import annotations

from oarlock.kv.layout import MAX_KEY_BYTES, MAX_VALUE_BYTES

MAX_REVISION = (1 << 63) - 1
"""Revisions are signed 64-bit in etcd's API and in most clients' languages."""
MAX_PAGE_KEYS = 1000


class Invalid(ValueError):
    """A request that makes no sense."""


class TooLarge(Invalid):
    """A key or a value beyond its bound."""


def check_key(key: bytes) -> None:
    if not key:
        raise Invalid("a key must have at least one byte")
    if len(key) > MAX_KEY_BYTES:
        raise TooLarge(f"the key has {len(key):,} bytes; at most {MAX_KEY_BYTES:,} are allowed")


def check_prefix(prefix: bytes) -> None:
    """For a prefix, and for the key after which a page starts: both may be empty."""
    if len(prefix) > MAX_KEY_BYTES:
        raise TooLarge(f"the prefix has {len(prefix):,} bytes; at most {MAX_KEY_BYTES:,} are allowed")


def check_value(value: bytes) -> None:
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(f"the value has {len(value):,} bytes; at most {MAX_VALUE_BYTES:,} are allowed")


def check_revision(revision: int) -> None:
    if not 0 < revision <= MAX_REVISION:
        raise Invalid(f"a revision is a number from 1 to {MAX_REVISION}, not {revision}")


def check_limit(limit: int) -> None:
    if not 0 < limit <= MAX_PAGE_KEYS:
        raise Invalid(f"a limit is a number from 1 to {MAX_PAGE_KEYS:,}, not {limit}")
