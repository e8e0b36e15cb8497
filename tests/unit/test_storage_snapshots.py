"""The snapshot store."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from tests.simdisk import Crash, SimulatedFiles, crash_at, failing, healthy
from tests.wal_model import meta

from oarlock.raft.types import Configuration, Member, PlacedConfiguration, SnapshotMeta
from oarlock.storage.errors import Corrupt, NewerFormat, OutOfSpace, WalFailed
from oarlock.storage.files import FileSystem, RealFiles
from oarlock.storage.snapshots import SnapshotStore, decode_meta, digest_file, encode_meta

DIRECTORY = Path("/snapshots")


@pytest.fixture
def disk() -> SimulatedFiles:
    return SimulatedFiles(random.Random(5))


def contents(index: int) -> bytes:
    return f"state at {index}".encode() * 100


def meta_of(index: int, term: int, data: bytes | None = None) -> SnapshotMeta:
    data = contents(index) if data is None else data
    return meta(index, term, hashlib.sha256(data).hexdigest(), len(data))


def write(files: FileSystem, path: Path, data: bytes) -> None:
    handle = files.create(path)
    files.write(handle, (data,), 0)
    files.close(handle)


def publish(store: SnapshotStore, files: FileSystem, index: int, term: int = 1) -> SnapshotMeta:
    one = meta_of(index, term)
    path = store.staging(one)
    write(files, path, contents(index))
    return store.publish(path, one)


def places(store: SnapshotStore) -> list[tuple[int, int]]:
    return [(one.term, one.index) for one in store.metas()]


def test_publish_on_the_real_file_system(tmp_path: Path) -> None:
    files = RealFiles()
    store = SnapshotStore(tmp_path / "snapshots", files)
    one = publish(store, files, 7)
    assert store.path(one) == tmp_path / "snapshots" / "1-7" / "state.mdb"
    assert store.path(one).read_bytes() == contents(7)
    assert digest_file(store.path(one), files) == (one.digest, one.size_bytes)
    assert SnapshotStore(tmp_path / "snapshots", files).metas() == [one]
    assert store.verify(one)


def test_latest_snapshot_numeric_order(disk: SimulatedFiles) -> None:
    """Pitfall S11: by (term, index) as numbers; as names, 10-9 would come before 9-1000."""
    store = SnapshotStore(DIRECTORY, disk)
    publish(store, disk, 1000, 9)
    publish(store, disk, 2000, 10)
    assert places(store) == [(9, 1000), (10, 2000)]
    publish(store, disk, 900, 9)
    assert places(store) == [(9, 1000), (10, 2000)]


def test_two_are_kept_and_every_pinned_one(disk: SimulatedFiles) -> None:
    """Rule 19: a transfer's snapshot outlives newer ones."""
    store = SnapshotStore(DIRECTORY, disk)
    pinned = publish(store, disk, 10)
    store.pin(pinned)
    store.pin(pinned)
    for index in (20, 30, 40):
        publish(store, disk, index)
    assert places(store) == [(1, 10), (1, 30), (1, 40)]
    store.unpin(pinned)
    assert store.prune() == []
    store.unpin(pinned)
    assert store.prune() == [pinned]
    assert places(store) == [(1, 30), (1, 40)]


def test_publish_is_durable_and_ordered(disk: SimulatedFiles) -> None:
    """Rule 18: file, meta and directory are synced before the name is there, and the name before it returns."""
    store = SnapshotStore(DIRECTORY, disk)
    one = meta_of(10, 1)
    path = store.staging(one)
    write(disk, path, contents(10))
    disk.operations.clear()
    store.publish(path, one)
    steps = [step for step in disk.operations if step[0] in ("sync", "sync_directory", "rename")]
    staged = path.parent.name
    assert steps[:5] == [
        ("sync", "meta"),
        ("sync", "state.mdb"),
        ("sync_directory", staged),
        ("rename", staged),
        ("sync_directory", "snapshots"),
    ]
    disk.power_loss(0)
    assert SnapshotStore(DIRECTORY, disk).verify(one)


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
def test_a_crash_at_every_operation_of_a_publication(survives: float) -> None:
    """Rule 18: what a published name stands for is whole, and a sound snapshot is there at every moment."""
    finished, at, seen = False, 0, set()
    while not finished:
        disk = SimulatedFiles(random.Random(at))
        store = SnapshotStore(DIRECTORY, disk)
        for index in (10, 20):
            publish(store, disk, index)
        disk.fail = crash_at(at)
        try:
            publish(store, disk, 30)
            finished = True
        except Crash:
            pass
        disk.fail = healthy
        disk.power_loss(survives)
        store = SnapshotStore(DIRECTORY, disk)
        assert all(store.verify(one) for one in store.metas())
        assert store.damaged() == []
        seen.add(tuple(one.index for one in store.metas()))
        store.discard_partial()
        assert [name for name in disk.listdir(DIRECTORY) if not name.startswith("1-")] == []
        at += 1
    assert {(10, 20), (20, 30)} <= seen
    assert all(len(indices) >= 2 for indices in seen)


