"""What a start trusts, on real directories (rules 4, 18, 21)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from tests.counter_machine import CounterMachine
from tests.state_driver import publish

from oarlock.machine.command import Batch, Command, encode_batch
from oarlock.machine.environment import Environment
from oarlock.machine.errors import OutOfSpace
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Member, SnapshotMeta
from oarlock.runtime import recovery
from oarlock.runtime.recovery import Recovered, copy_state, newest_state, next_state, recover
from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import Corrupt
from oarlock.storage.errors import OutOfSpace as NoRoom
from oarlock.storage.files import RealFiles
from oarlock.storage.frame import Frame
from oarlock.storage.snapshots import SnapshotStore
from oarlock.storage.wal import Wal

SEGMENT = 1 << 20
ME = Member("m-00000000000000aa", "http://m:2380", "http://m:2379")


def entry(index: int, term: int = 1) -> Entry:
    if index == 1:
        return Entry(1, 1, EntryKind.CONFIGURATION, 0, msgspec.msgpack.encode(Configuration((ME,))))
    return Entry(index, term, EntryKind.COMMANDS, index, encode_batch(Batch(0, (Command(b"c%d" % index),))))


def entries(low: int, high: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(entry(i, term) for i in range(low, high + 1))


class Home:
    """A data directory between processes."""

    def __init__(self, path: Path) -> None:
        self.path = path / "m"
        self.directory: DataDirectory | None = None
        self.open()

    def open(self) -> DataDirectory:
        self.close()
        self.directory = DataDirectory.open(self.path, "m")
        return self.directory

    def close(self) -> None:
        if self.directory is not None:
            self.directory.close()
            self.directory = None

    def log(self, *frames: Frame) -> None:
        wal, _ = Wal.open(self.path / "wal", RealFiles(), segment_bytes=SEGMENT)
        for frame in frames:
            wal.append([frame])
        wal.settle()
        wal.close()

    def state(self, upto: tuple[Entry, ...]) -> Path:
        """A working state that has applied `upto`, as a killed process leaves it."""
        assert self.directory is not None
        path = newest_state(self.directory) or next_state(self.directory)
        apply(path, upto)
        return path

    def snapshot(self, upto: tuple[Entry, ...]) -> SnapshotMeta:
        assert self.directory is not None
        store = SnapshotStore(self.directory.snapshots, RealFiles())
        work = self.path / "work.mdb"
        apply(work, upto)
        environment = Environment.open(work, CounterMachine())
        meta = publish(environment, store, RealFiles())
        environment.close()
        work.unlink()
        return meta

    def restart(self, *, clean: bool = False) -> Recovered:
        """The next process."""
        if clean:
            assert self.directory is not None
            self.directory.mark_clean_stop()
        return recover(self.open(), CounterMachine(), SEGMENT)


def apply(path: Path, upto: tuple[Entry, ...]) -> None:
    environment = Environment.open(path, CounterMachine())
    job = environment.begin([e for e in upto if e.index > environment.applied.index])
    while not job.run(1.0, lambda: 0.0):
        pass
    job.commit()
    environment.close()


def figures(recovered: Recovered) -> tuple[bool, int, int, int]:
    """(reused, applied index, first and last index of the log after it); the files are closed."""
    found = recovered.entries
    bounds = (found[0].index, found[-1].index) if found else (0, 0)
    result = (recovered.reused_state, recovered.environment.applied.index, *bounds)
    recovered.close()
    return result


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_empty_directory_starts_empty(home: Home) -> None:
    recovered = home.restart()
    assert (recovered.snapshot, recovered.hard_state) == (None, HardState())
    assert figures(recovered) == (False, 0, 0, 0)


@pytest.mark.parametrize("clean", [True, False])
def test_state_is_reused_after_a_clean_stop_alone(home: Home, clean: bool) -> None:
    """Rule 21: who was killed may have lost what it had not synced, with the machine or with its file system alone."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.state(entries(1, 7))
    assert figures(home.restart(clean=clean)) == (clean, 7 if clean else 0, 1, 9)


