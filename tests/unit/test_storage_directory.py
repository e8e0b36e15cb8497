"""The data directory: identity, lock, quarantine, and what a restart may trust."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.simdisk import Crash, SimulatedFiles, crash_at, healthy

from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import Corrupt, DirectoryInUse, IdentityMismatch, NewerFormat
from oarlock.storage.files import write_file
from oarlock.storage.identity import Identity, check_name, decode_identity, encode_identity

PATH = Path("/var/data")


@pytest.fixture
def disk() -> SimulatedFiles:
    disk = SimulatedFiles(random.Random(5))
    disk.mkdir(PATH.parent)
    disk.sync_directory(PATH.parent.parent)
    return disk


def counter() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):016x}"


NEXT = counter()


def open_directory(disk: SimulatedFiles, name: str = "a-0") -> DataDirectory:
    return DataDirectory.open(PATH, name, disk, new_incarnation=NEXT)


def put(disk: SimulatedFiles, path: Path, data: bytes = b"data") -> None:
    disk.mkdir(path.parent)
    write_file(disk, path, data)
    disk.sync_directory(path.parent)
    disk.sync_directory(path.parent.parent)


def test_a_new_directory_on_the_real_file_system(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "new" / "data", "oarlock-0")
    identity = directory.identity
    assert identity.node_id == f"oarlock-0-{identity.incarnation}"
    assert len(identity.incarnation) == 16
    assert int(identity.incarnation, 16) >= 0
    assert identity.cluster_id is None
    assert (directory.path.stat().st_mode & 0o777, directory.stopped_cleanly) == (0o700, False)
    assert directory.free_bytes() > 0
    assert directory.ballast.reserve(1 << 20)
    assert os.stat(directory.path / "ballast").st_blocks * 512 >= 1 << 20
    assert directory.ballast.reserve(1 << 20)
    assert directory.ballast.release() == 1 << 20
    assert directory.ballast.held_bytes() == 0
    directory.mark_clean_stop()
    directory.close()
    again = DataDirectory.open(tmp_path / "new" / "data", "oarlock-0")
    assert (again.identity, again.stopped_cleanly) == (identity, True)
    again.close()


def test_another_process_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "data", "a")
    program = (
        "import sys; from pathlib import Path; from oarlock.storage.directory import DataDirectory\n"
        "try: DataDirectory.open(Path(sys.argv[1]), 'a')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert answer.startswith("DirectoryInUse")
    assert "in use by another process" in answer
    directory.close()
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == ""


def test_a_second_holder_is_refused_and_a_dead_one_is_not(disk: SimulatedFiles) -> None:
    open_directory(disk)
    with pytest.raises(DirectoryInUse):
        open_directory(disk)
    disk.kill()
    open_directory(disk).close()
    assert disk.open_handles() == 0


def test_another_name_is_refused(disk: SimulatedFiles) -> None:
    open_directory(disk).close()
    with pytest.raises(IdentityMismatch, match="'a-0', not to 'b'"):
        open_directory(disk, "b")
    assert disk.open_handles() == 0
    open_directory(disk).close()


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "a" * 112, "ä"])
def test_bad_names(disk: SimulatedFiles, name: str) -> None:
    with pytest.raises(ValueError, match="no member name"):
        open_directory(disk, name)
    check_name("a" * 111)


def test_wiped_node_with_known_id_refused(disk: SimulatedFiles) -> None:
    """Pitfall D15, rule 15: a wiped directory is another node; and data whose identity is gone is nobody's."""
    directory = open_directory(disk)
    put(disk, directory.wal / "1.wal")
    first = directory.identity.node_id
    directory.close()
    disk.unlink(PATH / "identity")
    with pytest.raises(Corrupt, match="wal but no identity"):
        open_directory(disk)
    disk.unlink(directory.wal / "1.wal")
    disk.rmdir(directory.wal)
    again = open_directory(disk)
    assert again.identity.node_id != first
    assert again.identity.cluster_id is None


def test_the_identity_is_saved_atomically(disk: SimulatedFiles) -> None:
    """Rule 16: the cluster id is durable when `save` returns, and a crash leaves the old identity or the new one."""
    directory = open_directory(disk)
    old = directory.identity
    new = msgspec.structs.replace(old, cluster_id="c+nonce", pod_uid="p", volume_uid="v")
    seen = []
    for at in range(8):
        disk.fail = crash_at(at)
        try:
            directory.save(new)
            finished = True
        except Crash:
            finished = False
        disk.fail = healthy
        disk.power_loss()
        directory = open_directory(disk)
        seen.append((finished, directory.identity == new))
        assert directory.identity in (old, new)
        directory.save(old)
    assert (True, True) in seen
    assert (False, False) in seen
    assert (True, False) not in seen


def test_a_node_id_is_not_changed_by_saving(disk: SimulatedFiles) -> None:
    directory = open_directory(disk)
    for change in ({"node_id": "a-0-ffffffffffffffff"}, {"name": "b"}):
        with pytest.raises(ValueError, match="quarantine only"):
            directory.save(msgspec.structs.replace(directory.identity, **change))


def test_every_flipped_bit_of_an_identity() -> None:
    data = encode_identity(Identity(name="a", node_id="a-0123456789abcdef", cluster_id="c"))
    assert decode_identity(data).cluster_id == "c"
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(Corrupt):
            decode_identity(bytes(damaged))


