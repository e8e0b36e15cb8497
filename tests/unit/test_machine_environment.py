"""One file is the state: opening, copying, closing, and a disk that is full."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from tests.counter_machine import CounterMachine
from tests.state_driver import Driver, apply, never

from oarlock.kv import KvMachine, encode_compact, encode_delete, encode_put, get, list_page
from oarlock.machine import Applied, ApplyJob, Command, Content, Environment, OutOfSpace, Status, WrongState, state
from oarlock.machine import environment as environment_module
from oarlock.machine.protocol import Head
from oarlock.raft.types import Configuration, Member, PlacedConfiguration

A = Member("a-0000000000000001", "http://a:2380", "http://a:2379")
B = Member("b-0000000000000002", "http://b:2380", "http://b:2379")
C = Member("c-0000000000000003", "http://c:2380", "http://c:2379", promote=True)
JOINT = Configuration((A,), (B, C), (A, B), ("d-0000000000000004",), 3)


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state.mdb", KvMachine())
    yield driver
    driver.close()


@contextmanager
def disk_full(path: Path) -> Iterator[None]:
    """No file can grow beyond what this one has (EFBIG, which LMDB reports as it does ENOSPC: a short write)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_file_is_an_empty_state(kv: Driver) -> None:
    environment = kv.environment
    assert environment.applied == Applied(0, 0, 0)
    assert environment.placed == PlacedConfiguration(0, 0, Configuration())
    assert (environment.cluster_version, environment.revision) == (0, 0)
    assert kv.path.stat().st_mode & 0o777 == 0o600


def test_the_engine_is_lmdb_1_with_a_map_that_never_fills(kv: Driver) -> None:
    """Rules 5 and 23: the longest key, escaped, fits; the map is 1 TiB; the file is as large as what is in it."""
    env = kv.environment._env
    assert env.lib_version()[0] == 1
    assert env.info()["map_size"] == 1 << 40
    assert env.max_key_size() >= 193 * 9 + 12
    assert kv.path.stat().st_size < 1 << 20


def test_everything_survives_reopening(kv: Driver) -> None:
    kv.commands(encode_put(b"a", b"1"), Command(encode_put(b"b", b"2"), "key", bytes(16)))
    kv.configuration(JOINT)
    kv.version(1)
    before = (kv.environment.applied, kv.environment.placed, kv.environment.state_hash, kv.environment.revision)
    kv.reopen()
    after = (kv.environment.applied, kv.environment.placed, kv.environment.state_hash, kv.environment.revision)
    assert after == before
    assert kv.environment.cluster_version == 1


def test_another_machines_state_is_refused(kv: Driver) -> None:
    kv.environment.close()
    with pytest.raises(WrongState, match="belongs to the machine 'kv'"):
        Environment.open(kv.path, CounterMachine())
    kv.environment = Environment.open(kv.path, KvMachine())


