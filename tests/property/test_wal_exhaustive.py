"""A small log, damaged in every way that can be counted: each bit turned over, the end cut off at each byte, a crash at
each operation. The oracle is one sentence: never silently shorter than what a watermark vouches for (rules 2-4)."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.simdisk import Crash, SimulatedFiles, crash_at, healthy
from tests.wal_model import DIRECTORY, entries, frame, meta, open_wal, state_after, state_of

from oarlock.storage import inspect, recovery
from oarlock.storage import wal as storage_wal
from oarlock.storage.errors import Corrupt, NewerFormat
from oarlock.storage.files import FileSystem
from oarlock.storage.frame import HEADER_BYTES, Frame, Header
from oarlock.storage.segment import SEGMENT_HEADER_BYTES
from oarlock.storage.wal import Wal

SEGMENT = 2048  # bytes: holds every append, and is small enough for all of its bits to be turned
FRAMES = (
    frame(1, vote="a"),
    frame(1, entries(1, 3, 1, b"client bytes"), vote="a"),
    frame(1, entries(4, 4, 1, b"z" * 400), vote="a", commit=3),
    frame(2, entries(4, 6, 2), vote="b", commit=3),
    frame(3, entries(8, 8, 3), commit=7, marker=meta(7, 2)),
)


def small_log(*, settled: bool) -> SimulatedFiles:
    """Three appends and a restart among them, in two segments."""
    disk = SimulatedFiles(random.Random(7))
    wal, _ = open_wal(disk, SEGMENT)
    wal.append(FRAMES[:2])
    wal.close()
    wal, _ = open_wal(disk, SEGMENT)
    wal.append(FRAMES[2:4])
    wal.append(FRAMES[4:])
    if settled:
        wal.settle()
    wal.close()
    return disk


def recover(disk: SimulatedFiles):
    """What a member would make of the disk, without changing it."""
    return recovery.scan(DIRECTORY, disk).recovered


def segments(disk: SimulatedFiles) -> list[Path]:
    return [DIRECTORY / name for name in disk.listdir(DIRECTORY)]


def flips(disk: SimulatedFiles) -> Iterator[tuple[Path, int, int]]:
    """Every bit of every file, also of the zeros that nothing was written to yet."""
    for path in segments(disk):
        for offset in range(len(disk.contents(path))):
            for bit in range(8):
                yield path, offset, bit


def outcome_of_every_flip(disk: SimulatedFiles, shortest: int) -> dict[str, int]:
    """How often a flip was harmless, called corruption, or cut the log; at least `shortest` frames are always there."""
    states = {}
    for count in range(len(FRAMES) + 1):
        states[state_after(FRAMES[:count])] = count
    seen = {"harmless": 0, "corrupt": 0, "cut": 0}
    for path, offset, bit in flips(disk):
        disk.flip(path, offset, bit)
        try:
            count = states.get(state_of(recover(disk)), -1)
            assert count >= shortest, f"{path.name} byte {offset} bit {bit}: {count} frames are left, silently"
            seen["harmless" if count == len(FRAMES) else "cut"] += 1
        except (Corrupt, NewerFormat):
            seen["corrupt"] += 1
        disk.flip(path, offset, bit)
    return seen


def test_every_flipped_bit_of_a_settled_log() -> None:
    """Rules 2 and 3: once it is settled, no flip makes the log shorter; it is whole, or the member says Corrupt."""
    seen = outcome_of_every_flip(small_log(settled=True), len(FRAMES))
    assert seen["cut"] == 0
    assert seen["corrupt"] > 1000
    assert seen["harmless"] > 1000


def test_every_flipped_bit_before_the_last_group_is_vouched_for() -> None:
    """Rule 3: the last group commit alone has no successor yet, and is protected by replication."""
    seen = outcome_of_every_flip(small_log(settled=False), len(FRAMES) - 1)
    assert seen["cut"] > 1000


def starts_refused(disk: SimulatedFiles) -> int:
    """How many of a sample of flips (one in 13: every bit of a byte comes up) a start refused, with the disk as it was.

    Judged by the call that a starting member makes, on a copy.
    """
    refused = 0
    for path, offset, bit in itertools.islice(flips(disk), 0, None, 13):
        damaged = copy.deepcopy(disk)
        damaged.flip(path, offset, bit)
        try:
            recover(damaged)
        except (Corrupt, NewerFormat) as judged:
            before = {name: damaged.contents(name) for name in segments(damaged)}
            with pytest.raises(type(judged)):
                open_wal(damaged, SEGMENT)
            after = {name: damaged.contents(name) for name in segments(damaged)}
            assert after == before, f"{path.name} byte {offset} bit {bit}: a refused start changed the disk"
            refused += 1
    return refused


def test_a_start_refuses_what_is_corrupt_and_touches_nothing() -> None:
    """Rule 2: what is there is kept for whoever looks into it, and for the next start."""
    assert starts_refused(small_log(settled=True)) > 500


def test_the_sample_notices_a_start_that_writes_before_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small_log(settled=True)

    def cut_the_end(directory: Path, files: SimulatedFiles) -> None:
        last = directory / files.listdir(directory)[-1]
        files.cut(last, len(files.contents(last)) - 1)

    monkeypatch.setattr(storage_wal, "remove_unfinished", cut_the_end)
    with pytest.raises(AssertionError, match="changed the disk"):
        starts_refused(disk)


def test_the_flips_notice_a_recovery_that_cuts_what_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2, and the oracle fires: a recovery that does not look for later frames is found out."""
    monkeypatch.setattr(recovery, "headers_after", lambda *_: [])
    with pytest.raises(AssertionError, match="silently"):
        outcome_of_every_flip(small_log(settled=True), len(FRAMES))


