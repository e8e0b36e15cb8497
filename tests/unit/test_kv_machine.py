"""The store's commands, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.state_driver import Driver

from oarlock import kv as store
from oarlock.kv import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Invalid,
    KeyValue,
    KvMachine,
    Page,
    TooLarge,
    encode_compact,
    encode_delete,
    encode_put,
    result_number,
    validate,
)
from oarlock.kv.head import read_head
from oarlock.kv.machine import GetQuery, ListQuery, scan_digest
from oarlock.machine import Result, Status


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", KvMachine())
    yield driver
    with driver.environment.reader() as trees:  # in every test: the incremental digest is that of the content
        assert scan_digest(trees) == read_head(trees).digest
    driver.close()


def get(kv: Driver, key: bytes, revision: int | None = None) -> KeyValue | None:
    with kv.environment.reader() as trees:
        return store.get(trees, key, revision)


def shape(result: Result) -> tuple[int, int, int]:
    return result.status, result.revision, result_number(result.body)


def test_put_creates_and_replaces(kv: Driver) -> None:
    assert shape(kv.command(encode_put(b"a", b"1"))) == (Status.CREATED, 1, 1)
    assert shape(kv.command(encode_put(b"b", b"1"))) == (Status.CREATED, 2, 1)
    assert shape(kv.command(encode_put(b"a", b"2"))) == (Status.OK, 3, 2)
    assert get(kv, b"a") == KeyValue(b"a", b"2", 1, 3, 2)
    assert get(kv, b"c") is None
    assert kv.environment.revision == 3


def test_get_at_a_revision(kv: Driver) -> None:
    """Rule 22: every version can be read as of its time."""
    kv.commands(encode_put(b"a", b"1"), encode_put(b"b", b"x"), encode_put(b"a", b"2"), encode_delete(b"a"))
    kv.command(encode_put(b"a", b"3"))
    assert [v and v.value for v in (get(kv, b"a", r) for r in range(1, 6))] == [b"1", b"1", b"2", None, b"3"]
    assert get(kv, b"b", 1) is None
    assert get(kv, b"a", 5) == KeyValue(b"a", b"3", 5, 5, 1)  # created anew after the delete
    with pytest.raises(store.FutureRevision) as raised:
        get(kv, b"a", 6)
    assert raised.value.current == 5


def test_if_match(kv: Driver) -> None:
    kv.commands(encode_put(b"a", b"1"), encode_put(b"b", b"1"))
    assert shape(kv.command(encode_put(b"a", b"2", if_match=2))) == (Status.PRECONDITION, 2, 1)
    assert shape(kv.command(encode_put(b"a", b"2", if_match=1))) == (Status.OK, 3, 2)
    assert shape(kv.command(encode_put(b"c", b"2", if_match=1))) == (Status.PRECONDITION, 3, 0)
    assert shape(kv.command(encode_put(b"c", b"2", if_match=0))) == (Status.PRECONDITION, 3, 0)  # RFC 9110, 13.1.1
    assert shape(kv.command(encode_delete(b"a", if_match=1))) == (Status.PRECONDITION, 3, 3)
    assert shape(kv.command(encode_delete(b"a", if_match=3))) == (Status.OK, 4, 0)
    assert shape(kv.command(encode_delete(b"a", if_match=3))) == (Status.PRECONDITION, 4, 0)
    assert get(kv, b"a") is None


def test_if_none_match(kv: Driver) -> None:
    assert shape(kv.command(encode_put(b"a", b"1", if_none_match=True))) == (Status.CREATED, 1, 1)
    assert shape(kv.command(encode_put(b"a", b"2", if_none_match=True))) == (Status.PRECONDITION, 1, 1)
    kv.command(encode_delete(b"a"))
    assert shape(kv.command(encode_put(b"a", b"3", if_none_match=True))) == (Status.CREATED, 3, 1)


def test_delete(kv: Driver) -> None:
    assert shape(kv.command(encode_delete(b"a"))) == (Status.NOT_FOUND, 0, 0)
    kv.command(encode_put(b"a", b"1"))
    assert shape(kv.command(encode_delete(b"a"))) == (Status.OK, 2, 0)
    assert shape(kv.command(encode_delete(b"a"))) == (Status.NOT_FOUND, 2, 0)
    assert get(kv, b"a") is None


def test_what_fails_takes_no_revision_and_leaves_no_trace(kv: Driver) -> None:
    kv.command(encode_put(b"a", b"1"))
    with kv.environment.reader() as trees:
        before = read_head(trees)
    kv.time_ms += 60_000
    kv.commands(
        encode_put(b"a", b"2", if_none_match=True), encode_put(b"b", b"", if_match=1), encode_delete(b"b"), b"?"
    )
    with kv.environment.reader() as trees:
        assert read_head(trees) == before


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\xc1",
        msgspec.msgpack.encode([9, b"k"]),
        msgspec.msgpack.encode([1, b"k"]),
        msgspec.msgpack.encode([1, "text", b"v"]),
        msgspec.msgpack.encode([1, b"k", b"v", "one"]),
        msgspec.msgpack.encode({"key": b"k"}),
        encode_put(b"", b"v"),
        encode_put(b"k" * (MAX_KEY_BYTES + 1), b"v"),
        encode_put(b"k", bytes(MAX_VALUE_BYTES + 1)),
        encode_delete(b""),
        encode_delete(b"k" * (MAX_KEY_BYTES + 1)),
    ],
)
def test_whatever_the_log_holds_apply_answers(kv: Driver, payload: bytes) -> None:
    """No log entry can make apply fail; the commands around it are applied."""
    results = kv.commands(encode_put(b"a", b"1"), payload, encode_put(b"b", b"1"))
    assert [r.status for r in results] == [Status.CREATED, Status.INVALID, Status.CREATED]
    assert kv.environment.revision == 2


def test_conditions_of_any_number_are_answered(kv: Driver) -> None:
    kv.command(encode_put(b"a", b"1"))
    for number in (-(2**63), -1, 2**63, 2**64 - 1):
        assert kv.command(encode_put(b"a", b"", if_match=number)).status == Status.PRECONDITION
    assert kv.command(encode_compact(-(2**63))).status == Status.COMPACTED
    assert kv.command(encode_compact(2**64 - 1)).status == Status.FUTURE


def test_the_largest_key_and_value(kv: Driver) -> None:
    """Rules 23 and 33: the bounds are reached, at both ends of the byte range."""
    for byte in (b"\0", b"\xff"):
        key, value = byte * MAX_KEY_BYTES, byte * MAX_VALUE_BYTES
        assert kv.command(encode_put(key, value)).status == Status.CREATED
        item = get(kv, key)
        assert item is not None
        assert item.value == value
        assert kv.command(encode_put(key, b"")).status == Status.OK


def test_validation_says_what_is_wrong() -> None:
    validate.check_key(b"k" * MAX_KEY_BYTES)
    validate.check_value(bytes(MAX_VALUE_BYTES))
    validate.check_prefix(b"")
    validate.check_limit(1000)
    validate.check_revision(1)
    with pytest.raises(Invalid, match="at least one byte"):
        validate.check_key(b"")
    with pytest.raises(TooLarge, match="1,537 bytes; at most 1,536"):
        validate.check_key(b"k" * 1537)
    with pytest.raises(TooLarge, match="1,572,865 bytes"):
        validate.check_value(bytes(MAX_VALUE_BYTES + 1))
    with pytest.raises(TooLarge, match="prefix"):
        validate.check_prefix(b"k" * 1537)
    for limit in (0, -1, 1001):
        with pytest.raises(Invalid, match="limit"):
            validate.check_limit(limit)
    for revision in (0, -1, 2**63):
        with pytest.raises(Invalid, match="revision"):
            validate.check_revision(revision)


def test_the_machines_own_queries(kv: Driver) -> None:
    """The protocol's `query`, in the machine's own encoding."""
    kv.commands(encode_put(b"a", b"1"), encode_put(b"b", b"2"))
    with kv.environment.reader() as trees:
        answer = kv.machine.query(trees, msgspec.msgpack.encode(GetQuery(b"a")))
        assert msgspec.msgpack.decode(answer, type=KeyValue) == KeyValue(b"a", b"1", 1, 1, 1)
        assert kv.machine.query(trees, msgspec.msgpack.encode(GetQuery(b"z"))) == msgspec.msgpack.encode(None)
        answer = kv.machine.query(trees, msgspec.msgpack.encode(ListQuery(limit=1)))
        assert msgspec.msgpack.decode(answer, type=Page) == Page((KeyValue(b"a", b"1", 1, 1, 1),), 1, True, b"a", 2)
        for wrong in (b"", b"\x93\x07", msgspec.msgpack.encode(ListQuery(limit=0))):
            with pytest.raises(Invalid):
                kv.machine.query(trees, wrong)
        with pytest.raises(store.FutureRevision):
            kv.machine.query(trees, msgspec.msgpack.encode(GetQuery(b"a", 9)))
