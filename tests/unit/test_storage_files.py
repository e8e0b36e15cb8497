"""The real file system's edges, and that the simulated one forgets what it should and nothing else."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from tests.simdisk import SECTOR, Crash, SimulatedFiles, crash_at, failing, healthy

from oarlock.storage.files import RealFiles, read_file, remove_tree, replace_file, write_file

ROOT = Path("/")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may write less than it was given; storage never takes that for a whole write."""
    files = RealFiles()
    handle = files.create(tmp_path / "file")
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, *rest: real(fd, [b"".join(buffers)[:5]], *rest))
    files.write(handle, (b"0123", b"4567", b"89"), 3)
    monkeypatch.undo()
    assert files.read(handle, 100, 0) == b"\0\0\x000123456789"
    many = [bytes([number % 256]) for number in range(3000)]
    files.write(handle, many, 0)
    assert files.read(handle, 3000, 0) == b"".join(many)
    files.close(handle)


def test_short_reads_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RealFiles()
    write_file(files, tmp_path / "file", b"0123456789")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(3, length), offset))
    assert read_file(files, tmp_path / "file") == b"0123456789"


def test_replacing_leaves_no_temporary_file(tmp_path: Path) -> None:
    files = RealFiles()
    replace_file(files, tmp_path / "file", b"a")
    replace_file(files, tmp_path / "file", b"b")
    assert read_file(files, tmp_path / "file") == b"b"
    assert files.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("supported", [True, False])
def test_a_durable_write_is_synced_in_one_call_or_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    calls: list[str] = []
    write, sync = os.pwritev, os.fdatasync

    def pwritev(handle: int, buffers: list[bytes], offset: int, flags: int) -> int:
        calls.append("durable" if flags == os.RWF_DSYNC else "write")
        if flags and not supported:
            raise OSError(errno.EOPNOTSUPP, "no such flag here")
        return write(handle, [buffers[0][:3]], offset, flags)  # cut short, as a signal would

    def fdatasync(handle: int) -> None:
        calls.append("sync")
        sync(handle)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    files = RealFiles()
    handle = files.create(tmp_path / "file")
    files.write_durably(handle, [b"0123", b"4567"], 1)
    assert read_file(files, tmp_path / "file") == b"\x0001234567"
    assert calls == (["durable"] * 3 if supported else ["durable", "write", "write", "write", "sync"])
    files.close(handle)


def test_remove_tree(tmp_path: Path) -> None:
    files = RealFiles()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("c")
    remove_tree(files, tmp_path / "a")
    assert files.listdir(tmp_path) == []


# --- the simulated disk


@pytest.fixture
def disk() -> SimulatedFiles:
    return SimulatedFiles(random.Random(1))


def test_unsynced_contents_are_lost_by_sectors(disk: SimulatedFiles) -> None:
    write_file(disk, ROOT / "file", b"a" * 4 * SECTOR)
    disk.sync_directory(ROOT)
    handle = disk.open(ROOT / "file")
    disk.write(handle, (b"b" * 4 * SECTOR,), 0)
    assert read_file(disk, ROOT / "file") == b"b" * 4 * SECTOR
    disk.power_loss(0.5)
    left = read_file(disk, ROOT / "file")
    sectors = [left[at : at + SECTOR] for at in range(0, len(left), SECTOR)]
    assert {bytes(set(sector)) for sector in sectors} == {b"a", b"b"}


def test_unsynced_names_are_lost_singly(disk: SimulatedFiles) -> None:
    disk.mkdir(ROOT / "d")
    disk.sync_directory(ROOT)
    seen = set()
    for seed in range(60):
        disk = SimulatedFiles(random.Random(seed))
        write_file(disk, ROOT / "old", b"1")
        disk.sync_directory(ROOT)
        write_file(disk, ROOT / "new", b"2")
        disk.rename(ROOT / "old", ROOT / "moved")
        disk.power_loss(0.5)
        seen.add(tuple(disk.listdir(ROOT)))
    assert seen == {("old",), ("moved",), ("new", "old"), ("moved", "new")}


def test_a_rename_between_directories_is_one_change() -> None:
    seen = set()
    for seed in range(40):
        disk = SimulatedFiles(random.Random(seed))
        for name in ("x", "y"):
            disk.mkdir(ROOT / name)
        write_file(disk, ROOT / "x" / "file", b"1")
        for path in (ROOT, ROOT / "x", ROOT / "y"):
            disk.sync_directory(path)
        disk.rename(ROOT / "x" / "file", ROOT / "y" / "file")
        if seed % 2:
            disk.sync_directory(ROOT / "y")
        disk.power_loss(0.5)
        seen.add((seed % 2, *disk.listdir(ROOT / "x"), "|", *disk.listdir(ROOT / "y")))
    assert seen == {(0, "file", "|"), (0, "|", "file"), (1, "|", "file")}


def test_a_rename_whose_target_was_not_synced_may_lose_the_file() -> None:
    seen = set()
    for seed in range(20):
        disk = SimulatedFiles(random.Random(seed))
        for name in ("x", "y"):
            disk.mkdir(ROOT / name)
        write_file(disk, ROOT / "x" / "file", b"1")
        for path in (ROOT, ROOT / "x", ROOT / "y"):
            disk.sync_directory(path)
        disk.rename(ROOT / "x" / "file", ROOT / "y" / "file")
        disk.sync_directory(ROOT / "x")
        disk.power_loss(0.5)
        assert disk.listdir(ROOT / "x") == []
        seen.add(tuple(disk.listdir(ROOT / "y")))
    assert seen == {(), ("file",)}


def test_a_failed_sync_leaves_clean_pages(disk: SimulatedFiles) -> None:
    """ATC '20: the contents stay readable, a later sync succeeds, and still they are lost."""
    handle = disk.create(ROOT / "file")
    disk.sync_directory(ROOT)
    disk.write(handle, (b"data",), 0)
    disk.fail = failing("sync")
    with pytest.raises(OSError, match="injected"):
        disk.sync(handle)
    disk.fail = healthy
    disk.sync(handle)
    assert read_file(disk, ROOT / "file") == b"data"
    disk.power_loss(1)
    assert read_file(disk, ROOT / "file") == b""


def test_killing_the_process_loses_nothing_written(disk: SimulatedFiles) -> None:
    handle = disk.create(ROOT / "file")
    disk.write(handle, (b"data",), 0)
    disk.kill()
    assert read_file(disk, ROOT / "file") == b"data"
    with pytest.raises(KeyError):
        disk.write(handle, (b"late",), 0)


def test_capacity_crash_flip_and_lie(disk: SimulatedFiles) -> None:
    disk.capacity_bytes = 10
    with pytest.raises(OSError, match="no space") as caught:
        write_file(disk, ROOT / "file", b"x" * 11)
    assert caught.value.errno == errno.ENOSPC
    disk.capacity_bytes = None
    disk.fail = crash_at(1)
    with pytest.raises(Crash):
        write_file(disk, ROOT / "other", b"x")
    disk.fail = healthy
    write_file(disk, ROOT / "third", b"\0")
    disk.flip(ROOT / "third", 0, 2)
    assert disk.contents(ROOT / "third") == b"\4"
    disk.sync_directory(ROOT)
    disk.lying = True
    write_file(disk, ROOT / "fourth", b"x")
    disk.sync_directory(ROOT)
    disk.power_loss(0)
    assert "third" in disk.listdir(ROOT)
    assert "fourth" not in disk.listdir(ROOT)
