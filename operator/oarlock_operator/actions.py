"""The few things the operator does to a cluster's membership and data, as values. `act.py` does them, one a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from oarlock.wire.admin import MemberModel

from .api.status import BootstrapStatus, OperationStatus, RolloutStatus
from .world import Pod, Volume


@dataclass(frozen=True, slots=True)
class WriteLatch:
    """Write `status.bootstrap`, on the resourceVersion it was decided on."""

    latch: BootstrapStatus
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Ask the seed to found the cluster. Only after the latch was written and read back."""

    pod: Pod
    latch: BootstrapStatus


@dataclass(frozen=True, slots=True)
class Note:
    """Tell a member which pod and which volume it runs on, before it is admitted."""

    pod: Pod
    volume_uid: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Have a member put its old data into quarantine and come back under a new identity."""

    pod: Pod
    node_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Configure:
    """One change of the membership, by compare-and-set on the configuration it was planned from."""

    leader: Pod
    voters: tuple[MemberModel, ...]
    learners: tuple[MemberModel, ...]
    if_config: str
    why: str


@dataclass(frozen=True, slots=True)
class Transfer:
    leader: Pod
    target: str  # node id
    why: str


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    volume: Volume
    why: str


@dataclass(frozen=True, slots=True)
class RemovePod:
    """Have a pod made anew: evicted when it is Ready, deleted when it is not. The StatefulSet brings it back."""

    pod: Pod
    why: str
    warning: str = ""  # what this restart costs, where it is more than usual


@dataclass(frozen=True, slots=True)
class WriteOperation:
    """Write `status.operation`, or clear it, on the resourceVersion it was decided on. `before` is what stood there."""

    operation: OperationStatus | None
    before: OperationStatus | None
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class WriteRollout:
    """Write `status.rollout`, on the resourceVersion it was decided on."""

    rollout: RolloutStatus
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Ask one member for a snapshot. A refusal is that member's, and no error of the pass."""

    pod: Pod
    node_id: str
    request: str  # the value of the annotation that it answers, or empty
    why: str
    calm: Wait  # what there is to say apart from it


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now, and why. `blocked` is True when nothing will change by itself."""

    reason: str  # CamelCase, for a condition
    message: str  # a sentence
    blocked: bool = False


Action: TypeAlias = (
    WriteLatch
    | Bootstrap
    | Note
    | Reset
    | Configure
    | Transfer
    | DeleteVolume
    | RemovePod
    | WriteOperation
    | WriteRollout
)
Decision: TypeAlias = Action | TakeSnapshot | Wait

IDLE = Wait("Idle", "The cluster is as it shall be.")
