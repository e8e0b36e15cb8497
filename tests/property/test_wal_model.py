"""The log against a model, on a disk that forgets: what was acknowledged or recovered is there after any crash, what
was not is there whole or not at all, and truncated entries never return (rules 1-6)."""

from __future__ import annotations

import errno
import random
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.simdisk import Crash, SimulatedFiles, crash_at, failing, healthy
from tests.wal_model import DIRECTORY, entry, frame, meta, open_wal, state_after, state_of

from oarlock.storage.errors import OutOfSpace, WalFailed
from oarlock.storage.frame import Frame, encode_payload, frame_bytes, headers_after
from oarlock.storage.recovery import Scan
from oarlock.storage.wal import Wal

SIZES = st.sampled_from((0, 1, 40, 300, 700, 6000))


class LogOnBadDisk(RuleBasedStateMachine):
    lying = False
    sound = False  # False: a failure is on its way out, and the end must not hide it
    seen: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.disk = SimulatedFiles(random.Random(seed))
        self.frames: list[Frame] = []  # everything that was handed to the log, in order
        self.acknowledged = 0  # how many of them must survive anything
        self.released = 0
        self.refused: list[Frame] = []  # by OutOfSpace: the same frames come again before any others
        self.wal, _ = open_wal(self.disk)
        self.disk.lying = self.lying
        self.sound = True

    # --- what a member writes

    @property
    def last_index(self) -> int:
        _, marker, log = state_after(self.frames)
        return log[-1].index if log else marker.index if marker else 0

    @property
    def commit(self) -> int:
        return self.frames[-1].hard_state.commit if self.frames else 0

    @property
    def term(self) -> int:
        return self.frames[-1].hard_state.term if self.frames else 1

    def hand_over(self, group: list[Frame]) -> None:
        self.frames += group
        try:
            self.wal.append(group)
        except OutOfSpace:
            self.refused = group
            self.seen["out of space"] += 1
        except WalFailed:
            self.seen["failed"] += 1
            self.reopen_after_kill()
        else:
            self.acknowledged = len(self.frames)

    @precondition(lambda self: not self.refused)
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3), parts=st.integers(1, 3))
    def append(self, sizes: list[int], parts: int) -> None:
        group, index = [], self.last_index
        for _ in range(parts):
            new = [
                entry(index + number, self.term, bytes([index % 256]) * size) for number, size in enumerate(sizes, 1)
            ]
            index += len(sizes)
            group.append(frame(self.term, new, commit=self.commit))
        self.hand_over(group)

    @precondition(lambda self: not self.refused)
    @rule(vote=st.sampled_from(("", "a", "b")), back=st.integers(0, 4), size=SIZES)
    def new_term(self, vote: str, back: int, size: int) -> None:
        """A vote, then another leader's entries over ours, in one group."""
        term = self.term + 1
        first = max(self.commit, self.last_index - back) + 1
        overwrite = [entry(first, term, b"n" * size), entry(first + 1, term)][: 1 + back % 2]
        self.hand_over([frame(term, vote=vote, commit=self.commit), frame(term, overwrite, commit=self.commit)])

    @precondition(lambda self: not self.refused and self.frames)
    @rule(ahead=st.integers(0, 3))
    def advance_commit(self, ahead: int) -> None:
        commit = min(self.commit + ahead, self.last_index)
        self.hand_over([frame(self.term, commit=commit)])

    @precondition(lambda self: not self.refused)
    @rule(ahead=st.integers(1, 5), agree=st.booleans())
    def install(self, ahead: int, agree: bool) -> None:
        index = self.commit + ahead
        mine = {one.index: one.term for one in state_after(self.frames)[2]}
        term = mine.get(index, self.term) if agree else self.term + 1
        self.hand_over([frame(max(self.term, term), commit=index, marker=meta(index, term))])

    @precondition(lambda self: self.refused)
    @rule()
    def try_again(self) -> None:
        group, self.refused = self.refused, []
        del self.frames[len(self.frames) - len(group) :]
        self.hand_over(group)

    # --- housekeeping

    @rule()
    def settle(self) -> None:
        self.wal.settle()

    @rule(slice_bytes=st.sampled_from((1000, None)))
    def prepare(self, slice_bytes: int | None) -> None:
        try:
            self.wal.prepare(slice_bytes)
        except OutOfSpace:
            assert self.disk.capacity_bytes is not None

    @precondition(lambda self: not self.refused)  # only what is durable is ever covered by a snapshot (rule 6)
    @rule(behind=st.integers(0, 5))
    def release(self, behind: int) -> None:
        index = max(0, self.commit - behind)
        if self.wal.release(index):
            self.released = max(self.released, index)
            self.seen["released"] += 1

    # --- what happens to it

    @rule(room=st.sampled_from((None, 0, 3000)))
    def disk_size(self, room: int | None) -> None:
        self.disk.capacity_bytes = None if room is None else self.disk.used_bytes() + room

    @precondition(lambda self: not self.refused)
    @rule(operation=st.sampled_from(("sync", "write")))
    def disk_error(self, operation: str) -> None:
        self.disk.fail = failing(operation, ".wal")
        self.hand_over([frame(self.term, [entry(self.last_index + 1, self.term)], commit=self.commit)])
        self.disk.fail = healthy  # the append may have lacked space before it met the error

    @precondition(lambda self: not self.refused)
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=2), parts=st.integers(1, 3))
    def no_space_inside_a_segment(self, sizes: list[int], parts: int) -> None:
        """As on a file system that copies on write (rule 5)."""
        self.disk.fail = failing("write", ".wal", errno.ENOSPC)
        self.append(sizes, parts)
        self.disk.fail = healthy

    @rule()
    def kill(self) -> None:
        self.reopen_after_kill()

    @rule(at=st.integers(0, 12), sizes=st.lists(SIZES, max_size=2))
    def power_loss(self, at: int, sizes: list[int]) -> None:
        """The machine stops at some operation of an append, or of the recovery that follows, or of both."""
        self.disk.fail = crash_at(at)
        try:
            if sizes and not self.refused:
                self.append(sizes, 2)
            self.wal.settle()
            self.wal.prepare()
        except (Crash, OutOfSpace):
            pass
        self.disk.fail = crash_at(at // 2)
        self.disk.power_loss()
        self.disk.capacity_bytes = None
        try:
            self.reopen()
        except Crash:
            self.seen["crash in recovery"] += 1
            self.disk.power_loss()
            self.disk.fail = healthy
            self.reopen()
        self.disk.fail = healthy

    def reopen_after_kill(self) -> None:
        self.disk.fail = healthy
        self.disk.kill()
        self.disk.capacity_bytes = None
        self.reopen()

    def reopen(self) -> None:
        self.sound = False
        self.wal, recovered = open_wal(self.disk)
        self.refused = []
        for count in range(len(self.frames), self.acknowledged - 1, -1):
            if self.matches(recovered, self.frames[:count]):
                break
        else:
            expected = state_after(self.frames[: self.acknowledged])
            raise AssertionError(f"recovered {state_of(recovered)}, acknowledged {expected}")
        self.seen["lost frames"] += count < len(self.frames)
        self.seen["kept unacknowledged frames"] += count > self.acknowledged
        self.seen["cut"] += recovered.cut_bytes > 0
        self.seen["several segments"] += len(disk_segments(self.disk)) > 3
        del self.frames[count:]
        self.acknowledged = count  # what was recovered counts, and must stay (rule 4)
        self.counts_what_was_written_since()
        self.sound = True

    def counts_what_was_written_since(self) -> None:
        """Rule 20: what a snapshot is due by, from the first moment on."""
        holding = [at for at, one in enumerate(self.frames) if any(e.index == self.commit for e in one.entries)]
        later = self.frames[holding[-1] + 1 :] if holding else []
        if self.commit > self.released and all(one.marker is None for one in later):
            size = sum(frame_bytes(len(encode_payload(one))) for one in later)
            assert size <= self.wal.bytes_since(self.commit), "some of the log is not counted"

    def matches(self, recovered, frames: list[Frame]) -> bool:
        hard, marker, log = state_after(frames)
        if recovered.hard_state != hard:
            return False
        if recovered.marker != marker and not (recovered.marker is None and marker and marker.index <= self.released):
            return False
        known = [one for one in recovered.entries if one.index > self.released]
        return known == [one for one in log if one.index > self.released]

    def teardown(self) -> None:
        if self.sound:
            self.power_loss(10**6, [])


def disk_segments(disk: SimulatedFiles) -> list[str]:
    return [name for name in disk.listdir(DIRECTORY) if name.endswith(".wal")]


LIMITS = settings(
    max_examples=500, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def test_wal_agrees_with_its_model() -> None:
    """Rules 1-6; pitfalls D1, D3, D5, D7, D8, D13."""
    LogOnBadDisk.seen.clear()
    run_state_machine_as_test(LogOnBadDisk, settings=LIMITS)
    wanted = {"out of space", "failed", "released", "crash in recovery", "lost frames", "cut", "several segments"}
    missed = (wanted | {"kept unacknowledged frames"}) - {what for what, times in LogOnBadDisk.seen.items() if times}
    assert not missed, f"never happened: {missed}"


def test_the_model_notices_a_disk_that_lies() -> None:
    """The oracle fires: without syncs acknowledged frames are lost."""

    class OnLyingDisk(LogOnBadDisk):
        lying = True

    with pytest.raises(BaseException, match=r"acknowledged|missing|damaged|vouches"):
        run_state_machine_as_test(OnLyingDisk, settings=settings(LIMITS, max_examples=40, phases=[Phase.generate]))


def test_the_model_notices_a_recovery_that_does_not_write_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4, and the oracle fires: what was only readable after a failed sync is lost with the next power loss."""
    real = Wal._resume

    def trusting(self: Wal, found: Scan) -> None:  # takes everything it can read for durable, and appends to it
        if not found.tail:
            return real(self, found)
        last = found.segments[-1]
        headers = headers_after(self._files.contents(last.path), 0, last.sequence, last.nonce)
        header = next(header for header in headers if header.end.offset == last.end)
        found.tail, found.watermark = [], header.end
        real(self, found)
        self._end, self._crc = header.end, header.crc
        return None

    monkeypatch.setattr(Wal, "_resume", trusting)
    with pytest.raises(BaseException, match=r"acknowledged|vouches|follows"):
        run_state_machine_as_test(LogOnBadDisk, settings=settings(LIMITS, phases=[Phase.generate]))
