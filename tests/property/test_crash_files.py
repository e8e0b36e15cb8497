"""Snapshots published, fetched and installed, and the identity of a directory: stopped after every file operation, with
every subset of what was not synced (rules 4, 15, 16, 18 and 19; pitfalls D10, D12 and D15).

Rules of this module: what is found is a state that was written, never a mix, and none older than what was promised;
what was found once stays. The member's start is the product's own, LMDB apart, which the simulated disk cannot hold:
LMDB's own writes are not in here, nor are those of a fetch (peers/snapshot_fetch.py), which go to a real file;
`publish` below writes the staged file in its place.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.crashes import Left, every_crash
from tests.simdisk import Crash, SimulatedFiles, crash_at, healthy
from tests.wal_model import entries, frame, meta

from oarlock.raft.types import SnapshotMeta
from oarlock.runtime import recovery
from oarlock.storage.ballast import Ballast
from oarlock.storage.directory import DataDirectory
from oarlock.storage.errors import Corrupt
from oarlock.storage.files import read_file, write_file
from oarlock.storage.identity import BootstrapRecord, Identity
from oarlock.storage.snapshots import SnapshotStore, digest_file

HOME = Path("/data/m")
SEGMENT = 2048
PARTS = ("wal", "snapshots", "state")
Promise = Callable[[int], None]


def begin() -> SimulatedFiles:
    disk = SimulatedFiles(random.Random(3))
    for path in (HOME.parent, HOME):  # a volume's mount, made by others
        disk.mkdir(path)
        disk.sync_directory(path.parent)
    return disk


def open_directory(disk: SimulatedFiles, first: int = 1) -> DataDirectory:
    """`first`: the number of the first incarnation that is minted by this process, if one is."""
    numbers = itertools.count(first)
    return DataDirectory.open(HOME, "m", disk, new_incarnation=lambda: f"{next(numbers):016x}")


def explore(
    life: Callable[[SimulatedFiles, Promise], None], check: Callable[[Left[int]], int], killed: bool
) -> tuple[set[int], int]:
    """The stages that were found after a stop of the machine, or of the process alone (`killed`), and how many
    operations it stopped at."""
    found, stops = set(), set()
    for left in every_crash(begin, life, 0):
        if (left.subset == 0) == killed:
            found.add(check(left))
            stops.add(left.operation)
    return found, len(stops)


# --- a member's log and its snapshots. What they amount to is told as one list of (index, term).


def history(last: int, *terms: tuple[int, int]) -> list[tuple[int, int]]:
    """Entries 1 to `last`; `terms` are (first index, term), ascending."""
    return [(index, max(term for first, term in terms if first <= index)) for index in range(1, last + 1)]


STAGES = [
    [],
    history(6, (1, 1)),
    history(14, (1, 1)),
    history(12, (1, 1), (6, 2)),  # installed: from 6 on the log was another leader's
    history(14, (1, 1), (6, 2)),
]


def contents(log: list[tuple[int, int]]) -> bytes:
    return msgspec.json.encode(log).ljust(900, b" ")


def meta_of(log: list[tuple[int, int]]) -> SnapshotMeta:
    data = contents(log)
    return meta(*log[-1], hashlib.sha256(data).hexdigest(), len(data))


def publish(store: SnapshotStore, disk: SimulatedFiles, log: list[tuple[int, int]], parts: int) -> SnapshotMeta:
    """As a transfer does it: written in parts, gone on from what is there, verified, published."""
    one, data = meta_of(log), contents(log)
    path = store.staging(one)
    size = -(-len(data) // parts)
    handle = disk.create(path)
    for at in range(0, len(data), size):
        disk.write(handle, (data[at : at + size],), at)
    disk.close(handle)
    assert digest_file(path, disk) == (one.digest, one.size_bytes)
    return store.publish(path, one)


def start(disk: SimulatedFiles) -> recovery.Recovered:
    nonces = random.Random(str(disk.listdir(HOME / "wal")) if disk.exists(HOME / "wal") else "")
    directory = open_directory(disk)
    return recovery.recover(directory, None, SEGMENT, lambda: nonces.randbytes(16))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _without_lmdb(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(directory: object, machine: object, store: object, snapshot: SnapshotMeta | None, log: object) -> Any:
        applied = SimpleNamespace(index=snapshot.index if snapshot else 0)
        return SimpleNamespace(applied=applied, close=lambda: None), False

    monkeypatch.setattr(recovery, "_open_state", nothing)


def member_life(disk: SimulatedFiles, promise: Promise) -> None:
    """Entries, a snapshot of its own, a restart, a leader's snapshot installed over a conflicting log, and the log
    behind it let go; promises a stage."""
    found = start(disk)
    wal, store = found.wal, found.store
    wal.begin()
    wal.append([frame(1, entries(1, 6, 1), commit=5)])
    promise(1)
    publish(store, disk, history(4, (1, 1)), 1)
    wal.append([frame(1, entries(7, 14, 1, b"z" * 100), commit=5)])
    promise(2)
    found.close()
    disk.kill()
    found = start(disk)
    wal, store = found.wal, found.store
    installed = publish(store, disk, STAGES[3], 3)
    wal.append([frame(2, commit=12, marker=installed)])
    promise(3)
    wal.release(4)
    wal.append([frame(2, entries(13, 14, 2, b"y" * 600), commit=14)])
    promise(4)
    wal.settle()
    publish(store, disk, STAGES[4], 1)
    wal.release(12)
    found.close()


def whole_log(disk: SimulatedFiles, found: recovery.Recovered) -> list[tuple[int, int]]:
    """What snapshot and log amount to; the snapshots are whole, and nothing unfinished lies beside them."""
    log: list[tuple[int, int]] = []
    if found.snapshot is not None:
        data = read_file(disk, found.store.path(found.snapshot))
        log = [(index, term) for index, term in msgspec.json.decode(data)]
    log += [(entry.index, entry.term) for entry in found.entries]
    for one in found.store.metas():
        assert found.store.verify(one)
    assert found.store.damaged() == []
    assert not [name for name in disk.listdir(HOME / "snapshots") if not name[0].isdigit()]
    return log


def check_member(left: Left[int]) -> int:
    disk = copy.deepcopy(left.disk)
    where = f"a stop before operation {left.operation}, subset {left.subset}"
    log = whole_log(disk, start(disk))
    assert log in STAGES, f"{where}: a mix, {log}"
    stage = STAGES.index(log)
    assert stage >= left.promised, f"{where}: stage {stage}, and {left.promised} was promised"
    disk.power_loss(0)
    found = start(disk)
    assert whole_log(disk, found) == log, f"{where}: found, and lost by the next power loss"
    last = len(log) + 1
    found.wal.append([frame(5, entries(last, last, 5))])
    disk.power_loss(0)
    assert whole_log(disk, start(disk)) == [*log, (last, 5)], f"{where}: what was written next is lost"
    return stage


# --- who a directory is


def identity_life(disk: SimulatedFiles, promise: Promise) -> None:
    """A new directory, a cluster, a bootstrap, a clean stop, and all of it put aside; promises a stage."""
    directory = open_directory(disk)
    promise(1)
    for part in PARTS:
        disk.mkdir(HOME / part)
        write_file(disk, HOME / part / "file", part.encode())
        disk.sync_directory(HOME / part)
    disk.sync_directory(HOME)
    promise(2)
    directory.save(msgspec.structs.replace(directory.identity, cluster_id="c-1", pod_uid="p" * 600))
    promise(3)
    directory.mark_clean_stop()
    promise(4)
    directory.close()
    directory = open_directory(disk, first=2)
    assert directory.stopped_cleanly
    promise(5)
    directory.save(msgspec.structs.replace(directory.identity, bootstrap=BootstrapRecord("r", "c", 3)))
    promise(6)
    directory.quarantine("reset-1")
    promise(7)
    directory.close()


def stages_of(identity: Identity) -> set[int]:
    """The stages that `identity` may be of."""
    if identity.reset_requests:
        return {7}
    if identity.bootstrap is not None:
        return {6}
    return {3, 4, 5} if identity.cluster_id is not None else {0, 1, 2}


def check_identity(left: Left[int]) -> int:
    disk = copy.deepcopy(left.disk)
    where = f"a stop before operation {left.operation}, subset {left.subset}"
    directory = open_directory(disk, first=1 if left.promised else 100)
    found = directory.identity
    stages = stages_of(found)
    assert max(stages) >= left.promised, f"{where}: {found}, and stage {left.promised} was promised"
    assert found.pending_quarantine is None
    if left.promised:
        minted = "m-0000000000000001"
        assert (found.node_id == minted) == (7 not in stages), f"{where}: another id came, or the old one came back"
    if left.promised >= 2:
        home = HOME / "quarantine-1" if 7 in stages else HOME
        for part in PARTS:
            assert disk.contents(home / part / "file") == part.encode()
            assert 7 not in stages or not disk.exists(HOME / part)
    if left.promised not in (3, 4):  # a clean stop is being marked, or the mark consumed
        assert not directory.stopped_cleanly, f"{where}: that was no clean stop"
    directory.close()
    disk.power_loss(0)
    again = open_directory(disk, first=200)
    assert again.identity == found, f"{where}: found, and lost by the next power loss"
    assert not again.stopped_cleanly, f"{where}: a clean stop counted twice"
    return max(stages)


# --- a snapshot that is damaged, twice

FIRST, SECOND = history(6, (1, 1)), history(9, (1, 1))
Found = tuple[tuple[int, ...], tuple[int, ...], int]  # indices of sound ones, of damaged ones that count, set aside
DAMAGED_LATER: dict[int, set[Found]] = {  # by what was promised: what it may be, until the next is promised
    0: {((), (), 0), ((6,), (), 0)},
    1: {((), (6,), 0), ((), (), 1)},
    2: {((), (), 1), ((6,), (), 1)},
    3: {((), (6,), 1), ((), (6,), 0), ((), (), 1), ((6,), (), 1)},
    4: {((6,), (), 1), ((6, 9), (), 1), ((6, 9), (), 0)},
    5: {((6, 9), (), 0)},
}


def damage_life(disk: SimulatedFiles, promise: Promise) -> None:
    """One is damaged and set aside, made again, damaged again, and made once more over it; the next one lets what was
    set aside go."""
    store, one = SnapshotStore(HOME / "snapshots", disk), meta_of(FIRST)
    publish(store, disk, FIRST, 1)
    disk.flip(store.path(one), 5, 0)
    promise(1)
    store.set_aside(one)
    promise(2)
    publish(store, disk, FIRST, 1)
    disk.flip(store.path(one), 5, 0)
    promise(3)
    publish(store, disk, FIRST, 1)
    promise(4)
    publish(store, disk, SECOND, 1)
    promise(5)


def check_damage(left: Left[int]) -> int:
    disk = copy.deepcopy(left.disk)
    store = SnapshotStore(HOME / "snapshots", disk)
    store.discard_partial()
    sound = [one for one in store.metas() if store.verify(one)]
    bad = [one for one in store.metas() if one not in sound]
    aside = len(store.damaged())
    found = tuple(one.index for one in sound), tuple(one.index for one in bad), aside
    where = f"a stop before operation {left.operation}, subset {left.subset}"
    assert found in DAMAGED_LATER[left.promised], f"{where}: {found}, which is not what was promised"
    for one in bad:
        store.set_aside(one)
    disk.power_loss(0)
    store = SnapshotStore(HOME / "snapshots", disk)
    assert store.metas() == sound, f"{where}: found, and lost by the next power loss"
    assert len(store.damaged()) == max(aside, len(bad)), f"{where}: what was set aside is gone"
    return left.promised


# --- the ballast


def ballast_life(disk: SimulatedFiles, promise: Promise) -> None:
    """Reserved, made larger, given up for one that finds no room, reserved again and given back; promises that nothing
    is held any more, which is all that it can: a ballast is not synced."""
    ballast = Ballast(HOME / "ballast", disk)
    assert ballast.reserve(1500)
    assert ballast.reserve(3000)
    disk.capacity_bytes = 4000
    assert not ballast.reserve(5000)
    disk.capacity_bytes = None
    assert ballast.reserve(3000)
    assert ballast.release() == 3000
    promise(1)


def check_ballast(left: Left[int]) -> int:
    """How much is held, if it is one of the amounts that were asked for, else -1."""
    disk = copy.deepcopy(left.disk)
    disk.capacity_bytes = None
    where = f"a stop before operation {left.operation}, subset {left.subset}"
    ballast = Ballast(HOME / "ballast", disk)
    held = ballast.held_bytes()
    assert held == disk.used_bytes() <= 5000, f"{where}: {held} bytes held"
    assert not (left.promised and held), f"{where}: {held} bytes are held again that were given back"
    assert ballast.reserve(3000), where
    assert ballast.held_bytes() == disk.used_bytes() == 3000, where
    assert ballast.release() == 3000
    disk.power_loss(0)
    assert disk.used_bytes() == 0, f"{where}: given back, and held again after the next power loss"
    return held if held in (0, 1500, 3000) else -1


# --- the tests

KILLED = [False, True]


@pytest.mark.parametrize("killed", KILLED)
def test_snapshots_and_log_at_every_crash(killed: bool) -> None:
    """Rules 4, 6, 18 and 19: publication, transfer, installation, and what is let go behind them."""
    found, stops = explore(member_life, check_member, killed)
    assert found == set(range(len(STAGES)))
    assert stops > 30


@pytest.mark.parametrize("killed", KILLED)
def test_an_identity_at_every_crash(killed: bool) -> None:
    """Rules 15, 16 and 21."""
    found, stops = explore(identity_life, check_identity, killed)
    assert found == {2, 5, 6, 7}
    assert stops > 30


@pytest.mark.parametrize("killed", KILLED)
def test_damaged_snapshots_at_every_crash(killed: bool) -> None:
    """Rule 18, pitfall S12: one that was set aside counts no longer, and one made anew is there."""
    found, stops = explore(damage_life, check_damage, killed)
    assert found == set(DAMAGED_LATER)
    assert stops > 30


@pytest.mark.parametrize("killed", KILLED)
def test_a_ballast_at_every_crash(killed: bool) -> None:
    """Rule 5: whatever is found can be reserved again, and what was given back does not come again."""
    found, _ = explore(ballast_life, check_ballast, killed)
    assert found >= {0, 1500, 3000}


def test_a_new_directory_of_a_killed_process() -> None:
    """The directory itself was made, and its name not synced, when the first process was killed."""
    disk = SimulatedFiles(random.Random(3))
    disk.fail = crash_at(3)  # after mkdir /data, sync /, mkdir /data/m
    with pytest.raises(Crash):
        open_directory(disk)
    disk.kill()
    disk.fail = healthy
    found = open_directory(disk).identity
    disk.power_loss(0)
    assert open_directory(disk, first=100).identity == found


@pytest.mark.parametrize("without", ["sync", "sync_directory"])
@pytest.mark.parametrize(
    ("life", "check"), [(member_life, check_member), (identity_life, check_identity), (damage_life, check_damage)]
)
def test_a_sync_that_is_left_out_is_found(life, check, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires."""
    disk = begin()
    monkeypatch.setattr(sys.modules[__name__], "begin", lambda: copy.deepcopy(disk))
    monkeypatch.setattr(SimulatedFiles, without, lambda self, place: None)
    with pytest.raises(
        (AssertionError, Corrupt),
        match=r"written next is lost|found, and lost|not what was promised|identity file is damaged",
    ):
        explore(life, check, killed=False)


def test_a_ballast_that_comes_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires."""
    disk = begin()
    monkeypatch.setattr(sys.modules[__name__], "begin", lambda: copy.deepcopy(disk))
    monkeypatch.setattr(SimulatedFiles, "sync_directory", lambda self, place: None)
    with pytest.raises(AssertionError, match="held again"):
        explore(ballast_life, check_ballast, killed=False)


def test_a_marker_before_its_snapshot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 18, and the oracle fires: published in another order, a log may begin after a snapshot that is not there."""
    real = SnapshotStore.publish

    def late(self: SnapshotStore, path: Path, one: SnapshotMeta) -> SnapshotMeta:
        if one.index != 12:
            return real(self, path, one)
        return one

    monkeypatch.setattr(SnapshotStore, "publish", late)
    with pytest.raises(Corrupt, match="begins after"):
        explore(member_life, check_member, killed=False)
