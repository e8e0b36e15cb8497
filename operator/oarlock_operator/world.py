"""What one pass knows: the cluster object, its children, and what each member says. Frozen values, no effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oarlock.wire.admin import ConfigurationModel, StatusAnswer

from . import names
from .api.spec import Spec
from .api.status import Status

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A RaftCluster object as the API server gave it."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    spec: Spec
    status: Status
    deleting: bool = False
    raw_status: Manifest = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def with_spec(self, **changes: Any) -> Cluster:
        return replace(self, spec=self.spec.model_copy(update=changes))

    @property
    def paused(self) -> bool:
        return self.annotations.get(names.PAUSED_ANNOTATION) == "true"


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    uid: str
    ordinal: int
    ip: str
    ready: bool
    terminating: bool
    revision: str = ""
    why: str = ""  # why it does not run, as Kubernetes says it
    node: str = ""  # that it was scheduled to
    waiting: str = ""  # the error for which its container waits: ImagePullBackOff, CrashLoopBackOff
    created: float = 0.0  # Unix seconds, the API server's clock
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolumeClaim `data-<cluster>-<ordinal>`."""

    name: str
    ordinal: int
    uid: str
    cluster_uid: str  # of the RaftCluster it was made for
    terminating: bool = False
    manifest: Manifest = field(default_factory=dict)

    @property
    def disk(self) -> str:
        """Name of its PersistentVolume; empty until it is bound."""
        return str(self.manifest.get("spec", {}).get("volumeName", ""))

    @property
    def finalizers(self) -> list[str]:
        return list(self.manifest.get("metadata", {}).get("finalizers", []))

    @property
    def member(self) -> str:
        """Node id of the member whose disk it holds, as was noted on it; empty before."""
        return str(self.manifest.get("metadata", {}).get("annotations", {}).get(names.MEMBER_ANNOTATION, ""))


@dataclass(frozen=True, slots=True)
class Node:
    """A Node of Kubernetes. `out_of_service`: a person's word that it is off and stays off."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    out_of_service: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """What was looked up because a member did not answer, or a volume is ending. `nodes` is None when not permitted."""

    nodes: tuple[Node, ...] | None = None
    disks: Mapping[str, Manifest] = field(default_factory=dict)  # PersistentVolumes by name
    mounts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # pods by the claim they name
    hidden: str = ""  # what could not be seen, and what that means, as a sentence


@dataclass(frozen=True, slots=True)
class Seen:
    """What the member in a pod answered in this pass. `status` is None when it did not, or answered for another."""

    pod: Pod
    status: StatusAnswer | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Barrier:
    """A linearizable no-op that this member answered after the statuses were read."""

    node_id: str
    term: int


@dataclass(frozen=True, slots=True)
class SnapshotTry:
    """What came of asking a member for a snapshot in this pass. `failure` is empty when it was taken."""

    node_id: str
    request: str  # the value of the annotation that it answers; empty when `spec.snapshots` wanted it
    index: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class World:
    cluster: Cluster
    statefulset: Manifest | None = None
    children: Mapping[str, Manifest] = field(default_factory=dict)  # by "Kind/name"
    pods: tuple[Pod, ...] = ()
    volumes: tuple[Volume, ...] = ()
    seen: tuple[Seen, ...] = ()
    barrier: Barrier | None = None
    token: str = ""
    around: Around | None = None  # None: nothing made it worth a look
    tried: SnapshotTry | None = None  # what was done in this pass
    good_template: Manifest | None = None  # the last good one, read when it is to be written again
    default_image: str = ""  # of members whose spec names none
    operator_namespace: str = ""  # empty when the operator does not run in a pod
    now: float = 0.0  # Unix seconds
    may_roll: bool = True  # whether one more cluster may begin a rolling update

    def with_members(self, seen: tuple[Seen, ...], barrier: Barrier | None) -> World:
        return replace(self, seen=seen, barrier=barrier)

    def at(self, ordinal: int) -> Seen | None:
        return next((seen for seen in self.seen if seen.pod.ordinal == ordinal), None)

    def volume(self, ordinal: int) -> Volume | None:
        return next((volume for volume in self.volumes if volume.ordinal == ordinal), None)

    @property
    def live_replicas(self) -> int | None:
        return None if self.statefulset is None else int(self.statefulset["spec"]["replicas"])

    def ordinal(self, node_id: str) -> int | None:
        return names.ordinal_of_member(self.cluster.name, node_id)


def voters_of(configuration: ConfigurationModel) -> frozenset[str]:
    return frozenset(member.id for member in configuration.voters)


def quorum(voters: int) -> int:
    """A majority (paper, 5.2)."""
    return voters // 2 + 1
