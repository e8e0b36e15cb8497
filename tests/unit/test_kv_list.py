"""Lists: by prefix, in pages, at a pinned revision, and never for longer than a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.state_driver import Driver

from oarlock.kv import Compacted, Invalid, KvMachine, Page, encode_compact, encode_delete, encode_put, list_page, query
from oarlock.kv.layout import MAX_VALUE_BYTES


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", KvMachine())
    yield driver
    driver.close()


def page(kv: Driver, **asked: object) -> Page:
    with kv.environment.reader() as trees:
        return list_page(trees, **asked)  # type: ignore[arg-type]


def keys(kv: Driver, **asked: object) -> list[bytes]:
    return [item.key for item in page(kv, **asked).items]


def test_in_the_order_of_bytes_by_prefix(kv: Driver) -> None:
    names = [
        b"a",
        b"a\0",
        b"a/",
        b"a/1",
        b"a/10",
        b"a/1234567",
        b"a/12345678",
        b"a/2",
        b"a0",
        b"b",
        b"\xff",
        b"\xff\xff",
    ]
    for name in reversed(names):
        kv.command(encode_put(name, name))
    assert keys(kv) == sorted(names)
    for prefix in (b"a", b"a/", b"a/1", b"a/123456", b"a/12345678", b"\xff", b"\xff\xff", b"c", b"a/9"):
        assert keys(kv, prefix=prefix) == sorted(n for n in names if n.startswith(prefix)), prefix
    assert keys(kv, after=b"a/1") == sorted(n for n in names if n > b"a/1")
    assert keys(kv, prefix=b"a/", after=b"a/1") == [b"a/10", b"a/1234567", b"a/12345678", b"a/2"]
    assert keys(kv, prefix=b"a/", after=b"A") == keys(kv, prefix=b"a/")
    assert keys(kv, prefix=b"a/", after=b"b") == []


def test_pages_add_up(kv: Driver) -> None:
    names = [b"k%03d" % n for n in range(25)]
    kv.commands(*[encode_put(name, b"v") for name in names])
    kv.commands(*[encode_delete(name) for name in names[::5]])
    live = [n for n in names if n not in names[::5]]
    for limit in (1, 3, 10, 19, 20, 21):
        seen, after, pages = [], b"", 0
        while True:
            part = page(kv, limit=limit, after=after)
            seen += [item.key for item in part.items]
            pages += 1
            assert part.count == len(part.items) <= limit
            if not part.more:
                break
            after = part.after
        assert seen == live
        assert pages == -(-len(live) // limit)


def test_a_page_pins_its_revision(kv: Driver) -> None:
    """Rules 22 and 24: later writes and deletes do not show in the pages that follow; below the floor, 410."""
    kv.commands(*[encode_put(b"k%d" % n, b"old") for n in range(6)])
    first = page(kv, limit=3)
    kv.commands(encode_put(b"k4", b"new"), encode_put(b"k35", b"new"), encode_delete(b"k5"), encode_put(b"k9", b"new"))
    second = page(kv, limit=3, after=first.after, revision=first.revision)
    assert [(i.key, i.value) for i in second.items] == [(b"k3", b"old"), (b"k4", b"old"), (b"k5", b"old")]
    assert not second.more
    kv.command(encode_compact(7))
    with pytest.raises(Compacted) as raised:
        page(kv, after=first.after, revision=first.revision)
    assert raised.value.floor == 7
    assert keys(kv, revision=7, prefix=b"k3") == [b"k3"]


def test_versions_of_one_key_among_others(kv: Driver) -> None:
    """Seeks over many versions, newer and older than the one asked for, stay with their key."""
    for n in range(1, 31):
        kv.command(encode_put(b"b", b"%d" % n))
        kv.command(encode_put(b"d" if n % 2 else b"a", b"%d" % n))
    for revision in (1, 2, 3, 17, 30, 59, 60):
        found = {i.key: (i.mod_revision, i.version) for i in page(kv, revision=revision).items}
        assert all(mod <= revision for mod, _ in found.values())
        b = (revision + 1) // 2
        assert found[b"b"] == (2 * b - 1, b)
        assert (b"a" in found) == (revision >= 4)
        assert (b"d" in found) == (revision >= 2)


def test_keys_only_and_count_only(kv: Driver) -> None:
    kv.commands(*[encode_put(b"k%04d" % n, b"v" * 10) for n in range(1500)])
    part = page(kv, keys_only=True, limit=2)
    assert [(i.key, i.value, i.version) for i in part.items] == [(b"k0000", b"", 1), (b"k0001", b"", 1)]
    assert part.more
    counted = page(kv, count_only=True)
    assert (counted.count, counted.items, counted.more) == (1500, (), False)
    assert page(kv, count_only=True, prefix=b"k00").count == 100


def test_a_page_holds_a_thousand_keys_or_a_mebibyte(kv: Driver) -> None:
    """Rules 25 and 33: both bounds are reached, and one value larger than a page still gets through."""
    kv.commands(*[encode_put(b"k%04d" % n, b"") for n in range(1001)])
    full = page(kv)
    assert (full.count, full.more, full.after) == (1000, True, b"k0999")
    kv.commands(encode_put(b"x1", bytes(MAX_VALUE_BYTES)), encode_put(b"x2", bytes(MAX_VALUE_BYTES)))
    one = page(kv, prefix=b"x")
    assert (one.count, one.more, one.after) == (1, True, b"x1")
    assert keys(kv, prefix=b"x", after=b"x1") == [b"x2"]
    kv.commands(*[encode_put(b"y%03d" % n, bytes(4000)) for n in range(300)])
    part = page(kv, prefix=b"y")
    assert part.more
    assert sum(len(i.key) + len(i.value) for i in part.items) <= query.PAGE_BYTES
    assert part.count == query.PAGE_BYTES // 4004


def test_a_page_of_dead_keys_ends_early(kv: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 25: a turn is bounded by what is looked at, not by what is found; and the list still comes to its end."""
    monkeypatch.setattr(query, "PAGE_STEPS", 10)
    kv.commands(*[encode_put(b"k%02d" % n, b"v") for n in range(50)])
    kv.commands(*[encode_delete(b"k%02d" % n) for n in range(49)])
    first = page(kv)
    assert (first.items, first.more) == ((), True)
    found, after, pages = [], b"", 0
    while True:
        part = page(kv, after=after)
        found += [i.key for i in part.items]
        pages += 1
        if not part.more:
            break
        assert part.after > after
        after = part.after
    assert found == [b"k49"]
    assert pages == 6  # the last one looks for more, and finds the end
    counted = page(kv, count_only=True)
    assert (counted.count, counted.more) == (0, True)


def test_a_limit_out_of_bounds(kv: Driver) -> None:
    for limit in (0, 1001):
        with pytest.raises(Invalid):
            page(kv, limit=limit)


def test_an_empty_store(kv: Driver) -> None:
    assert page(kv) == Page((), 0, False, b"", 0)
    assert page(kv, revision=0) == Page((), 0, False, b"", 0)
