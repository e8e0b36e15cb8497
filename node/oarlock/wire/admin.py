"""The admin contract between a member and its operator (port 2380, `/admin/*`), as models.

Unknown fields in a request are refused (a misspelt field must not be ignored); unknown fields in an answer are
ignored (an older operator must read a newer member).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class State(StrEnum):
    """What a member is, from outside. The operator's gates count only `Participating`."""

    IDLE = "Idle"  # an empty directory: waits to be bootstrapped or added
    REPLAYING = "Replaying"  # reading its snapshot and log
    PARTICIPATING = "Participating"  # a voter, identity sound, applied within 10,000 entries of the known commit
    LAGGING = "Lagging"  # further behind, or a learner that is not caught up
    ISOLATED = "Isolated"  # a voter without contact to a leader for two election time-outs
    REMOVED = "Removed"  # its id is tombstoned
    STALE = "Stale"  # the directory belongs to another cluster
    CORRUPT = "Corrupt"  # log or snapshot damaged beyond a torn tail, or its state contradicted: replace this member
    OUTDATED = "Outdated"  # its log holds what only a newer version understands: run that version
    FROZEN = "Frozen"
    DRAINING = "Draining"  # stopping: leadership is handed over, no new writes


class Role(StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


NodeId = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?-[0-9a-f]{16}$", max_length=128)]
Url = Annotated[str, Field(pattern=r"^https?://[^/?#\s]+$", max_length=512)]


class MemberModel(_Request):
    id: NodeId
    peer_url: Url
    client_url: Url
    promote: bool = False


class BootstrapRequest(_Request):
    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    cluster_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.:/]*$", max_length=128)]
    min_voters: Annotated[int, Field(ge=1, le=9)] = 1


class BootstrapAnswer(_Answer):
    cluster_id: str  # effective: the requested id, a plus sign and the nonce minted here
    node_id: str


class ConfigurationRequest(_Request):
    """The whole desired set. `if_config` is the `id` of the latest configuration, as `/admin/status` gives it."""

    voters: Annotated[list[MemberModel], Field(min_length=1, max_length=9)]
    learners: Annotated[list[MemberModel], Field(max_length=9)] = []
    if_config: str


class ConfigurationAnswer(_Answer):
    id: str  # of the final configuration, committed


class TransferRequest(_Request):
    target: NodeId


class TransferAnswer(_Answer):
    leader: str
    term: int


class BarrierAnswer(_Answer):
    index: int
    term: int


class SnapshotAnswer(_Answer):
    index: int
    term: int
    size_bytes: int
    digest: str


class ResetRequest(_Request):
    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    node_id: NodeId


class ResetAnswer(_Answer):
    node_id: str  # the new one
    quarantine: str


class NotesRequest(_Request):
    """What the operator tells a member about itself at admission; the member records and reports it."""

    pod_uid: str | None = None
    volume_uid: str | None = None


class ConfigurationModel(_Answer):
    id: str
    committed: bool
    voters: list[MemberModel] = []
    learners: list[MemberModel] = []
    outgoing: list[MemberModel] = []
    tombstones: list[str] = []
    min_voters: int = 0


class PeerModel(_Answer):
    """How the leader sees a peer."""

    match_index: int
    contact_age_seconds: float | None  # since its last message; None before the first
    progress: str  # probe | replicate | snapshot
    diverged: bool = False  # it applied the same log to another state than the leader


class StorageModel(_Answer):
    healthy: bool
    free_bytes: int
    wal_bytes: int
    cut_bytes: int  # dropped from a torn tail at the last start
    low_on_space: bool
    failure: str | None = None


class SnapshotModel(_Answer):
    """The last local snapshot, and why the last try failed, if it did. Index 0: there is none yet."""

    index: int
    term: int
    size_bytes: int
    digest: str
    failure: str | None = None


class ReplayModel(_Answer):
    applied_index: int
    target_index: int


class StatusAnswer(_Answer):
    state: State
    reason: str = ""  # a sentence where the state is not Participating
    cluster_id: str | None  # effective; None when Idle
    node_id: str
    name: str
    incarnation: str
    peer_url: str = ""  # as this member advertises them: what to write into a configuration
    client_url: str = ""
    version: str
    cluster_version: int
    role: Role
    term: int
    leader: str | None
    leader_contact_age_seconds: float | None
    commit_index: int
    applied_index: int
    last_index: int
    last_term: int
    configuration: ConfigurationModel | None
    state_hash: str
    revision: int = 0
    peers: dict[str, PeerModel] = {}
    replay: ReplayModel | None = None
    storage: StorageModel
    snapshot: SnapshotModel | None = None
    pod_uid: str | None = None
    volume_uid: str | None = None