def test_the_flips_notice_a_missing_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fires: damaged client bytes are not taken for the client's."""
    real = recovery.decode_frame

    def unchecked(data: bytes, header: Header) -> Frame | None:
        start = header.place.offset + HEADER_BYTES
        try:
            return msgspec.msgpack.decode(data[start : start + header.length], type=Frame)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return real(data, header)

    monkeypatch.setattr(recovery, "decode_frame", unchecked)
    with pytest.raises(AssertionError, match="silently"):
        outcome_of_every_flip(small_log(settled=True), len(FRAMES))


def test_the_end_cut_at_every_byte() -> None:
    """Rules 1-3: a file that ends early is a torn tail down to the highest watermark that is left, never below it."""
    whole = small_log(settled=True)
    last = segments(whole)[-1]
    contents = whole.contents(last)
    states = {state_after(FRAMES[:count]): count for count in range(len(FRAMES) + 1)}
    counts = set()
    for length in range(len(contents)):
        disk = copy.deepcopy(whole)
        disk.cut(last, length)
        try:
            count = states[state_of(recover(disk))]
        except Corrupt:
            assert length < SEGMENT_HEADER_BYTES
            continue
        highest = max(_watermarks(disk), default=0)
        assert count >= highest, f"cut at {length}: {count} frames, {highest} are vouched for"
        counts.add(count)
    assert counts == {2, 3, 4, 5}


def _watermarks(disk: SimulatedFiles) -> Iterator[int]:
    """How many of FRAMES each readable frame vouches for. The appends were of 2, 2 and 1 frames."""
    count = 0
    for _, _, one in inspect.scan(DIRECTORY, disk):
        if count < len(FRAMES) and one == FRAMES[count]:
            yield {0: 0, 1: 0, 2: 2, 3: 2, 4: 4}[count]
            count += 1


def life(disk: FileSystem) -> None:
    """Everything that a log does, on a disk that may stop at any operation."""
    wal, _ = open_wal(disk, SEGMENT)
    wal.append(FRAMES[:2])
    wal.settle()
    wal.prepare(300)
    wal.append(FRAMES[2:4])
    wal.prepare()
    wal.close()
    wal, _ = open_wal(disk, SEGMENT)
    wal.append(FRAMES[4:])
    wal.settle()
    wal.release(4)
    wal.release(7)
    wal.close()
    wal, _ = open_wal(disk, SEGMENT)
    wal.close()


@pytest.mark.parametrize("survives", [0.0, 0.5, 1.0])
def test_a_crash_at_every_operation(survives: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 2-4 and 6, pitfalls D9 and D10: whatever was acknowledged before a crash is there after it, and after
    another crash at every operation of the recovery."""
    acknowledged = 0
    real = Wal.append

    def counting(self: Wal, frames) -> int:
        nonlocal acknowledged
        written = real(self, frames)
        acknowledged += len(frames)
        return written

    monkeypatch.setattr(Wal, "append", counting)
    states = {state_after(FRAMES[:count]): count for count in range(len(FRAMES) + 1)}
    kept = set()
    finished = False
    at = 0
    while not finished:
        disk = SimulatedFiles(random.Random(at))
        disk.fail = crash_at(at)
        acknowledged = 0
        try:
            life(disk)
            finished = True
        except Crash:
            pass
        disk.power_loss(survives)
        kept.add(recovers_whatever_happens(disk, states, acknowledged, survives))
        at += 1
    assert at > 40
    assert kept >= {0, 2, 4, 5}


def recovers_whatever_happens(disk: SimulatedFiles, states: dict, acknowledged: int, survives: float) -> int:
    """Crash at every operation of the recovery too; the number of frames that are there in the end."""
    at = 0
    while True:
        second = copy.deepcopy(disk)
        second.fail = crash_at(at)
        try:
            wal, recovered = open_wal(second, SEGMENT)
        except Crash:
            second.power_loss(survives)
            second.fail = healthy
            wal, recovered = open_wal(second, SEGMENT)
            crashed = True
        else:
            crashed = False
        second.fail = healthy
        assert count_of(recovered, states) >= acknowledged
        wal.append([frame(9, vote="c")])
        wal.close()
        second.power_loss(0)
        assert open_wal(second, SEGMENT)[1].hard_state.vote == "c"
        if not crashed:
            return count_of(recovered, states)
        at += 1


def count_of(recovered, states: dict) -> int:
    """Frames that `recovered` stands for. After the release of 7, entries and marker up to there may be gone."""
    if (count := states.get(state_of(recovered))) is not None:
        return count
    hard, _, log = state_of(recovered)
    want_hard, _, want_log = state_after(FRAMES)
    assert (hard, log) == (want_hard, want_log), f"{recovered} is no state that ever was"
    return len(FRAMES)
