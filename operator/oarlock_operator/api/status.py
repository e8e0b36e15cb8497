"""`RaftCluster.status`: what was last seen. Nothing here moves with every write; such numbers are metrics.

`bootstrap`, `operation` and `rollout` are decisions that are kept here rather than seen: latches, each written under a
field manager of its own with the resourceVersion it was decided on, and read back before the act it permits.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import Model
from .spec import Resources


class CatchUp(StrEnum):
    CAUGHT_UP = "CaughtUp"
    BEHIND = "Behind"
    SNAPSHOTTING = "Snapshotting"
    UNKNOWN = "Unknown"


class LastSnapshot(Model):
    index: Annotated[
        int, Field(description="Last log entry it covers; 0 before the first.", json_schema_extra={"format": "int64"})
    ] = 0
    time: Annotated[
        str,
        Field(
            description="When the operator saw it taken, or saw the try fail.",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    failure: Annotated[str, Field(description="Why the last try failed; empty when it did not.")] = ""
    request: Annotated[
        str, Field(description="Last value of oarlock.dev/snapshot-now that the member was asked to carry out.")
    ] = ""


class MemberStatus(Model):
    node_id: str = Field(description="Identity of the member: its name and the incarnation of its disk.")
    pod: str = Field(description="Name of its pod, as the member recorded it.")
    suffrage: str = Field(description="Voter, Learner or Outgoing (leaving by a change that is not committed).")
    role: str = Field(description="leader, follower, candidate, pre-candidate; empty when it does not answer.")
    state: str = Field(description="What the member says it is, or Unreachable.")
    catch_up: CatchUp = Field(default=CatchUp.UNKNOWN, description="How far its log is, as the leader sees it.")
    version: str = Field(default="", description="Version of the program it runs.")
    last_snapshot: Annotated[LastSnapshot | None, Field(description="Its last snapshot.")] = None
    updated: bool = Field(default=False, description="Whether its pod was made from the wanted template.")


class BootstrapStatus(Model):
    seed: str = Field(description="Pod that founds (or founded) the cluster.")
    node_id: str = Field(description="Identity of the seed's disk when it was chosen.")
    request_id: str = Field(default="", description="Identity of the request; a repeat of it is not a second founding.")
    requested_cluster_id: str = Field(default="", description="Cluster id that was asked for.")
    min_voters: int = Field(
        default=1, description="Writes are refused until the configuration has had this many voters."
    )
    cluster_id: str = Field(default="", description="Effective cluster id; set once the seed leads. Empty until then.")
    adopted: bool = Field(default=False, description="True when the cluster existed before this object.")


OperationType = Literal["Bootstrap", "ScaleOut", "ScaleIn", "Replace", "RollingUpdate", "ResetMember", "DeleteVolume"]


class OperationStatus(Model):
    type: OperationType = Field(description="What is under way.")
    target: str = Field(
        description="Its goal: a number of voters, a node id, a volume claim, or the hash of a pod template."
    )
    step: str = Field(description="The first thing that it permitted.")
    started_time: Annotated[str, Field(description="When it was written.", json_schema_extra={"format": "date-time"})]


class RolloutStatus(Model):
    """What to go back to, and what not to try again. Hashes are those of the rendered pod template."""

    revision: str = Field(default="", description="Revision of the StatefulSet with the last good template.")
    good_image: str = Field(default="", description="Image in the last good template.")
    good_resources: Annotated[Resources | None, Field(description="Compute resources in the last good template.")] = (
        None
    )
    good_hash: str = Field(default="", description="Hash of the last good template.")
    failed_hash: str = Field(default="", description="Hash of a template that its first member did not come up with.")
    failed_reason: str = Field(default="", description="Why that member did not come up.")


class Condition(Model):
    type: str = Field(description="Available, Progressing or Degraded.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[
        str,
        Field(
            description="Why, in one word that programs may compare.",
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        ),
    ]
    message: Annotated[str, Field(description="Why, in a sentence.", max_length=32768)]
    observed_generation: Annotated[
        int, Field(ge=0, description="Generation of spec that it was said of.", json_schema_extra={"format": "int64"})
    ]
    last_transition_time: Annotated[
        str, Field(description="When the status last changed.", json_schema_extra={"format": "date-time"})
    ]


_MAP_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_MAP_BY_NODE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["nodeID"]}


class Status(Model):
    observed_generation: Annotated[
        int, Field(ge=0, description="Generation of spec this describes.", json_schema_extra={"format": "int64"})
    ] = 0
    selector: str = Field(default="", description="Label selector of the members' pods, for the scale subresource.")
    replicas: Annotated[int, Field(description="Voters in the committed configuration.")] = 0
    ready_replicas: Annotated[int, Field(description="Members whose pod is Ready.")] = 0
    version: str = Field(default="", description="The lowest version that a voter runs.")
    cluster_id: str = Field(default="", description="Effective cluster id.")
    leader: str = Field(default="", description="Pod of the leader.")
    term: Annotated[int, Field(description="Term of the leader.", json_schema_extra={"format": "int64"})] = 0
    bootstrap: Annotated[BootstrapStatus | None, Field(description="How the cluster was founded; a latch.")] = None
    operation: Annotated[
        OperationStatus | None, Field(description="What is under way in several steps, or destroys; a latch.")
    ] = None
    rollout: Annotated[
        RolloutStatus | None, Field(description="The last good pod template, and one that failed; a latch.")
    ] = None
    snapshot_now: str = Field(
        default="",
        description="Last value of the annotation oarlock.dev/snapshot-now that all participating members carried out.",
    )
    members: Annotated[
        tuple[MemberStatus, ...], Field(max_length=32, description="Who takes part.", json_schema_extra=_MAP_BY_NODE)
    ] = ()
    conditions: Annotated[
        tuple[Condition, ...],
        Field(max_length=16, description="Available, Progressing, Degraded.", json_schema_extra=_MAP_BY_TYPE),
    ] = ()
