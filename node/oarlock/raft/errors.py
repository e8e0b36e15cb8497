"""Two kinds of wrong (after h11): you misused the core, or a peer misbehaved. A peer never raises out of the core."""

from __future__ import annotations

from typing import Literal, get_args

from oarlock.raft.types import NOBODY, NodeId

RemoteErrorKind = Literal[
    "acknowledges entries that were never sent",
    "commit beyond the log",
    "configuration without voters",
    "echoes a heartbeat that was never sent",
    "entries out of order",
    "impossible anchor of an append",
    "impossible number",
    "impossible sender",
    "impossible snapshot",
    "not for this member",
    "a second leader in one term",
    "undecodable configuration",
]
REMOTE_ERRORS: tuple[RemoteErrorKind, ...] = get_args(RemoteErrorKind)


class LocalError(Exception):
    """The caller asked for what cannot be now; nothing has changed. Subclasses say what to do."""


class NotLeader(LocalError):
    def __init__(self, leader: NodeId = NOBODY) -> None:
        super().__init__(f"not the leader; the leader is {leader or 'unknown'}")
        self.leader = leader


class Busy(LocalError):
    """The uncommitted log is at its bound, or leadership is being handed over: try again shortly."""


class ConfigurationRefused(LocalError):
    """A membership change that must not be appended. `code` is stable and machine readable, one of:

    `bad_request` (no voters, an id twice, a malformed id), `precondition_failed` (another, uncommitted or joint
    configuration, or no entry of this leader's term committed), `not_caught_up` (a voter that is neither a voter nor a
    caught-up learner), `tombstoned` (an id that was dropped before), `would_lose_quorum`.
    """

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class TransferRefused(LocalError):
    """The target is unknown, a learner, or this member."""


class InvariantViolated(Exception):
    """The core found itself in a state that Raft excludes (e.g. a conflict below the commit index).

    The driver stops taking part (state `Corrupt`); it must not go on, and must not overwrite anything.
    """


class RemoteError(Exception):
    """A peer sent what no correct peer sends. Raised and caught inside the core: counted, and the message dropped."""

    def __init__(self, kind: RemoteErrorKind) -> None:
        super().__init__(kind)
