"""The log, stopped after every file operation of its life and of its recovery, with every subset of what was not synced
(rules 1-6, pitfalls D5, D6, D10 and D12): all that was acknowledged is there, perhaps more of what was written, never a
mix, and what was recovered once stays.

Rules of this module: the oracle is the replay of a prefix of the frames (tests/wal_model.py), and nothing else; an
oracle that finds nothing in a log whose syncs are left out is none.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crashes import Left, every_crash, fingerprint, survivors
from tests.simdisk import Crash, SimulatedFiles, healthy
from tests.wal_model import DIRECTORY, entries, frame, meta, state_after, state_of

from oarlock.raft.types import HardState
from oarlock.storage.errors import Corrupt
from oarlock.storage.recovery import Recovered, Scan
from oarlock.storage.wal import Wal

SEGMENT = 4096
GROUPS = (
    [frame(1, vote="a")],  # a vote alone
    [frame(1, entries(1, 3, 1, b"client bytes"), vote="a"), frame(1, entries(4, 5, 1, b"z" * 300), vote="a", commit=3)],
    [frame(1, entries(6, 8, 1, b"w" * 600), vote="a", commit=4)],
    [
        frame(2, vote="b", commit=4),
        frame(2, entries(6, 7, 2, b"another leader's"), vote="b", commit=4),
    ],  # a suffix goes
    [frame(2, entries(7 + n, 7 + n, 2, b"y" * 500), vote="b", commit=6) for n in range(1, 5)],  # torn at many places
    [frame(3, commit=13, marker=meta(13, 3))],  # a snapshot was installed: all before it goes
    [frame(3, entries(14, 17, 3, b"x" * 700), commit=14)],
    [frame(4, vote="c", commit=16)],
)
FRAMES = [one for group in GROUPS for one in group]
STATES = [state_after(FRAMES[:count]) for count in range(len(FRAMES) + 1)]
INSTALLED = sum(map(len, GROUPS[:6]))


def begin() -> SimulatedFiles:
    disk = SimulatedFiles(random.Random(3))
    disk.mkdir(DIRECTORY)
    disk.sync_directory(DIRECTORY.parent)
    return disk


def open_wal(disk: SimulatedFiles) -> tuple[Wal, Recovered]:
    """The same nonces on the same disk, so that a recovery that is tried again comes to disks that are known."""
    nonces = random.Random(str(sorted(disk.listdir(DIRECTORY))))
    return Wal.open(DIRECTORY, disk, segment_bytes=SEGMENT, new_nonce=lambda: nonces.randbytes(16))


def life(disk: SimulatedFiles, promise: Callable[[int], None]) -> None:
    """Votes, appends, a truncated suffix, rollovers, a marker, a restart, and segments let go; promises frames."""
    wal, _ = open_wal(disk)
    done = 0
    for number, group in enumerate(GROUPS):
        wal.append(group)
        done += len(group)
        promise(done)
        if number in (1, 4, 6):
            wal.settle()
        if number in (0, 4):
            wal.prepare(1500)
        if number == 2:
            wal.close()
            wal, _ = open_wal(disk)
        if number == 6:
            wal.release(13)
    wal.close()


def come_back(disk: SimulatedFiles, promise: Callable[[int], None]) -> None:
    wal, recovered = open_wal(disk)
    promise(frames_in(recovered))  # what was recovered counts from now on (rule 4)
    wal.close()


def frames_in(recovered: Recovered) -> int:
    """The most frames whose replay is what was recovered. Before the marker nothing is let go; after it, all below."""
    for count in range(len(FRAMES), -1, -1):
        hard, marker, log = STATES[count]
        is_marked = recovered.marker == marker or (count >= INSTALLED and recovered.marker is None)
        if is_marked and (recovered.hard_state, recovered.entries) == (hard, log):
            return count
    raise AssertionError(f"a mix: {state_of(recovered)} is no state that ever was")


def check(left: Left[int]) -> int:
    """How many frames are there; none of those is lost by another power loss, nor by what is written next."""
    disk = copy.deepcopy(left.disk)
    wal, recovered = open_wal(disk)
    count = frames_in(recovered)
    where = f"a stop before operation {left.operation}, subset {left.subset}"
    assert count >= left.promised, f"{where}: {count} frames of {left.promised} that were acknowledged"
    disk.power_loss(0)
    wal, again = open_wal(disk)
    assert frames_in(again) == count, f"{where}: recovered, and lost by the next power loss"
    last = recovered.hard_state
    wal.append([frame(9, vote="z", commit=last.commit)])
    wal.close()
    disk.power_loss(0)
    _, after = open_wal(disk)
    assert (after.hard_state, after.entries) == (HardState(9, "z", last.commit), recovered.entries), where
    return count


def explore(killed: bool) -> tuple[int, set[int], set[int]]:
    """A life with a stop, of the machine or of the process alone (`killed`), then a recovery with a stop of the
    machine: (disks, where there were stops, frames found)."""
    found: set[int] = set()
    first: list[Left[int]] = []
    for left in every_crash(begin, life, 0):
        if (left.subset == 0) == killed:
            found.add(check(left))
            first.append(left)
    known = {(fingerprint(left.disk), left.promised) for left in first}
    count = len(first)
    for left in first:
        for after in every_crash(lambda left=left: copy.deepcopy(left.disk), come_back, left.promised, most=64):
            if after.subset and (key := (fingerprint(after.disk), after.promised)) not in known:
                known.add(key)
                found.add(check(after))
                count += 1
    return count, {left.operation for left in first}, found


@pytest.mark.parametrize("killed", [False, True])
def test_every_subset_at_every_crash(killed: bool) -> None:
    disks, stops, found = explore(killed)
    assert found == set(range(len(FRAMES) + 1)), "some number of frames was never what was left"
    assert disks > 500
    assert len(stops) > 40


def test_the_name_that_a_killed_recovery_gave() -> None:
    """Rule 4, of names: a recovery is killed before it syncs the directory; the next one publishes another segment,
    which follows that one, and the power fails. Of the two names the later alone may survive."""
    disk = begin()
    open_wal(disk)[0].append(FRAMES[:1])

    def before_the_names_are_synced(operation: str, path: Path) -> None:
        if operation == "sync_directory":
            raise Crash

    for _ in range(2):
        disk.kill()
        disk.fail = before_the_names_are_synced
        with pytest.raises(Crash):
            open_wal(disk)
        disk.fail = healthy
    for left in survivors(disk, 64, 0):
        assert frames_in(open_wal(left)[1]) == 1


@pytest.mark.parametrize("without", ["write_durably", "sync", "sync_directory"])
def test_a_log_that_leaves_a_sync_out_is_found(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires, for each kind of sync."""
    disk = begin()
    monkeypatch.setattr(sys.modules[__name__], "begin", lambda: copy.deepcopy(disk))
    substitute = SimulatedFiles.write if without == "write_durably" else lambda self, place: None
    monkeypatch.setattr(SimulatedFiles, without, substitute)
    with pytest.raises((AssertionError, Corrupt)):
        explore(killed=False)


def test_a_recovery_that_does_not_write_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4, and the oracle fires: what a killed process left readable is lost with the next power loss."""

    def untouched(self: Wal, found: Scan) -> None:
        self._outline, self._next_sequence = found.outline, max(found.present, default=0) + 1

    monkeypatch.setattr(Wal, "_resume", untouched)
    with pytest.raises(AssertionError, match="lost by the next power loss"):
        explore(killed=True)