def test_corrupt_snapshot_not_installed(disk: SimulatedFiles) -> None:
    """Pitfall S12: it does not verify; set aside, it no longer counts as one of the two that are kept."""
    store = SnapshotStore(DIRECTORY, disk)
    older, newer = publish(store, disk, 10), publish(store, disk, 20)
    disk.flip(store.path(newer), 55, 3)
    assert not store.verify(newer)
    assert store.verify(older)
    store.set_aside(newer)
    assert (store.metas(), store.damaged()) == ([older], ["damaged-1-20"])
    publish(store, disk, 30)
    assert places(store) == [(1, 10), (1, 30)]
    assert store.damaged() == []


@pytest.mark.parametrize("damage", ["flip", "cut", "unlink"])
def test_a_damaged_meta_file_sets_its_snapshot_aside(disk: SimulatedFiles, damage: str) -> None:
    """Pitfall S12."""
    store = SnapshotStore(DIRECTORY, disk)
    older, newer = publish(store, disk, 10), publish(store, disk, 20)
    path = store.path(newer).with_name("meta")
    {"flip": lambda: disk.flip(path, 20, 1), "cut": lambda: disk.cut(path, 9), "unlink": lambda: disk.unlink(path)}[
        damage
    ]()
    assert store.metas() == [older]
    assert store.damaged() == ["damaged-1-20"]
    assert publish(store, disk, 20) == newer


def test_every_flipped_bit_of_a_meta_file() -> None:
    data = encode_meta(meta_of(10, 1))
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(Corrupt):
            decode_meta(bytes(damaged))


def test_a_newer_meta_is_refused(disk: SimulatedFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 34: not set aside as damaged, not counted."""
    store = SnapshotStore(DIRECTORY, disk)
    with monkeypatch.context() as later:
        later.setattr("oarlock.storage.snapshots.FORMAT_VERSION", 2)
        publish(store, disk, 10)
    with pytest.raises(NewerFormat):
        store.metas()
    assert store.damaged() == []


def test_snapshot_conf_state_roundtrip_joint(disk: SimulatedFiles) -> None:
    """Pitfall S4: a joint configuration with learners and tombstones comes back as it was."""
    members = [Member(f"{name}-0123456789abcdef", f"http://{name}:2380", f"http://{name}:2379") for name in "abcd"]
    joint = Configuration((members[0], members[1]), (members[2],), (members[3],), ("x-0000000000000000",), 3)
    data = contents(9)
    digest = hashlib.sha256(data).hexdigest()
    one = SnapshotMeta(9, 4, 123, PlacedConfiguration(8, 4, joint), 2, len(data), digest)
    store = SnapshotStore(DIRECTORY, disk)
    path = store.staging(one)
    write(disk, path, data)
    store.publish(path, one)
    assert SnapshotStore(DIRECTORY, disk).metas() == [one]


def test_a_sound_snapshot_of_the_same_place_stays(disk: SimulatedFiles) -> None:
    """A copy and a transfer may make the same one twice; a damaged one is replaced."""
    store = SnapshotStore(DIRECTORY, disk)
    first = publish(store, disk, 10)
    other = meta_of(10, 1, b"the same state in another file")
    path = store.staging(other)
    write(disk, path, b"the same state in another file")
    assert store.publish(path, other) == first
    assert store.verify(first)
    disk.flip(store.path(first), 3, 0)
    path = store.staging(other)
    write(disk, path, b"the same state in another file")
    assert store.publish(path, other) == other
    assert store.metas() == [other]
    assert store.verify(other)


def test_staging_tells_files_apart(disk: SimulatedFiles) -> None:
    """A broken transfer is continued only into the file that it belongs to."""
    store = SnapshotStore(DIRECTORY, disk)
    one, other = meta(5, 1, "a" * 64), meta(5, 1, "b" * 64)
    write(disk, store.staging(one), b"half")
    assert disk.exists(store.staging(one))
    assert not disk.exists(store.staging(other))
    assert not disk.exists(store.staging(meta(5, 1, "")))
    assert store.metas() == []
    store.discard_partial()
    assert disk.listdir(DIRECTORY) == []


def test_a_full_disk_and_a_broken_one(disk: SimulatedFiles) -> None:
    """Rule 5: without space nothing is published and the same call succeeds later; another error is fatal."""
    store = SnapshotStore(DIRECTORY, disk)
    one = meta_of(10, 1)
    path = store.staging(one)
    write(disk, path, contents(10))
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(OutOfSpace):
        store.publish(path, one)
    assert store.metas() == []
    disk.capacity_bytes = None
    assert store.publish(path, one) == one
    other = meta_of(20, 1)
    path = store.staging(other)
    write(disk, path, contents(20))
    disk.fail = failing("sync", "state.mdb")
    with pytest.raises(WalFailed):
        store.publish(path, other)
    disk.fail = healthy
    assert store.metas() == [one]
