"""The log's thread, on a simulated disk (rules 3, 5, 7). Nothing sleeps: a test waits for what the disk answers."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.simdisk import SimulatedFiles

from oarlock.raft.effects import PersistToken
from oarlock.raft.log import size_of
from oarlock.raft.types import Entry, HardState
from oarlock.runtime import wal_thread
from oarlock.runtime.wal_thread import Durable, Submission, WalThread
from oarlock.storage.errors import WalFailed
from oarlock.storage.frame import Frame
from oarlock.storage.wal import Wal

PATIENCE = 10.0  # of a test that would else hang


def submission(index: int, data: bytes = b"x") -> Submission:
    frame = Frame(HardState(1, "", 0), (Entry(index, 1, 0, 0, data),))
    return Submission(frame, PersistToken(1, index), [f"after {index}"])


class Bench:
    def __init__(self) -> None:
        self.files = SimulatedFiles()
        self.files.mkdir(Path("/d"))
        self.files.sync_directory(Path("/"))
        self.wal = self.open()
        self.gate = threading.Event()  # closed: a sync waits
        self.gate.set()
        self.errors: list[int] = []  # errno of the next operations, by turns
        self.syncing = threading.Event()
        self.reports: list[list[int]] = []
        self.failures: list[BaseException] = []
        self.space: list[bool] = []
        self.heard = asyncio.Event()
        self.files.fail = self.fail
        self.thread = WalThread(self.wal, asyncio.get_running_loop(), self.durable, self.failed, self.spaced)
        self.full = False

    def open(self) -> Wal:
        return Wal.open(Path("/d/wal"), self.files, segment_bytes=1 << 16)[0]

    def fail(self, operation: str, path: Path) -> None:
        if operation == "sync":
            self.syncing.set()
            assert self.gate.wait(PATIENCE)
            if self.errors:
                raise OSError(self.errors.pop(), "no")
        if self.full and operation in ("write", "allocate"):
            raise OSError(errno.ENOSPC, "full")

    def durable(self, durable: Durable) -> None:
        self.reports.append([s.token.sequence for s in durable.submissions])
        self.heard.set()

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.heard.set()

    def spaced(self, full: bool) -> None:
        self.space.append(full)
        self.heard.set()

    async def begin_a_write(self) -> None:
        """Of the first submission; it waits until the gate is opened."""
        self.thread.start()
        self.syncing.clear()
        self.gate.clear()
        self.thread.submit(submission(1))
        await asyncio.to_thread(self.syncing.wait, PATIENCE)

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                self.heard.clear()
                await self.heard.wait()


async def test_what_is_queued_during_a_write_goes_out_together() -> None:
    """Group commit; reports in the order of submission (rule 7)."""
    bench = Bench()
    await bench.begin_a_write()
    for index in range(2, 40):
        bench.thread.submit(submission(index))
    assert bench.reports == []  # nothing is durable yet, and nobody is told so
    bench.gate.set()
    await bench.until(lambda: len(bench.reports) == 2)
    assert bench.reports == [[1], list(range(2, 40))]
    await bench.thread.close()
    bench.files.fail = lambda *_: None
    assert [e.index for e in Wal.open(Path("/d/wal"), bench.files)[1].entries] == list(range(1, 40))


async def test_much_that_is_queued_goes_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """D12: a slow disk that a flood reaches is to be heard of before all of the flood is written."""
    monkeypatch.setattr(wal_thread, "WRITE_BYTES", 3 * size_of(Entry(0, 0, 0, 0, b"x")))
    bench = Bench()
    await bench.begin_a_write()
    for index in (2, 3, 4, 5):
        bench.thread.submit(submission(index))
    bench.thread.submit(submission(6, b"x" * 4096))
    bench.thread.submit(submission(7))
    bench.gate.set()
    await bench.until(lambda: sum(map(len, bench.reports)) == 7)
    assert bench.reports == [[1], [2, 3, 4], [5], [6], [7]]
    await bench.thread.close()
    bench.files.fail = lambda *_: None
    assert [e.index for e in Wal.open(Path("/d/wal"), bench.files)[1].entries] == list(range(1, 8))


async def test_fsync_error_poisons_wal() -> None:
    """D1, rule 5: never retried, never acknowledged, and the owner is told once."""
    bench = Bench()
    bench.thread.start()
    bench.errors = [errno.EIO]
    bench.thread.submit(submission(1))
    bench.thread.submit(submission(2))
    await bench.until(lambda: bool(bench.failures))
    bench.thread.submit(submission(3))
    await bench.thread.close()
    assert bench.reports == []
    assert [type(f) for f in bench.failures] == [WalFailed]


async def test_a_failed_write_ends_the_process_wherever_it_was_asked_for() -> None:
    """Rule 5: a bootstrap writes its first frame by `call`."""
    bench = Bench()
    bench.thread.start()
    bench.errors = [errno.EIO]
    with pytest.raises(WalFailed):
        await bench.thread.call(lambda wal: wal.append([submission(1).frame]))
    await bench.until(lambda: bool(bench.failures))
    await bench.thread.close()


async def test_enospc_is_not_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    """D13, rule 5: it is tried again until there is space; nothing is acknowledged meanwhile, nothing is lost."""
    monkeypatch.setattr(wal_thread, "NO_SPACE_SECONDS", 0.001)
    bench = Bench()
    bench.full = True
    bench.thread.start()
    for index in (1, 2):
        bench.thread.submit(submission(index))
    await bench.until(lambda: bench.space == [True])
    assert bench.reports == []
    bench.full = False
    await bench.until(lambda: bench.space == [True, False])
    assert [i for report in bench.reports for i in report] == [1, 2]
    assert not bench.failures
    await bench.thread.close()


async def test_a_disk_without_room_for_the_next_segment_is_reported_once() -> None:
    """Rule 5: what is written still fits, the next segment does not. Each write used to say "space" and then "full"."""
    bench = Bench()
    bench.thread.start()
    bench.thread.submit(submission(1))
    await bench.until(lambda: len(bench.reports) == 1)
    await bench.thread.call(lambda wal: wal.prepare())
    used: list[int] = []

    def no_new_segment(operation: str, path: Path) -> None:
        if operation in ("allocate", "create"):
            used.append(1)
            raise OSError(errno.ENOSPC, "full")

    bench.files.fail = no_new_segment
    index = 2
    while not used or index < 40:
        assert index < 2000
        item = submission(index)
        item.frame = Frame(item.frame.hard_state, (Entry(index, 1, 0, 0, bytes(3000)),))
        if used and index > 30:
            break
        bench.thread.submit(item)
        count = len(bench.reports)
        await bench.until(lambda count=count: len(bench.reports) > count or True in bench.space)
        index += 1
    await bench.until(lambda: bool(bench.space))
    assert bench.space == [True]
    bench.files.fail = lambda *_: None
    await bench.thread.call(lambda wal: None)  # the housekeeping's look, once a second
    await bench.until(lambda: bench.space == [True, False])
    await bench.thread.close()


async def test_a_member_that_stops_with_a_full_disk_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_thread, "NO_SPACE_SECONDS", 3600.0)
    bench = Bench()
    bench.full = True
    bench.thread.start()
    bench.thread.submit(submission(1))
    await bench.until(lambda: bench.space == [True])
    async with asyncio.timeout(PATIENCE):
        await bench.thread.close()
    assert bench.reports == []
    assert not bench.failures


async def test_the_last_group_commit_gets_its_watermark_when_idle() -> None:
    """Rule 3: damage to it is then known as corruption, and not taken for a torn tail."""
    bench = Bench()
    settled = threading.Event()
    settle = bench.wal.settle

    def seen() -> None:
        settle()
        settled.set()

    bench.wal.settle = seen  # type: ignore[method-assign]
    bench.thread.start()
    bench.thread.submit(submission(1))
    assert await asyncio.to_thread(settled.wait, PATIENCE)
    await bench.thread.close()


async def test_calls_run_between_writes_and_errors_come_back() -> None:
    bench = Bench()
    bench.thread.start()
    bench.thread.submit(submission(1))
    assert await bench.thread.call(lambda wal: wal.bytes_since(0)) > 0
    with pytest.raises(ZeroDivisionError):
        await bench.thread.call(lambda wal: 1 // 0)
    bench.thread.submit(submission(2))
    await bench.until(lambda: [i for r in bench.reports for i in r] == [1, 2])
    await bench.thread.close()
    assert not bench.failures
