"""How the runtime says no. Every refusal says whether the write may have happened (rule 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from oarlock.machine.errors import NewerState, UnknownEntry
from oarlock.runtime.divergence import StateDiverged
from oarlock.storage.errors import SPACE_ERRNOS, NewerFormat

Outcome = Literal["not_applied", "unknown"]


class Refused(Exception):
    """A request that was not, or perhaps not, carried out.

    `code` is stable and machine readable, `status` the HTTP status that fits it, `outcome` a promise: `not_applied`
    means that the command will never take effect. `retry_after_seconds` is a hint, 0 for none. `leader` is the node
    id of the leader where only the leader can do it.
    """

    def __init__(
        self,
        code: str,
        why: str,
        *,
        status: int,
        outcome: Outcome = "not_applied",
        retryable: bool = True,
        retry_after_seconds: float = 0.0,
        leader: str = "",
    ) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.status = status
        self.outcome: Outcome = outcome
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.leader = leader


OUTDATED = (UnknownEntry, NewerState, NewerFormat)
"""What a program meets that is older than its data: the data is sound, and must not be thrown away (rule 34)."""


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """Why a member takes no part until somebody helps. `why` ends with what helps."""

    state: Literal["Corrupt", "Outdated"]
    why: str
    lasting: bool = False  # the next start would not see it by itself: it is to be remembered

    @property
    def refusal(self) -> Refused:
        code = self.state.lower()
        return Refused(code, f"this member is out of order: {self.why}", status=503)


def out_of_order(error: Exception) -> OutOfOrder:
    """A member whose data a newer version wrote is Outdated; any other that cannot go on is Corrupt."""
    if isinstance(error, OUTDATED):
        return OutOfOrder("Outdated", f"{error}: run a newer version")
    return OutOfOrder("Corrupt", f"{error}: replace this member", lasting=isinstance(error, StateDiverged))


def no_leader(why: str = "no leader is known; an election may be under way: try again shortly") -> Refused:
    return Refused("no_leader", why, status=503, retry_after_seconds=1.0)


def leader_changed() -> Refused:
    return no_leader("the leader changed while the write was forwarded: try again")


def not_leader(leader: str) -> Refused:
    return Refused("not_leader", f"only the leader does this; it is {leader or 'not known'}", status=421, leader=leader)


def overloaded(why: str) -> Refused:
    return Refused("overloaded", why, status=429, retry_after_seconds=1.0)


def unknown_outcome(code: str, why: str) -> Refused:
    """The write was handed over and may yet be applied, or already is."""
    return Refused(code, why, status=504, outcome="unknown", retryable=False)


def out_of_space() -> Refused:
    why = "a majority of members is low on disk space: delete keys or grow the volumes; reads and deletes go on"
    return Refused("out_of_space", why, status=507, retryable=False)


def disk_refused(what: str, error: OSError) -> Refused:
    full = error.errno in SPACE_ERRNOS
    code, status = ("out_of_space", 507) if full else ("disk_failed", 500)
    return Refused(code, f"{what}: {error}", status=status, outcome="unknown")


def stopping() -> Refused:
    return Refused("stopping", "this member is stopping: use another one", status=503, retry_after_seconds=0.1)
