"""Values that pass between the Member and whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from oarlock.machine.command import Result
from oarlock.peers.messages import PeerMessage
from oarlock.raft.effects import Ready
from oarlock.runtime.errors import Refused

Waiter: TypeAlias = Any
"""Whatever the driver wants back: a future, a number in a test."""


class ResultWaiter(Protocol):
    """What a client's write waits in: a future, or what stands for one."""

    def done(self) -> bool: ...
    def set_result(self, result: Result, /) -> None: ...
    def set_exception(self, error: Refused, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one member (rules 32 and 33)."""

    batch_commands: int = 512
    first_batch_commands: int = 16  # with nothing under way a turn is taken for so many, while more are still read
    gather_commands: int = 32  # while an entry is under way, fewer than these wait for one another ...
    gather_seconds: float = 0.002  # ... for so long: an entry costs three disks and three machines as much as ten puts
    batch_bytes: int = 1 << 20
    in_flight_bytes: int = 64 << 20
    waiting_reads: int = 65_536
    report_seconds: float = 1.0  # how often a follower tells its leader about its disk
    leaderless_seconds: float = 3.0  # a read or write waits so long for a leader: most elections pass unseen
    undecided_seconds: float = 30.0  # a read or write is not waited for any longer


@dataclass(slots=True)
class Turn:
    """What one turn of the loop has to do. `ready` is the core's; everything else is the runtime's own."""

    ready: Ready
    messages: list[PeerMessage] = field(default_factory=list)
    answers: list[tuple[Waiter, Result]] = field(default_factory=list)
    refusals: list[tuple[Waiter, Refused]] = field(default_factory=list)
    readable: list[Waiter] = field(default_factory=list)
