"""One timer for all waiting requests."""

from __future__ import annotations

import asyncio

import pytest

from oarlock.api.deadlines import DeadlineExceeded, Deadlines
from oarlock.api.problems import timed_out


async def test_result_that_is_there_is_returned_without_waiting() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(7)
    deadlines = Deadlines(1.0)
    assert await deadlines.wait(future) == 7
    assert len(deadlines) == 0


async def test_overdue_wait_is_ended_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(5.0)
    late: asyncio.Future[int] = loop.create_future()
    waiting = asyncio.ensure_future(deadlines.wait(late))
    await asyncio.sleep(0)
    deadlines._tick(_at(loop, 4.9))
    assert not late.done()
    deadlines._tick(_at(loop, 5.1))
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert late.cancelled()
    assert len(deadlines) == 0


async def test_only_what_is_overdue_is_ended() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(5.0)
    early: asyncio.Future[int] = loop.create_future()
    later: asyncio.Future[int] = loop.create_future()
    tasks = [asyncio.ensure_future(deadlines.wait(f)) for f in (early, later)]
    await asyncio.sleep(0)
    deadlines._waiting[later] += 10.0  # type: ignore[index]
    deadlines._tick(_at(loop, 6.0))
    later.set_result(1)
    with pytest.raises(DeadlineExceeded):
        await tasks[0]
    assert await tasks[1] == 1


async def test_failure_and_cancellation_pass_through() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(5.0)
    failing: asyncio.Future[int] = loop.create_future()
    waiting = asyncio.ensure_future(deadlines.wait(failing))
    await asyncio.sleep(0)
    failing.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await waiting
    other: asyncio.Future[int] = loop.create_future()
    cancelled = asyncio.ensure_future(deadlines.wait(other))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert len(deadlines) == 0


def test_timeout_reported_as_unknown() -> None:
    """X1, rule 8: a write that was handed over is never called failed; a read may be repeated."""
    write = timed_out(write=True, seconds=5)
    assert (write.status, write.outcome, write.retryable) == (504, "unknown", False)
    read = timed_out(write=False, seconds=5)
    assert (read.status, read.outcome, read.retryable) == (504, "not_applied", True)


class _Clock:
    """The loop, seen at another time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop = loop
        self._now = now

    def time(self) -> float:
        return self._now

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


def _at(loop: asyncio.AbstractEventLoop, seconds: float) -> asyncio.AbstractEventLoop:
    return _Clock(loop, loop.time() + seconds)  # type: ignore[return-value]
