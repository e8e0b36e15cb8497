"""The store against a model of a dozen lines: any commands, any grouping, any reads, compaction and sweeps between."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.state_driver import Driver, TickingClock, apply

from oarlock.kv import (
    Compacted,
    FutureRevision,
    KeyValue,
    KvMachine,
    encode_compact,
    encode_delete,
    encode_put,
    get,
    list_page,
)
from oarlock.kv.head import KEYS, REVISIONS, read_head
from oarlock.kv.layout import MAX_KEY_BYTES, escape, unescape
from oarlock.kv.machine import scan_digest
from oarlock.machine import Environment, Status

KEYS_IN_USE = [b"a", b"a\0", b"ab", b"abcdefg", b"abcdefg\0", b"abcdefgh", b"abcdefgh\0", b"abcdefghi", b"b"]
KEYS_IN_USE += [b"\xff", b"\xff\xff"]
keys = st.sampled_from(KEYS_IN_USE[:2]) | st.sampled_from(KEYS_IN_USE)  # few, so that one has a history ...
values = st.binary(max_size=20)
revisions = st.integers(0, 6) | st.integers(0, 30)
conditions = st.none() | st.none() | revisions  # ... and most commands take effect

commands = st.one_of(
    st.tuples(st.just("put"), keys, values, conditions, st.sampled_from((False, False, True))),
    st.tuples(st.just("delete"), keys, conditions),
    st.tuples(st.just("compact"), revisions),
)
steps = st.one_of(
    st.tuples(st.just("batch"), st.lists(commands, min_size=1, max_size=6)),
    st.tuples(st.just("sweep"), st.integers(1, 5)),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("forget")),  # all that may be: nothing is left of a key that was deleted last
)


BORN, DEAD = ("put", b"a", b"", None, False), ("delete", b"a", None)


class Model:
    """Every state the store has been in."""

    def __init__(self) -> None:
        self.states: list[dict[bytes, KeyValue]] = [{}]
        self.floor = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def apply(self, command: tuple) -> int:  # type: ignore[type-arg]
        now = self.states[-1]
        match command:
            case ("put", key, value, if_match, if_none_match):
                old = now.get(key)
                if (if_none_match and old) or (if_match is not None and (old is None or old.mod_revision != if_match)):
                    return Status.PRECONDITION
                new = self.revision + 1
                item = KeyValue(key, value, old.create_revision if old else new, new, old.version + 1 if old else 1)
                self.states.append({**now, key: item})
                return Status.OK if old else Status.CREATED
            case ("delete", key, if_match):
                old = now.get(key)
                if if_match is not None and (old is None or old.mod_revision != if_match):
                    return Status.PRECONDITION
                if old is None:
                    return Status.NOT_FOUND
                self.states.append({k: v for k, v in now.items() if k != key})
                return Status.OK
            case ("compact", revision):
                if revision > self.revision:
                    return Status.FUTURE
                if revision <= self.floor:
                    return Status.COMPACTED
                self.floor = revision
                return Status.OK
        raise AssertionError(command)


def encode(command: tuple) -> bytes:  # type: ignore[type-arg]
    kind, *rest = command
    return {"put": encode_put, "delete": encode_delete, "compact": encode_compact}[kind](*rest)


def check(environment: Environment, model: Model) -> None:
    with environment.reader() as trees:
        head = read_head(trees)
        assert (head.revision, head.floor) == (model.revision, model.floor)
        assert scan_digest(trees) == head.digest
        for revision in range(model.revision + 2):
            for key in KEYS_IN_USE:
                try:
                    found: object = get(trees, key, revision)
                except Compacted:
                    assert revision < model.floor
                except FutureRevision:
                    assert revision > model.revision
                else:
                    assert model.floor <= revision <= model.revision
                    assert found == model.states[revision].get(key)
        for revision in range(model.floor, model.revision + 1):
            for prefix in (b"", b"a", b"abcdefgh", b"\xff"):
                expected = [v for k, v in sorted(model.states[revision].items()) if k.startswith(prefix)]
                assert list(list_page(trees, prefix, revision=revision).items) == expected
                paged, after, more = [], b"", True
                while more:
                    part = list_page(trees, prefix, after, 2, revision=revision)
                    paged += part.items
                    after, more = part.after, part.more
                assert paged == expected


@example([("batch", [BORN]), ("batch", [DEAD]), ("forget",), ("batch", [BORN])], 1)  # the revision goes on from there
@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=10), st.integers(1, 5))
def test_the_store_is_its_model(run: list[tuple], grouping: int) -> None:  # type: ignore[type-arg]
    """Rules 22, 24, 26 and 27: model equality, and one state hash however the log is grouped and swept."""
    with tempfile.TemporaryDirectory() as directory:
        driver, model = Driver(Path(directory) / "state.mdb", KvMachine()), Model()
        for kind, *rest in run:
            if kind == "batch":
                driver.time_ms += 20_000
                results = driver.commands(*[encode(c) for c in rest[0]])
                for result, command in zip(results, rest[0], strict=True):
                    assert result.status == model.apply(command)
                assert results[-1].revision == model.revision
            elif kind == "sweep":
                driver.environment.maintain(rest[0] + 0.5, TickingClock())
            elif kind == "forget":
                forgotten = ("compact", model.revision)
                assert driver.commands(encode(forgotten))[0].status == model.apply(forgotten)
                driver.maintain()
            else:
                driver.reopen()
            check(driver.environment, model)
        other = Environment.open(Path(directory) / "other.mdb", KvMachine())
        for at in range(0, len(driver.entries), grouping):
            apply(other, driver.entries[at : at + grouping])
        assert other.state_hash == driver.environment.state_hash
        other.close()
        driver.maintain()
        check(driver.environment, model)
        with driver.environment.reader() as trees:
            readable = {i for state in model.states[model.floor :] for i in state.values()}
            buried = sum(
                1 for r in range(model.floor + 1, model.revision + 1) if len(model.states[r]) < len(model.states[r - 1])
            )
            for name in (KEYS, REVISIONS):  # after a sweep nothing is left that cannot be read
                assert trees.txn.stat(trees.named[name])["entries"] == len(readable) + buried
        driver.close()


@given(st.binary(min_size=1, max_size=MAX_KEY_BYTES), st.binary(min_size=1, max_size=40))
def test_escape_keeps_any_order(one: bytes, other: bytes) -> None:
    """Rule 22."""
    assert unescape(escape(one)) == one
    for a, b in ((one, other), (one, one + other), (one[: len(other)], other)):
        assert (escape(a) < escape(b)) == (a < b)
        assert escape(a).startswith(escape(b)) == (a == b)
