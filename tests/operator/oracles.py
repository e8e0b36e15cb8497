"""What the operator may never do, or even ask for: one function for each kind of act, one name for each invariant.

A reproach is made on one of two grounds. *Told*: with what this operator was shown in this pass (`Eyes`), it could have
known better; this holds however old or wrong that was. *True*: the act would do harm in the world as it is, and no
precondition of the API server or the Raft log stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.operator.simraft import Disk, Group, Oracle

from oarlock.wire import admin
from oarlock.wire.admin import State
from oarlock_operator import names
from oarlock_operator.world import quorum

if TYPE_CHECKING:
    from tests.operator.sim import Sim

Manifest = dict[str, Any]
NAME = "demo"
CLAIM = "PersistentVolumeClaim"


@dataclass
class Eyes:
    """What one operator was shown and told last, and what it tried."""

    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    told: dict[str, admin.StatusAnswer] = field(default_factory=dict)  # by address
    barrier: tuple[str, int] | None = None
    transfers: set[str] = field(default_factory=set)  # leaders that it asked to hand over

    def saw(self, key: tuple[str, str], manifest: Manifest | None) -> None:
        if manifest is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = manifest

    def saw_all(self, kind: str, manifests: list[Manifest]) -> None:
        self.objects = {key: item for key, item in self.objects.items() if key[0] != kind}
        self.objects |= {(kind, item["metadata"]["name"]): item for item in manifests}

    @property
    def cluster(self) -> Manifest:
        return self.objects.get((names.KIND, NAME), {})

    @property
    def leader(self) -> admin.StatusAnswer | None:
        """Who led, as it said itself and proved by a barrier."""
        for answer in self.told.values():
            if self.barrier == (answer.node_id, answer.term):
                return answer
        return None

    def participating(self) -> set[str]:
        leader = self.leader
        if leader is None:
            return set()
        return {
            answer.node_id
            for answer in self.told.values()
            if answer.state is State.PARTICIPATING and answer.leader == leader.node_id
        }


# ---- membership


def asks(sim: Sim, eyes: Eyes, request: admin.ConfigurationRequest) -> None:
    """Told: before the member itself compares."""
    leader = eyes.leader
    if leader is None or leader.configuration is None:
        raise Oracle("N13: changes the membership without a leader that passed a barrier")
    told = leader.configuration
    if not told.committed or told.outgoing:
        raise Oracle("I1: changes the membership while another change is not committed")
    if request.if_config != told.id:
        raise Oracle(f"I2: the change is not based on the configuration that was seen: {request.if_config}")
    staying = {m.id for m in request.voters}
    if not staying:
        raise Oracle("I3: asks for no voters at all")
    dropped = {m.id for m in told.voters} - staying
    if dropped and len(eyes.participating() & staying) < quorum(len(staying)):
        raise Oracle("I3: would leave fewer participants than a quorum")
    if again := {m.id for m in (*request.voters, *request.learners)} & set(told.tombstones):
        raise Oracle(f"I7: admits an id again that was removed: {sorted(again)}")
    if new := staying - {m.id for m in (*told.voters, *told.learners)}:
        raise Oracle(f"I8: makes voters of {sorted(new)}, who are no learners yet")
    _paused(eyes)


def configures(sim: Sim, eyes: Eyes, group: Group, request: admin.ConfigurationRequest) -> None:
    """True: the configuration is the one it was planned on."""
    wanted, staying = {m.id for m in (*request.voters, *request.learners)}, {m.id for m in request.voters}
    spec = max(_replicas_seen(sim, eyes), group.min_voters)
    for member in (*group.voters, *group.learners):
        if member.id in wanted:
            continue
        ordinal = names.ordinal_of_member(NAME, member.id)
        if ordinal is None:
            raise Oracle(f"N3: removes a member that is not ours: {member.id}")
        if ordinal < spec and not lost(sim, member.id):
            raise Oracle(f"N12: removes a sound member that shall stay: {member.id}")
    if group.leader not in staying and group.leader in {m.id for m in group.voters}:
        raise Oracle("N18: removes the leader before moving the leadership")


def lost(sim: Sim, node_id: str) -> bool:
    """Is the disk of this member truly gone, or another, or on no node, or given up by a person?"""
    ordinal = names.ordinal_of_member(NAME, node_id) or 0
    claim = sim.objects.get((CLAIM, names.claim(NAME, ordinal)))
    disk = sim.disk_of(names.pod(NAME, ordinal))
    if claim is None or disk is None or disk.node_id != node_id or disk.corrupt:
        return True
    if disk.volume_uid != claim["metadata"]["uid"] or "deletionTimestamp" in claim["metadata"]:
        return True
    if names.pod(NAME, ordinal) in sim.states and sim.states[names.pod(NAME, ordinal)] in (State.STALE, State.CORRUPT):
        return True
    given_up = sim.objects.get((names.KIND, NAME), {}).get("metadata", {}).get("annotations", {})
    return given_up.get("oarlock.dev/replace") == node_id or _on_no_node(sim, claim)


def _on_no_node(sim: Sim, claim: Manifest) -> bool:
    from tests.operator.simcontrollers import OUT_OF_SERVICE, host_of

    volume = sim.objects.get(("PersistentVolume", claim["spec"].get("volumeName", "")))
    node = sim.objects.get(("Node", host_of(volume))) if volume else None
    if volume is None:
        return False
    return node is None or any(taint["key"] == OUT_OF_SERVICE for taint in node["spec"].get("taints", []))


def _replicas_seen(sim: Sim, eyes: Eyes) -> int:
    seen = eyes.cluster or sim.objects.get((names.KIND, NAME), {})
    return int(seen.get("spec", {}).get("replicas", 0))


def bootstraps(sim: Sim, eyes: Eyes, disk: Disk, request: admin.BootstrapRequest) -> None:
    if any(other.cluster_id for uid, other in sim.disks.items() if _exists(sim, uid)):
        raise Oracle("I6: founds a cluster beside an old disk")
    latch = sim.objects.get((names.KIND, NAME), {}).get("status", {}).get("bootstrap", {})
    if latch.get("requestID") != request.request_id or latch.get("nodeID") != disk.node_id:
        raise Oracle("I19: founds a cluster that the latch does not name")
    if latch.get("clusterID"):
        raise Oracle("I6: founds a cluster that was founded before")
    _paused(eyes)


def _exists(sim: Sim, claim_uid: str) -> bool:
    return any(o["metadata"]["uid"] == claim_uid for o in sim.objects.values())


def transfers(sim: Sim, eyes: Eyes, group: Group, target: str) -> None:
    _paused(eyes)


def snapshots(sim: Sim, eyes: Eyes, pod: Manifest) -> None:
    _paused(eyes)


def resets(sim: Sim, eyes: Eyes, disk: Disk) -> None:
    for group in sim.groups.values():
        if disk.node_id in group.ids():
            raise Oracle(f"I5: resets a member of the configuration: {disk.node_id}")
    _paused(eyes)


def notes(sim: Sim, eyes: Eyes, disk: Disk, request: admin.NotesRequest) -> None:
    _paused(eyes)


# ---- Kubernetes


def applies(sim: Sim, eyes: Eyes, manifest: Manifest, live: Manifest | None, subresource: str) -> None:
    if subresource != "status":
        _paused(eyes)
    if manifest["kind"] == "StatefulSet" and live is not None:
        group = sim.group()
        highest = _highest(group) if group else -1
        lower = manifest["spec"]["replicas"] < live["spec"]["replicas"]
        if lower and (manifest["spec"]["replicas"] <= highest or group is None or not group.committed):
            raise Oracle(f"I9: takes pods away before their members: {manifest['spec']['replicas']} <= {highest}")


def _highest(group: Group) -> int:
    return max((names.ordinal_of_member(NAME, id_) or 0 for id_ in group.ids()), default=-1)


def creates(sim: Sim, eyes: Eyes, manifest: Manifest) -> None:
    if manifest["kind"] not in ("Lease", "Event"):
        _paused(eyes)


def deletes(sim: Sim, eyes: Eyes, live: Manifest, *, orphan: bool = False) -> None:
    _paused(eyes)
    name = live["metadata"]["name"]
    if live["kind"] == CLAIM:
        disk = sim.disks[live["metadata"]["uid"]]
        if any(disk.node_id in group.ids() for group in sim.groups.values()):
            raise Oracle(f"I5: deletes the volume of a member: {name}")


def evicts(sim: Sim, eyes: Eyes, live: Manifest) -> None:
    _paused(eyes)


def _paused(eyes: Eyes) -> None:
    annotations = eyes.cluster.get("metadata", {}).get("annotations", {})
    if annotations.get("oarlock.dev/paused") == "true":
        raise Oracle("I14: changes something of a cluster that is paused")


def state(sim: Sim) -> None:
    """True of the world after every side effect, whoever caused it."""
