"""The values of the consensus core: what is replicated, what is persisted, who takes part.

Two rules of this module: every value is immutable, and every value that reaches the disk or a peer is a
msgspec Struct encoded as an array, so that a field may be added at the end but never moved or removed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from msgspec import Struct

NodeId: TypeAlias = str
"""`<name>-<incarnation>`: the incarnation is 16 random hex digits, made with the data directory (rule 15)."""

NOBODY: NodeId = ""
"""No leader known, or no vote given."""


class EntryKind(IntEnum):
    """What an entry's `data` holds. An entry of a kind that a member does not know stops it (rule 34)."""

    COMMANDS = 0  # a batch for the state machine, opaque here
    NOOP = 1  # a leader's first entry of its term; `data` is its node id in UTF-8
    CONFIGURATION = 2  # a msgpack Configuration
    VERSION = 3  # the cluster's version, a msgpack integer


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One log entry. `kind` is a plain integer so that a newer member's kind can be decoded, and refused late.

    `time_ms` is the cluster time of the entry (rule 28): milliseconds, never wall clock, never decreasing.
    """

    index: int
    term: int
    kind: int
    time_ms: int
    data: bytes


class HardState(Struct, frozen=True, array_like=True, gc=False):
    """What must be durable before a message that depends on it leaves (paper, figure 2; `commit` saves replay)."""

    term: int = 0
    vote: NodeId = NOBODY
    commit: int = 0


class Member(Struct, frozen=True, array_like=True):
    """One participant. The id is the identity; the addresses may change by a new configuration (rule 12)."""

    id: NodeId
    peer_url: str
    client_url: str
    promote: bool = False  # a learner that the leader shall make a voter once it has caught up (rule 13)


class Configuration(Struct, frozen=True, array_like=True):
    """Who takes part (thesis 4.3). Joint while `outgoing` is not empty: majorities of both halves are needed then.

    `voters` are the new voters, `outgoing` the old ones. A member that a joint change demotes stands in `learners`
    and in `outgoing` at once: it votes in the old half until the final entry, and is a learner after that.
    `tombstones` are ids that a configuration has dropped; they never return (rule 15). `min_voters` is the
    bootstrap latch: writes are refused while it is not 0; a configuration with as many voters sets it to 0.
    """

    voters: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()
    outgoing: tuple[Member, ...] = ()
    tombstones: tuple[NodeId, ...] = ()
    min_voters: int = 0


class PlacedConfiguration(Struct, frozen=True, array_like=True):
    """A configuration with the place of its entry in the log; `id` is the precondition of the next change (rule 12)."""

    index: int
    term: int
    configuration: Configuration

    @property
    def id(self) -> str:
        return f"{self.term}.{self.index}"


class SnapshotMeta(Struct, frozen=True, array_like=True):
    """What a snapshot covers: everything up to `index`, with the configuration *applied* there (rule 17)."""

    index: int
    term: int
    time_ms: int  # cluster time of the entry at `index`
    placed: PlacedConfiguration
    cluster_version: int
    size_bytes: int
    digest: str  # lower-case hex SHA-256 of the file
