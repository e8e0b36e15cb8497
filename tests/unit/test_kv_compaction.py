"""The floor moves in apply; what lies below it is swept apart from it (rule 24)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from tests.state_driver import Driver, TickingClock, apply, never

from oarlock.kv import Compacted, KvMachine, encode_compact, encode_delete, encode_put, get, list_page, sweep, trail
from oarlock.kv.commands import Compact, decode_operation
from oarlock.kv.head import KEYS, REVISIONS, TRAIL, read_head
from oarlock.kv.machine import scan_digest
from oarlock.machine import Environment, OutOfSpace, Status


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", KvMachine())
    yield driver
    driver.close()


def sizes(environment: Environment) -> tuple[int, int]:
    """Records in the trees of keys and of revisions."""
    with environment.reader() as trees:
        return tuple(trees.txn.stat(trees.named[name])["entries"] for name in (KEYS, REVISIONS))  # type: ignore[return-value]


def due(kv: Driver) -> int | None:
    with kv.environment.reader() as trees:
        payload = kv.machine.housekeeping(trees, kv.time_ms)
    if payload is None:
        return None
    operation = decode_operation(payload)
    assert isinstance(operation, Compact)
    return operation.revision


def test_compact_moves_only_the_floor(kv: Driver) -> None:
    """Rule 24: a compaction of any size costs apply nothing, and deletes nothing."""
    kv.commands(*[encode_put(b"a", b"%d" % n) for n in range(10)])
    before = sizes(kv.environment)
    assert kv.command(encode_compact(8)).status == Status.OK
    assert sizes(kv.environment) == before == (10, 10)
    assert kv.environment.revision == 10
    with kv.environment.reader() as trees:
        with pytest.raises(Compacted) as raised:
            get(trees, b"a", 7)
        assert raised.value.floor == 8
        at_floor = get(trees, b"a", 8)
        assert at_floor is not None
        assert at_floor.value == b"7"


def test_a_floor_never_goes_back(kv: Driver) -> None:
    kv.commands(*[encode_put(b"a", b"%d" % n) for n in range(10)])
    assert kv.command(encode_compact(5)).status == Status.OK
    assert kv.command(encode_compact(5)).status == Status.COMPACTED
    assert kv.command(encode_compact(4)).status == Status.COMPACTED
    assert kv.command(encode_compact(11)).status == Status.FUTURE
    with kv.environment.reader() as trees:
        assert read_head(trees).floor == 5


def test_the_example_in_the_sweeps_docstring(kv: Driver) -> None:
    for command in (
        encode_put(b"a", b"1"),
        encode_put(b"b", b"1"),
        encode_put(b"a", b"2"),
        encode_delete(b"b"),
        encode_put(b"a", b"3"),
        encode_compact(4),
    ):
        kv.command(command)
    kv.maintain()
    assert sizes(kv.environment) == (2, 2)
    with kv.environment.reader() as trees:
        at_floor = get(trees, b"a", 4)
        assert at_floor is not None
        assert at_floor.value == b"2"
        assert get(trees, b"b", 4) is None
        assert get(trees, b"b") is None


def test_sweeping_changes_nothing_that_can_be_read(kv: Driver) -> None:
    """Every read at or above the floor is the same before, between any two steps, and after."""

    def everything() -> list[object]:
        with kv.environment.reader() as trees:
            return [
                list_page(trees, revision=r) for r in range(kv.environment.revision - 9, kv.environment.revision + 1)
            ]

    for n in range(60):
        name = b"k%d" % (n * 7 % 11)
        kv.command(encode_delete(name) if n % 5 == 4 else encode_put(name, b"%d" % n))
    kv.command(encode_compact(kv.environment.revision - 9))
    before, hash_before, slices = everything(), kv.environment.state_hash, 0
    while kv.environment.maintain(0.5, TickingClock()):
        slices += 1
        assert everything() == before
    assert slices > 20  # one step each
    assert everything() == before
    assert kv.environment.state_hash == hash_before
    with kv.environment.reader() as trees:
        live = {i.key for i in list_page(trees).items}
        assert scan_digest(trees) == read_head(trees).digest
    kv.command(encode_compact(kv.environment.revision))
    kv.maintain()
    assert sizes(kv.environment) == (len(live), len(live))  # nothing is left but what is current


def test_a_sweep_resumes_where_it_stopped(kv: Driver) -> None:
    kv.commands(*[encode_put(b"a", b"%d" % n) for n in range(10)])
    kv.command(encode_compact(4))
    kv.maintain()
    assert sizes(kv.environment) == (7, 7)
    kv.command(encode_compact(9))
    assert kv.environment.maintain(0.5, TickingClock()) is True
    assert sizes(kv.environment) == (6, 6)
    kv.reopen()
    kv.maintain()
    assert sizes(kv.environment) == (2, 2)
    assert kv.environment.maintain(0.5, TickingClock()) is False


def test_maintenance_waits_for_a_job(kv: Driver) -> None:
    """One write transaction at a time: the second would wait for the first on the same thread, for ever."""
    kv.commands(encode_put(b"a", b"1"), encode_put(b"a", b"2"), encode_compact(2))
    job = kv.environment.begin([kv.batch(encode_put(b"a", b"3"))])
    assert kv.environment.maintain(1.0, never) is True
    assert sizes(kv.environment) == (2, 2)
    job.abort()
    assert kv.environment.maintain(1.0, never) is False
    assert sizes(kv.environment) == (1, 1)


def test_maintenance_on_a_full_disk_is_put_off(kv: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    kv.commands(encode_put(b"a", b"1"), encode_put(b"a", b"2"), encode_compact(2))

    def full(trees: object, enough: object) -> None:
        error = lmdb.Error("mdb_put: No space left on device")
        error.code = errno.ENOSPC  # type: ignore[misc]  # as the binding does
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "sweep", full)
        with pytest.raises(OutOfSpace):
            kv.environment.maintain(1.0, never)
    kv.maintain()
    assert sizes(kv.environment) == (1, 1)


def test_crash_in_compaction_revision_monotonic(tmp_path: Path) -> None:
    """Pitfall X12: killed at each step of a sweep and right after it, the store opens at the same revision, floor and
    hash, reads the same, and the next sweep comes to its end."""
    path = tmp_path / "state.mdb"
    driver = Driver(path, KvMachine())
    for n in range(12):
        driver.command(encode_delete(b"k") if n % 4 == 3 else encode_put(b"k", b"%d" % n))
    driver.command(encode_compact(11))
    with driver.environment.reader() as trees:
        page = list_page(trees, revision=11)
    before = (driver.environment.applied, driver.environment.revision, driver.environment.state_hash)
    driver.close()
    for steps in range(14):
        child = os.fork()
        if child == 0:
            try:
                environment = Environment.open(path, KvMachine())
                environment.maintain(100.0, DyingClock(steps))
                environment.maintain(100.0, never)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        environment = Environment.open(path, KvMachine())
        assert (environment.applied, environment.revision, environment.state_hash) == before
        with environment.reader() as trees:
            assert list_page(trees, revision=11) == page
        assert sizes(environment) == ((12, 12) if steps < 12 else (2, 2)), steps
        environment.close()
    driver.reopen()
    driver.maintain()
    assert driver.command(encode_put(b"k", b"after")).revision == 13
    driver.close()


class DyingClock:
    """Is looked at once before a sweep and after each of its steps; kills the process when the looks run out."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> float:
        if not self.looks:
            os.kill(os.getpid(), signal.SIGKILL)
        self.looks -= 1
        return 0.0