def test_a_newer_format_is_refused(kv: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 34: format versions are checked, not guessed."""
    kv.environment.close()
    monkeypatch.setattr(state, "FORMAT", 2)
    with pytest.raises(WrongState, match="format 1"):
        Environment.open(kv.path, KvMachine())
    monkeypatch.undo()
    kv.environment = Environment.open(kv.path, KvMachine())


def test_a_state_of_a_newer_cluster_version_is_refused(kv: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 34: a snapshot may come from members that know more."""
    kv.version(1)
    kv.environment.close()
    monkeypatch.setattr(KvMachine, "version", 0)
    with pytest.raises(WrongState, match="cluster version 1"):
        Environment.open(kv.path, KvMachine())
    monkeypatch.undo()
    kv.environment = Environment.open(kv.path, KvMachine())


def test_a_machine_cannot_take_the_environments_trees(tmp_path: Path) -> None:
    class Greedy(CounterMachine):
        trees = ("counts", "_state")

    with pytest.raises(ValueError, match="underscore"):
        Environment.open(tmp_path / "state.mdb", Greedy())


def test_a_copy_says_what_it_covers_and_opens_as_the_state(kv: Driver, tmp_path: Path) -> None:
    """Rules 17 and 22: the file is the state; the copy carries the configuration applied at its index."""
    kv.configuration(JOINT, term=3)
    kv.version(1)
    kv.commands(*[encode_put(b"k%04d" % n, b"v" * 100) for n in range(500)])
    copy = tmp_path / "copy.mdb"
    content = kv.environment.copy_to(copy)
    assert content == Content(kv.environment.applied, PlacedConfiguration(1, 3, JOINT), 1)
    kv.command(encode_put(b"later", b""))
    restored = Environment.open(copy, KvMachine())
    assert restored.applied == content.applied
    with restored.reader() as trees:
        assert list_page(trees, count_only=True).count == 500
    apply(restored, kv.entries[-1:])
    assert restored.state_hash == kv.environment.state_hash
    restored.close()


def test_snapshot_conf_state_roundtrip_joint(kv: Driver, tmp_path: Path) -> None:
    """Pitfall S4: outgoing voters, learners to promote, tombstones and the latch are all in the snapshot."""
    kv.configuration(JOINT)
    assert kv.environment.copy_to(tmp_path / "copy.mdb").placed.configuration == JOINT
    restored = Environment.open(tmp_path / "copy.mdb", KvMachine())
    assert restored.placed == kv.environment.placed
    restored.close()


def test_snapshot_contains_sessions_and_leases(kv: Driver, tmp_path: Path) -> None:
    """Pitfall S10: idempotency records and cluster time are in the snapshot, so a retry at its receiver applies once.
    (There are no leases yet.)"""
    command = Command(encode_put(b"a", b"1"), "key", b"f" * 16)
    first = kv.command(command)
    kv.environment.copy_to(tmp_path / "copy.mdb")
    other = Driver(tmp_path / "copy.mdb", KvMachine())
    assert other.environment.applied == kv.environment.applied
    assert other.command(command) == first
    assert other.environment.revision == 1
    other.close()


def test_a_copy_is_made_while_writes_go_on(kv: Driver, tmp_path: Path) -> None:
    """Pitfall of rule 25's exception: the copy's transaction is its own, and the copy is of one moment."""
    kv.commands(*[encode_put(b"k%04d" % n, b"0" * 2000) for n in range(1000)])
    copies: list[Content] = []
    thread = threading.Thread(target=lambda: copies.append(kv.environment.copy_to(tmp_path / "copy.mdb")))
    thread.start()
    hashes = {kv.environment.applied.index: kv.environment.state_hash}
    while not copies:
        kv.commands(*[encode_put(b"k%04d" % n, b"1" * 2000) for n in range(50)])
        hashes[kv.environment.applied.index] = kv.environment.state_hash
    thread.join()
    restored = Environment.open(tmp_path / "copy.mdb", KvMachine())
    assert restored.state_hash == hashes[copies[0].applied.index]
    restored.close()


def test_the_old_state_closes_when_the_copy_has_left(
    kv: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 18: a swap closes the old environment while the snapshot thread may still be copying it."""
    kv.command(encode_put(b"a", b"1"))
    copied, go_on = threading.Event(), threading.Event()
    contents = environment_module.contents

    def slow(path: Path) -> Content:
        copied.set()
        assert go_on.wait(10)
        return contents(path)

    monkeypatch.setattr(environment_module, "contents", slow)
    copies: list[Content] = []
    thread = threading.Thread(target=lambda: copies.append(kv.environment.copy_to(tmp_path / "copy.mdb")))
    thread.start()
    assert copied.wait(10)
    kv.environment.close()
    with kv.environment._env.begin() as txn:  # still open: the copy holds it
        assert txn.id() > 0
    with pytest.raises(RuntimeError):
        kv.environment.copy_to(tmp_path / "second.mdb")  # but nothing new begins
    go_on.set()
    thread.join()
    assert copies[0].applied.index == 1
    with pytest.raises(lmdb.Error):
        kv.environment._env.begin()
    kv.environment.close()  # twice is harmless


def test_two_states_side_by_side(kv: Driver, tmp_path: Path) -> None:
    """Rule 18: state-N+1 is open and applied to while a reader still stands in state-N."""
    kv.command(encode_put(b"a", b"old"))
    kv.environment.copy_to(tmp_path / "state-2.mdb")
    new = Driver(tmp_path / "state-2.mdb", KvMachine())
    with kv.environment.reader() as trees:
        new.command(encode_put(b"a", b"new"))
        old = get(trees, b"a")
        assert old is not None
        assert old.value == b"old"
    new.close()


def test_close_drops_a_job_that_is_not_committed(kv: Driver) -> None:
    job = kv.environment.begin([kv.batch(encode_put(b"a", b"1"))])
    job.run(1.0, never)
    kv.reopen()
    assert kv.environment.applied.index == 0


def test_peek_reads_what_was_applied(kv: Driver, tmp_path: Path) -> None:
    """Rule 21: a working file is compared with the log before it is trusted."""
    kv.command(encode_put(b"a", b"1"))
    kv.noop()
    kv.environment.close()
    assert Environment.peek(kv.path) == Applied(2, 1, 1000)
    assert Environment.peek(tmp_path / "none.mdb") is None
    (tmp_path / "empty.mdb").write_bytes(b"")
    assert Environment.peek(tmp_path / "empty.mdb") is None
    (tmp_path / "garbage.mdb").write_bytes(b"\xa5" * 20000)
    assert Environment.peek(tmp_path / "garbage.mdb") is None
    with lmdb.open(str(tmp_path / "foreign.mdb"), subdir=False, max_dbs=1, lib_version=1) as foreign:
        foreign.open_db(b"something")
    assert Environment.peek(tmp_path / "foreign.mdb") is None
    kv.environment = Environment.open(kv.path, KvMachine())


def test_enospc_is_not_permanent(kv: Driver) -> None:
    """Pitfall D13, rule 5: a member that cannot apply for want of disk keeps its state, serves it, and goes on when
    there is room again, without being reopened."""
    kv.command(encode_put(b"a", b"1"))
    before = kv.environment.state_hash
    entry = kv.batch(*[encode_put(b"k%d" % n, b"v" * 100_000) for n in range(20)])
    with disk_full(kv.path):
        for _ in range(3):
            job = kv.environment.begin([entry])
            with pytest.raises(OutOfSpace):
                _run_and_commit(job)
            assert kv.environment.applied.index == 1
            assert kv.environment.state_hash == before
            with kv.environment.reader() as trees:
                assert list_page(trees).count == 1
    kv.apply([entry])
    assert kv.environment.applied.index == 2
    with kv.environment.reader() as trees:
        assert list_page(trees, count_only=True).count == 21


def test_no_room_for_a_copy_leaves_no_copy(kv: Driver, tmp_path: Path) -> None:
    kv.commands(*[encode_put(b"k%d" % n, b"v" * 50_000) for n in range(20)])
    small = tmp_path / "small"
    small.write_bytes(bytes(65536))
    with disk_full(small), pytest.raises(OutOfSpace):
        kv.environment.copy_to(tmp_path / "copy.mdb")
    assert not (tmp_path / "copy.mdb").exists()
    kv.environment.copy_to(tmp_path / "copy.mdb")


@pytest.mark.parametrize("room", [4096, 20_000])
def test_no_room_for_a_new_state(tmp_path: Path, room: int) -> None:
    """For its lock file, or for itself; and the lock file has all its room when it is mapped, else a write to it would
    end the process by SIGBUS."""
    small = tmp_path / "small"
    small.write_bytes(bytes(room))
    lock = tmp_path / "state.mdb-lock"
    with disk_full(small), pytest.raises(OutOfSpace):
        Environment.open(tmp_path / "state.mdb", KvMachine())
    assert (lock.stat().st_blocks > 0) == (room > 4096)
    Environment.open(tmp_path / "state.mdb", KvMachine()).close()
    assert lock.stat().st_blocks * 512 >= lock.stat().st_size >= 8192


def test_state_hash_covers_all_that_is_replicated(tmp_path: Path) -> None:
    """Rule 26: each kind of difference between two members shows, and equal members are equal."""

    def hash_after(name: str, *extra: str) -> str:
        driver = Driver(tmp_path / f"{name}.mdb", KvMachine())
        if "time" in extra:
            driver.time_ms += 1
        driver.command(encode_put(b"a", b"2" if "value" in extra else b"1"))
        driver.command(encode_delete(b"b") if "delete" in extra else encode_put(b"b", b"1"))
        key = "other" if "record" in extra else "key"
        driver.command(Command(encode_put(b"c", b"1"), key, bytes(16)))
        driver.command(encode_compact(2 if "floor" in extra else 1))
        driver.configuration(Configuration(voters=(B,) if "member" in extra else (A,)))
        driver.version(1) if "version" in extra else driver.noop()
        driver.close()
        return driver.environment.state_hash

    plain = hash_after("plain")
    assert len(plain) == 32
    assert plain == hash_after("same")
    for what in ("time", "value", "delete", "record", "floor", "member", "version"):
        assert hash_after(what, what) != plain, what


def test_state_hash_is_what_it_was_in_every_version() -> None:
    """Rules 26 and 34: during an upgrade members of two versions compare it. A field more in one of these structs
    changes it: whatever is to be covered anew counts only from a cluster version on that all members speak."""
    position = state.Position(7, 2, 1000, 1, 3, bytes(range(16)))
    placed = state.placed_digest(PlacedConfiguration(5, 2, JOINT))
    assert placed.hex() == "a72125597d88f5353eb8295af2f99dc1"
    assert state.state_hash(position, placed, Head(9, bytes(16))) == "eac0af2d18e57a764b52169c74f66b92"


def test_state_hash_is_the_same_after_a_copy_and_after_maintenance(kv: Driver, tmp_path: Path) -> None:
    """Rules 24 and 26: old revisions that are swept, here and not there, do not show."""
    for n in range(10):
        kv.command(encode_put(b"a", b"%d" % n))
    kv.command(encode_delete(b"a"))
    kv.command(encode_put(b"b", b"1"))
    kv.command(encode_compact(11))
    kv.environment.copy_to(tmp_path / "unswept.mdb")
    before = kv.environment.state_hash
    kv.maintain()
    assert kv.environment.state_hash == before
    kv.reopen()
    assert kv.environment.state_hash == before
    other = Environment.open(tmp_path / "unswept.mdb", KvMachine())
    assert other.state_hash == before
    other.close()


def test_a_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state.mdb"
    path.write_bytes(b"\xa5" * 20000)
    with pytest.raises(lmdb.Error):
        Environment.open(path, KvMachine())
    assert path.read_bytes() == b"\xa5" * 20000


def test_a_plain_file_copy_of_a_closed_state_opens(kv: Driver, tmp_path: Path) -> None:
    """Rule 21: a restart copies the last snapshot to become the working file."""
    kv.command(encode_put(b"a", b"1"))
    kv.environment.copy_to(tmp_path / "snapshot.mdb")
    shutil.copyfile(tmp_path / "snapshot.mdb", tmp_path / "state-2.mdb")
    other = Driver(tmp_path / "state-2.mdb", KvMachine())
    assert other.environment.state_hash == kv.environment.state_hash
    assert other.command(encode_put(b"a", b"2")).status == Status.OK
    other.close()


def _run_and_commit(job: ApplyJob) -> None:
    while not job.run(1.0, never):
        pass
    job.commit()
