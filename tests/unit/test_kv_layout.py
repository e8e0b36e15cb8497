"""How keys and revisions lie in the trees."""

from __future__ import annotations

from itertools import pairwise

import pytest

from oarlock.kv import layout
from oarlock.kv.layout import MAX_KEY_BYTES, escape, invert_revision, inverted, pack_revision, prefix_end, unescape

ORDERED = [
    b"\0",
    b"\0\0",
    b"\0" * 8,
    b"\0" * 9,
    b"a",
    b"a\0",
    b"a\0\0\0\0\0\0\0",
    b"a\0\0\0\0\0\0\0\0",
    b"ab",
    b"abcdefg",
    b"abcdefgh",
    b"abcdefgh\0",
    b"abcdefghi",
    b"b",
    b"\xff",
    b"\xff" * 8,
    b"\xff" * 9,
]


def test_the_example_in_the_docstring() -> None:
    assert escape(b"ab").hex() == "616200000000000002"
    assert escape(b"abcdefgh").hex() == "616263646566676808" + "000000000000000000"


def test_escape_keeps_order_and_no_key_is_anothers_prefix() -> None:
    """Rule 22."""
    escaped = [escape(key) for key in ORDERED]
    assert escaped == sorted(escaped)
    assert [unescape(e) for e in escaped] == ORDERED
    for one in escaped:
        assert [other for other in escaped if other.startswith(one)] == [one]


def test_the_longest_key_fits_lmdb() -> None:
    """Rule 23: eight bytes become nine, and 1,978 are allowed."""
    longest = escape(b"\xff" * MAX_KEY_BYTES) + invert_revision(1)
    assert len(longest) == 1749


def test_the_newest_version_comes_first() -> None:
    order = [invert_revision(r) for r in (2**63 - 1, 2**33, 2, 1)]
    assert order == sorted(order)
    assert invert_revision(1, 5) < invert_revision(1, 4)
    assert inverted(pack_revision(7, 3)) == invert_revision(7, 3)
    assert inverted(invert_revision(7, 3)) == pack_revision(7, 3)
    assert layout.revision_of(escape(b"k") + invert_revision(7, 3)) == 7


def test_after_key_lies_between_a_key_and_the_next() -> None:
    for one, other in pairwise(ORDERED):
        assert escape(one) + invert_revision(0) < escape(one) + layout.AFTER_KEY < escape(other)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", None), (b"\xff\xff", None), (b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xfe", b"a\xff\xff"), (b"\0", b"\x01")],
)
def test_prefix_end(prefix: bytes, end: bytes | None) -> None:
    assert prefix_end(prefix) == end


def test_records() -> None:
    record = layout.pack_record(layout.TOMBSTONE, b"key", b"value")
    assert layout.record_key(record) == (layout.TOMBSTONE, b"key")
    assert layout.record_value(record, b"key") == b"value"