def test_five_minutes_of_revisions_are_kept(kv: Driver) -> None:
    """Rule 24: under steady writes the proposed floor follows at a distance of five minutes of cluster time, and never
    less; proposals come with the samples, not with every look."""
    revision_at: dict[int, int] = {}
    proposals = 0
    for _ in range(1000):
        kv.time_ms += 1000
        kv.commands(encode_put(b"a", b"v"), encode_put(b"b", b"v"))
        revision_at[kv.time_ms] = kv.environment.revision
        floor = due(kv)
        if floor is not None:
            proposals += 1
            assert floor <= revision_at[kv.time_ms - trail.RETAIN_MS]
            assert floor >= revision_at.get(kv.time_ms - trail.RETAIN_MS - trail.SAMPLE_MS - 1000, 0)
            assert kv.command(encode_compact(floor)).status == Status.OK
            assert due(kv) is None
    assert 60 <= proposals <= 80


def test_an_idle_store_is_compacted_to_its_revision(kv: Driver) -> None:
    kv.commands(*[encode_put(b"a", b"%d" % n) for n in range(5)])
    assert due(kv) is None
    kv.time_ms += trail.RETAIN_MS - 1
    assert due(kv) is None
    kv.time_ms += 1
    assert due(kv) == 5
    kv.command(encode_compact(5))
    assert due(kv) is None
    kv.maintain()
    assert sizes(kv.environment) == (1, 1)


def test_the_trail_is_bounded(kv: Driver) -> None:
    """Rule 33: also if nobody ever compacts."""
    for _ in range(200):
        kv.time_ms += trail.SAMPLE_MS
        kv.command(encode_put(b"a", b"v"))
    with kv.environment.reader() as trees:
        samples = trees.txn.stat(trees.named[TRAIL])["entries"]
    assert samples == trail.RETAIN_MS // trail.SAMPLE_MS + 1


def test_housekeeping_is_the_same_on_a_member_that_replays(kv: Driver, tmp_path: Path) -> None:
    """The trail is replicated: the next leader knows what the last one knew."""
    for _ in range(80):
        kv.time_ms += 7000
        kv.command(encode_put(b"a", b"v"))
    other = Environment.open(tmp_path / "other.mdb", KvMachine())
    apply(other, kv.entries)
    with other.reader() as trees:
        there = kv.machine.housekeeping(trees, kv.time_ms)
    assert there is not None
    with kv.environment.reader() as trees:
        assert kv.machine.housekeeping(trees, kv.time_ms) == there
    other.close()


def test_sweeping_costs_by_changes_not_by_keys(kv: Driver) -> None:
    """A second compaction of a large store that has changed little takes few steps."""
    kv.commands(*[encode_put(b"k%04d" % n, b"v") for n in range(2000)])
    kv.command(encode_compact(2000))
    kv.maintain()
    kv.commands(encode_put(b"k0007", b"w"), encode_compact(2001))
    looks = 0

    def counting() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    assert kv.environment.maintain(1.0, counting) is False
    assert looks <= 4
    with kv.environment.reader() as trees:
        assert sweep.sweep_due(trees) is False