def test_a_newer_format_is_refused(disk: SimulatedFiles) -> None:
    """Rule 34: clearly, and whatever else the newer file holds."""
    directory = open_directory(disk)
    directory.save(msgspec.structs.replace(directory.identity, format=2))
    directory.close()
    with pytest.raises(NewerFormat, match="format version 2; this version reads up to 1"):
        open_directory(disk)


def test_quarantine_puts_all_data_aside(disk: SimulatedFiles) -> None:
    directory = open_directory(disk)
    for part in (directory.wal, directory.snapshots, directory.state):
        put(disk, part / "file")
    directory.save(msgspec.structs.replace(directory.identity, cluster_id="c", pod_uid="p", volume_uid="v"))
    old = directory.identity
    target = directory.quarantine("request-1")
    fresh = directory.identity
    assert target == PATH / "quarantine-1"
    assert disk.listdir(target) == ["identity", "snapshots", "state", "wal"]
    assert decode_identity(disk.contents(target / "identity")) == old
    assert not any(map(disk.exists, (directory.wal, directory.snapshots, directory.state)))
    assert fresh.node_id != old.node_id
    assert (fresh.cluster_id, fresh.bootstrap, fresh.pod_uid, fresh.volume_uid) == (None, None, "p", "v")
    [record] = fresh.reset_requests
    assert (record.request_id, record.old_node_id, record.node_id) == ("request-1", old.node_id, fresh.node_id)
    assert record.quarantine == "quarantine-1"
    assert directory.quarantine() == PATH / "quarantine-2"
    assert directory.identity.reset_requests == (record,)
    disk.power_loss(0)
    assert open_directory(disk).identity == directory.identity


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
def test_a_crash_at_every_operation_of_a_quarantine(survives: float) -> None:
    """Pitfall D15: the old id is never there without all of its data, the new one never with any of it; and nothing is
    lost."""
    outcomes = set()
    for seed in range(60 * (12 if survives == 0.5 else 1)):
        at = seed % 60
        disk = SimulatedFiles(random.Random(seed))
        disk.mkdir(PATH.parent)
        disk.sync_directory(PATH.parent.parent)
        directory = open_directory(disk)
        old = directory.identity.node_id
        parts = (directory.wal, directory.snapshots, directory.state)
        for part in parts:
            put(disk, part / "file")
        disk.fail = crash_at(at)
        try:
            directory.quarantine()
            finished = True
        except Crash:
            finished = False
        disk.fail = crash_at(at // 2)
        disk.power_loss(survives)
        try:
            directory = open_directory(disk)
        except Crash:
            disk.power_loss(survives)
            disk.fail = healthy
            directory = open_directory(disk)
        there = [disk.exists(part / "file") for part in parts]
        moved = [disk.exists(PATH / "quarantine-1" / part.name / "file") for part in parts]
        same = directory.identity.node_id == old
        assert there == [same] * 3
        assert moved == [not same] * 3
        assert not (finished and same)
        outcomes.add((same, finished))
    assert outcomes == {(True, False), (False, False), (False, True)}


def test_the_clean_stop_marker_counts_once(disk: SimulatedFiles) -> None:
    """Rule 21: durable when it is set, and gone for good before the next process writes anything."""
    directory = open_directory(disk)
    directory.mark_clean_stop()
    disk.power_loss(0)
    assert open_directory(disk).stopped_cleanly
    disk.power_loss(0)
    assert not open_directory(disk).stopped_cleanly


def test_a_reset_that_a_full_disk_refuses_leaves_nothing_to_trust(disk: SimulatedFiles) -> None:
    """Rule 21: its engine has ended, and perhaps could not sync the state; the same process reads it again."""
    open_directory(disk).mark_clean_stop()
    disk.kill()
    directory = open_directory(disk)
    assert directory.stopped_cleanly
    identity = directory.identity
    disk.capacity_bytes = disk.used_bytes() + 10
    for _ in range(3):
        with pytest.raises(OSError, match="no space"):
            directory.quarantine("r1")
        assert not directory.stopped_cleanly
        assert directory.identity == identity
    disk.capacity_bytes = None
    assert directory.quarantine("r1").name == "quarantine-1", "each try left one"
    assert disk.listdir(directory.path / "quarantine-1") == ["identity"]


def test_a_process_that_was_killed_did_not_stop_cleanly(disk: SimulatedFiles) -> None:
    """Rule 21: on the same boot, too."""
    for _ in range(2):
        assert not open_directory(disk).stopped_cleanly
        disk.kill()


def test_a_crash_while_a_clean_stop_is_consumed(disk: SimulatedFiles) -> None:
    """Rule 21: whatever a start wrote, the start after it never takes the marker of the stop before for its own."""
    directory = open_directory(disk)
    directory.mark_clean_stop()
    directory.close()
    crashes, opened = 0, False
    while not opened:
        disk.fail = crash_at(crashes)
        try:
            open_directory(disk)  # cleanly stopped or not: a crash before may have consumed the marker already
            opened = True
        except Crash:
            crashes += 1
        disk.fail = healthy
        disk.power_loss()
    assert crashes >= 3
    assert not open_directory(disk).stopped_cleanly


def test_ballast_without_room(disk: SimulatedFiles) -> None:
    """Rule 5."""
    directory = open_directory(disk)
    disk.capacity_bytes = disk.used_bytes() + 5000
    assert directory.free_bytes() == 5000
    assert not directory.ballast.reserve(6000)
    assert directory.ballast.held_bytes() == 0
    assert directory.ballast.reserve(4000)
    assert directory.free_bytes() == 1000
    assert directory.ballast.release() == 4000
    assert directory.ballast.release() == 0
    assert directory.free_bytes() == 5000
