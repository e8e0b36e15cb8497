"""A member's timer (rule 11), with a clock in the test's hands, and how much log a snapshot leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.raft_cluster import first_entry, node_id

from oarlock.raft.core import Core
from oarlock.raft.types import Entry, HardState
from oarlock.runtime.snapshotting import trailing_index
from oarlock.runtime.timer import Timer


class Handle:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call = at, call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Handle] = []

    def call_later(self, seconds: float, function: Any, *args: Any) -> Handle:
        self.timers.append(Handle(self.now + seconds, lambda: function(*args)))
        return self.timers[-1]

    def fire(self) -> None:
        due = [t for t in self.timers if t.at <= self.now and not t.cancelled]
        self.timers = [t for t in self.timers if t not in due and not t.cancelled]
        for timer in due:
            timer.call()


class Ticked:
    """A member that wants a tick each tenth of a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ticks: list[float] = []
        self.deadline = clock.now + 0.1

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.deadline = now + 0.1


def armed() -> tuple[Timer, Clock, Ticked]:
    clock = Clock()
    member = Ticked(clock)
    made = Timer(clock, lambda: clock.now, lambda: member.deadline, member.tick)  # type: ignore[arg-type]  # all it needs
    made.arm(member.deadline)
    return made, clock, member


def test_a_tick_comes_at_its_deadline() -> None:
    made, clock, member = armed()
    for _ in range(10):
        clock.now += 0.11
        clock.fire()
        made.arm(member.deadline)
    assert len(member.ticks) == 10


def test_a_late_wake_up_drains_first() -> None:
    """Rule 11: what peers said while we slept is heard before their silence is judged."""
    made, clock, member = armed()
    clock.now += 3.0
    clock.fire()
    assert member.ticks == []
    made.arm(member.deadline)
    clock.now += 0.01
    clock.fire()
    assert member.ticks == [clock.now]


def test_a_late_tick_comes_under_load_too() -> None:
    """Rule 11: every turn arms the timer. It used to cancel the late tick and set a new one in the past, which found
    itself late again: a leader with a turn each millisecond never ticked any more after one pause."""
    made, clock, member = armed()
    clock.now += 3.0
    for _ in range(30):
        clock.fire()
        made.arm(member.deadline)  # a turn
        clock.now += 0.001
    assert member.ticks


def test_memory_keeps_a_tail_for_peers_slightly_behind() -> None:
    entries = [first_entry("a"), *[Entry(i, 1, 0, 0, bytes(936)) for i in range(2, 501)]]
    core = Core(node_id("a"), rng=random.Random(0), now=0.0, hard_state=HardState(1, "", 500), entries=entries)
    cut = trailing_index(core, 400, 100_000)
    assert 400 - 100 - 64 <= cut <= 400 - 99
    assert trailing_index(core, 400, 0) == 400
    assert trailing_index(core, 400, 1 << 30) == 0


def test_every_role_of_the_core_has_a_name_on_the_wire() -> None:
    """`/admin/status` is served in every state; it used to fail while a member was a pre-candidate."""
    from oarlock.raft.state import Role
    from oarlock.wire import admin

    assert [admin.Role(str(role).replace("_", "-")) for role in Role] == list(admin.Role)