def test_what_an_untrusted_state_held_is_free_before_its_successor_is_copied(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 5: who is killed on a full disk comes back without more of it."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.snapshot(entries(1, 5))
    old = home.state(entries(1, 7))
    there = []
    monkeypatch.setattr(recovery, "copy_state", lambda *paths: (there.append(old.exists()), copy_state(*paths)))
    assert figures(home.restart()) == (False, 5, 6, 9)
    assert there == [False]


@pytest.mark.parametrize("clean", [True, False])
def test_a_log_without_room_gets_that_of_a_state_that_is_not_trusted(
    home: Home, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    """Rule 5: nobody else may make room. A state that is trusted stays, for the next try."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    state = home.state(entries(1, 7))

    def full(*_: object, **__: object) -> None:
        raise NoRoom("full")

    with monkeypatch.context() as patch:
        patch.setattr(Wal, "open", full)
        with pytest.raises(NoRoom):
            home.restart(clean=clean)
    assert state.exists() == clean
    assert home.directory is not None
    assert figures(recover(home.directory, CounterMachine(), SEGMENT)) == (clean, 7 if clean else 0, 1, 9)


def test_a_start_that_fails_late_closes_what_it_opened(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker of a published snapshot has no room, again and again (rule 18); whoever tries again needs what is
    deleted meanwhile to be gone."""
    home.log(Frame(HardState(1, "", 3), entries(1, 3)))
    meta = home.snapshot(entries(1, 8))

    def full(*_: object) -> None:
        raise NoRoom("full")

    kept = []  # so that nothing is closed because nobody holds it any more
    with monkeypatch.context() as patch:
        patch.setattr(Wal, "append", full)
        with pytest.raises(NoRoom) as raised:
            home.restart()
        kept.append(raised)
        assert [link for link in os.listdir("/proc/self/fd") if "state-" in _target(link)] == []
    assert home.directory is not None
    recovered = recover(home.directory, CounterMachine(), SEGMENT)
    assert recovered.snapshot == meta
    recovered.close()


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def test_the_clean_marker_counts_once(home: Home) -> None:
    """Rule 21: the second start follows a crash."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.state(entries(1, 7))
    assert figures(home.restart(clean=True))[0]
    assert not figures(home.restart())[0]


def test_state_ahead_of_the_log_is_not_reused(home: Home) -> None:
    """Rule 21: a leader applied on its followers' quorum, and stopped while its own disk was full. Another entry may
    take the place, so what the state holds there was perhaps never in this member's log."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.state(entries(1, 10))
    assert figures(home.restart(clean=True)) == (False, 0, 1, 9)


def test_state_of_another_term_than_the_log_is_not_reused(home: Home) -> None:
    """Rule 21: index alone proves nothing."""
    home.log(Frame(HardState(2, "", 7), (*entries(1, 6), *entries(7, 9, term=2))))
    home.state(entries(1, 7, term=1))
    assert figures(home.restart(clean=True)) == (False, 0, 1, 9)


def test_state_at_the_snapshots_place_is_reused(home: Home) -> None:
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.snapshot(entries(1, 5))
    home.state(entries(1, 5))
    assert figures(home.restart(clean=True)) == (True, 5, 6, 9)


def test_state_behind_the_snapshot_is_replaced(home: Home) -> None:
    """Rule 18: the crash came between the marker and the swap."""
    home.log(Frame(HardState(1, "", 3), entries(1, 3)))
    home.state(entries(1, 3))
    meta = home.snapshot(entries(1, 5))
    home.log(Frame(HardState(1, "", 5), (), meta))
    recovered = home.restart()
    assert recovered.snapshot == meta
    assert recovered.hard_state.commit == 5
    assert figures(recovered) == (False, 5, 0, 0)
    assert home.directory is not None
    assert [p.name for p in home.directory.state.glob("*.mdb")] == ["state-2.mdb"]


def test_a_state_that_is_no_state_is_rebuilt(home: Home) -> None:
    """Rule 21: the working file is a cache."""
    home.log(Frame(HardState(1, "", 7), entries(1, 9)))
    home.snapshot(entries(1, 5))
    home.state(entries(1, 7)).write_bytes(b"garbage" * 1000)
    assert figures(home.restart(clean=True)) == (False, 5, 6, 9)


def test_corrupt_snapshot_not_installed(home: Home) -> None:
    """S12: the newest is damaged; the older one and the log since it (rule 19) make up for it."""
    home.log(Frame(HardState(1, "", 9), entries(1, 9)))
    older = home.snapshot(entries(1, 4))
    newest = home.snapshot(entries(1, 7))
    assert home.directory is not None
    store = SnapshotStore(home.directory.snapshots, RealFiles())
    with store.path(newest).open("r+b") as file:
        file.seek(newest.size_bytes // 2)
        file.write(b"\xff" * 64)
    recovered = home.restart()
    assert recovered.snapshot == older
    assert recovered.store.damaged()
    assert figures(recovered) == (False, 4, 5, 9)


def test_a_marker_without_its_snapshot_is_corruption(home: Home) -> None:
    """Rule 2: the log says that it restarts where no sound snapshot is; an older one cannot be continued."""
    home.log(Frame(HardState(1, "", 3), entries(1, 3)))
    home.snapshot(entries(1, 2))
    meta = home.snapshot(entries(1, 5))
    home.log(Frame(HardState(1, "", 5), (), meta), Frame(HardState(1, "", 5), entries(6, 8)))
    assert home.directory is not None
    SnapshotStore(home.directory.snapshots, RealFiles()).path(meta).unlink()
    with pytest.raises(Corrupt, match="begins after index 5"):
        home.restart()
    with pytest.raises(Corrupt):  # and the log is not left open
        home.restart()


def test_snapshot_ordering_before_wal_release(home: Home) -> None:
    """D9, rule 18: killed between publishing a fetched snapshot and its marker. The next start goes on from the
    snapshot, and what is appended after it can be read by the one after: the gap is marked."""
    home.log(Frame(HardState(1, "", 3), entries(1, 3)))
    meta = home.snapshot(entries(1, 8))
    recovered = home.restart()
    assert (recovered.snapshot, recovered.entries) == (meta, ())
    recovered.wal.append([Frame(HardState(1, "", 8), entries(9, 10))])
    recovered.close()
    assert figures(home.restart()) == (False, 8, 9, 10)


def test_wal_replay_does_not_resurrect_truncated_entries(home: Home) -> None:
    """D8, S2: the log's tail is of another term than the snapshot that was published at its place. What is
    acknowledged after the snapshot must not go with the tail at the start after next."""
    home.log(Frame(HardState(1, "", 3), entries(1, 12)))
    meta = home.snapshot((*entries(1, 3), *entries(4, 8, term=2)))
    recovered = home.restart()
    assert (recovered.snapshot, recovered.entries) == (meta, ())
    assert (recovered.hard_state.term, recovered.hard_state.vote) == (2, "")  # its term had not been written yet
    recovered.wal.append([Frame(HardState(2, "", 8), entries(9, 10, term=2))])
    recovered.close()
    recovered = home.restart()
    assert [(e.term, e.index) for e in recovered.entries] == [(2, 9), (2, 10)]
    recovered.close()


def test_a_local_snapshot_needs_no_marker(home: Home) -> None:
    """And gets none: a marker would drop the log that the older snapshot needs."""
    home.log(Frame(HardState(1, "", 9), entries(1, 9)))
    home.snapshot(entries(1, 4))
    home.snapshot(entries(1, 9))
    home.restart().close()
    _, log = (wal := Wal.open(home.path / "wal", RealFiles(), segment_bytes=SEGMENT))
    wal[0].close()
    assert log.marker is None
    assert len(log.entries) == 9


def test_a_full_disk_leaves_no_half_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: it can be tried again, and the try does not take the space it waits for."""
    source = tmp_path / "source"
    source.write_bytes(bytes(10_000))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(OutOfSpace):
            copy_state(source, tmp_path / "state-2.mdb")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
    copy_state(source, tmp_path / "state-2.mdb")
    assert (tmp_path / "state-2.mdb").read_bytes() == bytes(10_000)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
@pytest.mark.parametrize("before", [0, 4_000])
def test_a_copy_where_the_kernel_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, before: int
) -> None:
    """Some network file systems refuse, a few of them only after a first part."""
    content = os.urandom(3_000_001)
    source = tmp_path / "source"
    source.write_bytes(content)
    in_kernel, calls = os.copy_file_range, []

    def refuses(src: int, dst: int, count: int) -> int:
        calls.append(count)
        if before and len(calls) == 1:
            return in_kernel(src, dst, before)
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "copy_file_range", refuses)
    copy_state(source, tmp_path / "state-2.mdb")
    assert len(calls) == (2 if before else 1)
    assert (tmp_path / "state-2.mdb").read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "state-2.mdb"]


def test_a_copy_that_fails_is_not_tried_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: a disk that fails is not one that cannot copy in the kernel."""
    source = tmp_path / "source"
    source.write_bytes(bytes(10_000))

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "copy_file_range", broken)
    with pytest.raises(OSError, match="broken"):
        copy_state(source, tmp_path / "state-2.mdb")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
