"""Writes that a follower hands to its leader, on both sides of the way.

Three rules: one hop, a member that does not lead gives back what is forwarded to it (rule 8); nothing that may have
left is sent again, but what was given back; the answer goes out once, when the last of a forward's writes is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from oarlock.machine.command import Command
from oarlock.peers.messages import ERROR, Forward, ForwardedCommand, ForwardReply, ForwardResult
from oarlock.raft.types import NodeId
from oarlock.runtime.errors import Refused
from oarlock.runtime.turn import Waiter

COMMAND_OVERHEAD_BYTES = 128  # what a queued command costs beside its payload


@dataclass(slots=True)
class Pending:
    """One write that has no answer yet."""

    command: Command
    waiter: Waiter
    grows: bool
    at: float


@dataclass(slots=True)
class Handed:
    """Commands in one entry (or one forward), in order, and where they went."""

    term: int
    leader: NodeId
    pending: list[Pending]
    size: int
    at: float
    older: Handed | None = None  # an earlier proposal of ours at the same index, truncated but not yet decided


def size_of(pending: Pending) -> int:
    return len(pending.command.payload) + COMMAND_OVERHEAD_BYTES


class Forwards:
    """What this member has forwarded and has no answer to. Whoever takes something out tells its waiters."""

    def __init__(self, first_number: int) -> None:
        self.commands = 0  # that were ever sent
        self._next = first_number
        self._sent: dict[int, Handed] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, sender: NodeId, handed: Handed) -> Forward:
        self._next += 1
        self.commands += len(handed.pending)
        self._sent[self._next] = handed
        commands = [
            ForwardedCommand(p.command.payload, p.command.key, p.command.fingerprint, p.grows) for p in handed.pending
        ]
        return Forward(sender, handed.leader, self._next, tuple(commands))

    def not_sent(self, message: Forward) -> Handed | None:
        """It never left: its writes may be tried again."""
        handed = self._sent.pop(message.request, None)
        if handed is not None:
            self.commands -= len(handed.pending)
        return handed

    def answered(self, reply: ForwardReply) -> Handed | None:
        """None: given up before, its waiters have been told `unknown`; or not from whom it was sent to."""
        handed = self._sent.get(reply.request)
        if handed is None or handed.leader != reply.sender:
            return None
        return self._sent.pop(reply.request)

    def broken(self, leader: NodeId) -> list[Handed]:
        """All that were sent to `leader`."""
        return [self._sent.pop(r) for r in [r for r, handed in self._sent.items() if handed.leader == leader]]

    def overdue(self, before: float) -> list[Handed]:
        """All that were sent before then."""
        found = []
        while self._sent:
            request, handed = next(iter(self._sent.items()))
            if handed.at >= before:
                break
            found.append(self._sent.pop(request))
        return found

    def drain(self) -> list[Handed]:
        found = list(self._sent.values())
        self._sent.clear()
        return found


@dataclass(slots=True)
class _Gathering:
    """A forward that this leader is working on."""

    server: NodeId  # this member
    sender: NodeId
    request: int
    left: int
    results: list[ForwardResult | None]


@dataclass(slots=True)
class Slot:
    """The waiter of one write of a forward that is served here."""

    _gathering: _Gathering
    _position: int

    def fill(self, result: ForwardResult) -> ForwardReply | None:
        """The whole answer, if this was the last one missing."""
        gathering = self._gathering
        gathering.results[self._position] = result
        gathering.left -= 1
        if gathering.left:
            return None
        done = tuple([r for r in gathering.results if r is not None])
        return ForwardReply(gathering.server, gathering.sender, gathering.request, done)


Own: TypeAlias = tuple[Slot, Command, bool]  # waiter, command, whether it grows


def unpack(message: Forward) -> list[Own]:
    """The writes of a forward as this member's own."""
    count = len(message.commands)
    gathering = _Gathering(message.to, message.sender, message.request, count, [None] * count)
    return [
        (Slot(gathering, position), Command(c.payload, c.key, c.fingerprint), c.grows)
        for position, c in enumerate(message.commands)
    ]


def to_wire(refused: Refused) -> ForwardResult:
    e = refused
    return ForwardResult(ERROR, e.status, 0, b"", e.code, e.outcome, e.why, e.retryable)


def from_wire(error: ForwardResult) -> Refused:
    return Refused(
        error.code,
        error.why,
        status=error.status,
        outcome="not_applied" if error.outcome == "not_applied" else "unknown",
        retryable=error.retryable,
        retry_after_seconds=1.0 if error.retryable else 0.0,
    )
