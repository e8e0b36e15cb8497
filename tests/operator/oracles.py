"""What the operator may never do, or even ask for: one function for each kind of act, one name for each invariant.

A reproach is made on one of two grounds. *Told*: with what this operator was shown in this pass (`Eyes`), it could have
known better; this holds however old or wrong that was. *True*: the act would do harm in the world as it is, and no
precondition of the API server or the Raft log stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.operator.simcontrollers import OUT_OF_SERVICE, PROTECTION, host_of, ready
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
    identity: str = ""  # its name in the Lease; empty: it believes that it needs none
    leased: bool = True  # did it hold the Lease when it last looked at the world?

    def saw(self, key: tuple[str, str], manifest: Manifest | None) -> None:
        if key[0] == names.KIND:  # a pass begins with it
            self.told.clear()
        if manifest is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = manifest

    def looks(self, sim: Sim) -> None:
        """It begins to look, or goes on."""
        lease = sim.objects.get(("Lease", names.lease(NAME)), {})
        self.leased = not self.identity or lease.get("spec", {}).get("holderIdentity") == self.identity

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

    @property
    def operation(self) -> Manifest:
        """`status.operation` as it read it."""
        return dict(self.cluster.get("status", {}).get("operation") or {})

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
    _may_act(eyes)
    _latched(eyes, "changes the membership")


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
    volume = sim.objects.get(("PersistentVolume", claim["spec"].get("volumeName", "")))
    node = sim.objects.get(("Node", host_of(volume))) if volume else None
    if volume is None:
        return False
    return node is None or any(taint["key"] == OUT_OF_SERVICE for taint in node["spec"].get("taints", []))


def _replicas_seen(sim: Sim, eyes: Eyes) -> int:
    seen = eyes.cluster or sim.objects.get((names.KIND, NAME), {})
    return int(seen.get("spec", {}).get("replicas", 0))


def bootstraps(sim: Sim, eyes: Eyes, disk: Disk, request: admin.BootstrapRequest) -> None:
    _may_act(eyes)
    if any(other.cluster_id for uid, other in sim.disks.items() if _exists(sim, uid)):
        raise Oracle("I6: founds a cluster beside an old disk")
    latch = sim.objects.get((names.KIND, NAME), {}).get("status", {}).get("bootstrap", {})
    if latch.get("requestID") != request.request_id or latch.get("nodeID") != disk.node_id:
        raise Oracle("I19: founds a cluster that the latch does not name")
    if latch.get("clusterID"):
        raise Oracle("I6: founds a cluster that was founded before")


def _exists(sim: Sim, claim_uid: str) -> bool:
    return any(o["metadata"]["uid"] == claim_uid for o in sim.objects.values())


def transfers(sim: Sim, eyes: Eyes, group: Group, target: str) -> None:
    """Told: in a rolling update the heir's pod is one that was renewed."""
    _may_act(eyes)
    pod = eyes.objects.get(("Pod", names.member_name(target)), {})
    made_from = pod.get("metadata", {}).get("labels", {}).get("controller-revision-hash")
    update = eyes.objects.get(("StatefulSet", NAME), {}).get("status", {}).get("updateRevision")
    if eyes.operation.get("type") == "RollingUpdate" and made_from != update:
        raise Oracle(f"I16: hands over to {target}, which is to be restarted itself")


def snapshots(sim: Sim, eyes: Eyes, pod: Manifest) -> None:
    _may_act(eyes)


def resets(sim: Sim, eyes: Eyes, disk: Disk) -> None:
    _may_act(eyes)
    for group in sim.groups.values():
        if disk.node_id in group.ids():
            raise Oracle(f"I5: resets a member of the configuration: {disk.node_id}")
    leader = eyes.leader
    if leader is None or leader.configuration is None or not leader.configuration.committed:
        raise Oracle("N6: resets a disk without a leader that confirmed who is a member")
    _latched(eyes, "resets a disk")


def notes(sim: Sim, eyes: Eyes, disk: Disk, request: admin.NotesRequest) -> None:
    _may_act(eyes)


# ---- Kubernetes


def applies(sim: Sim, eyes: Eyes, manifest: Manifest, live: Manifest | None, subresource: str) -> None:
    if subresource == "status":
        _status(sim, eyes, manifest)
        return
    _may_act(eyes)
    if manifest["metadata"].get("finalizers"):
        raise Oracle(f"I20: puts a finalizer on {manifest['kind']}, which would need the operator to be deleted")
    uid = eyes.cluster.get("metadata", {}).get("uid")
    owners = live["metadata"].get("ownerReferences", []) if live else []
    left = not owners and names.DESIRED_ANNOTATION in (live or {}).get("metadata", {}).get("annotations", {})  # orphan
    ours = left or any(owner["uid"] == uid for owner in owners)
    if live is not None and manifest["kind"] != CLAIM and not ours:
        raise Oracle(f"N1: takes over {manifest['kind']}/{manifest['metadata']['name']}, which it did not make")
    if manifest["kind"] == "StatefulSet" and live is not None:
        group = sim.group()
        highest = _highest(group) if group else -1
        lower = manifest["spec"]["replicas"] < live["spec"]["replicas"]
        if lower and (manifest["spec"]["replicas"] <= highest or group is None or not group.committed):
            raise Oracle(f"I9: takes pods away before their members: {manifest['spec']['replicas']} <= {highest}")
    if manifest["kind"] == "Service" and (selector := manifest["spec"].get("selector")):
        labels = names.labels(NAME)
        if any(labels.get(key) != value for key, value in selector.items()):
            raise Oracle("I21: selects labels that a recreated pod does not have")


def _status(sim: Sim, eyes: Eyes, manifest: Manifest) -> None:
    conditions = manifest["status"].get("conditions", [])
    if any(c["type"] == "Available" and c["status"] == "True" for c in conditions) and eyes.leader is None:
        raise Oracle("I15: says Available without a barrier in this pass")


def _highest(group: Group) -> int:
    return max((names.ordinal_of_member(NAME, id_) or 0 for id_ in group.ids()), default=-1)


def creates(sim: Sim, eyes: Eyes, manifest: Manifest) -> None:
    if manifest["kind"] not in ("Lease", "Event"):
        _may_act(eyes)


def deletes(sim: Sim, eyes: Eyes, live: Manifest, *, orphan: bool = False) -> None:
    _may_act(eyes)
    name = live["metadata"]["name"]
    if live["kind"] == "Pod":
        if ready(live):
            raise Oracle(f"N4: deletes {name}, which is Ready, instead of evicting it")
        _removes(sim, eyes, live)
    if live["kind"] == "StatefulSet" and not orphan:
        raise Oracle("N19: deletes the StatefulSet and all its pods")
    if live["kind"] == CLAIM:
        disk = sim.disks[live["metadata"]["uid"]]
        if any(disk.node_id in group.ids() for group in sim.groups.values()):
            raise Oracle(f"I5: deletes the volume of a member: {name}")
        keep = eyes.cluster.get("spec", {}).get("storage", {}).get("retention", {}).get("whenScaled") != "Delete"
        least = max((group.min_voters for group in sim.groups.values()), default=0)
        beyond = (names.ordinal_of_claim(NAME, name) or 0) >= max(_replicas_seen(sim, eyes), least)
        if keep and beyond:
            raise Oracle(f"N7: deletes {name}, which shall be kept")
        if set(live["metadata"].get("finalizers", [])) - {PROTECTION}:
            raise Oracle(f"N16: deletes {name}, which somebody else holds")
        _latched(eyes, f"deletes {name}")


def evicts(sim: Sim, eyes: Eyes, live: Manifest) -> None:
    _may_act(eyes)
    _removes(sim, eyes, live)


def _removes(sim: Sim, eyes: Eyes, live: Manifest) -> None:
    """A pod, by eviction or deletion: judged by who took part, as told."""
    name = live["metadata"]["name"]
    _latched(eyes, f"removes {name}")
    answer = next((a for a in eyes.told.values() if a.name == name), None)
    there, leader = eyes.participating(), eyes.leader
    if answer is None or answer.node_id not in there or leader is None or leader.configuration is None:
        return
    voters = {m.id for m in leader.configuration.voters}
    left = there - {answer.node_id}
    needed = 1 if len(voters) == 2 else quorum(len(voters))
    if len(voters) > 1 and len(left & voters) < needed:
        raise Oracle(f"I4: removes {name}, without which {len(left)} of {len(voters)} take part")
    if answer.node_id == leader.node_id and len(voters) > 1 and leader.node_id not in eyes.transfers:
        raise Oracle(f"I16: removes {name}, which leads, before anybody else was asked to")
    if away := (sim.disrupted & voters) - there - {answer.node_id}:
        raise Oracle(f"I17: removes {name} while {sorted(away)} is not back")
    held = [c for (kind, _), c in eyes.objects.items() if kind == CLAIM and "deletionTimestamp" in c["metadata"]]
    if any((names.ordinal_of_claim(NAME, c["metadata"]["name"]) or 0) < len(voters) for c in held):
        raise Oracle(f"N15: removes {name} while a claim that is ending keeps pods from being made again")
    sim.disrupted.add(answer.node_id)


def _may_act(eyes: Eyes) -> None:
    annotations = eyes.cluster.get("metadata", {}).get("annotations", {})
    if annotations.get("oarlock.dev/paused") == "true":
        raise Oracle("I14: changes something of a cluster that is paused")
    if not eyes.leased:
        raise Oracle("N14: acts without holding the Lease")


def _latched(eyes: Eyes, what: str) -> None:
    if not eyes.operation:
        raise Oracle(f"I19: {what} without an operation that was written and read back")


def state(sim: Sim) -> None:
    """True of the world after every side effect and every move, whoever caused it."""
    cluster, group = sim.objects.get((names.KIND, NAME)), sim.group()
    if cluster is None or group is None:
        return
    founded = cluster.get("status", {}).get("bootstrap", {}).get("clusterID", "")
    sts = sim.objects.get(("StatefulSet", NAME))
    if founded and sts is not None and sts["spec"]["replicas"] <= _highest(group):
        raise Oracle(f"I9: {sts['spec']['replicas']} replicas, and a member with ordinal {_highest(group)}")
    ids = {disk.cluster_id for disk in sim.disks.values() if disk.cluster_id}
    if len(ids) > 1:
        raise Oracle(f"I6: two clusters under one name: {sorted(ids)}")
    before = sim.founded.setdefault(cluster["metadata"]["uid"], founded)
    if before and founded != before:
        raise Oracle(f"N17: the latch of the founding was {before} and is {founded or 'gone'}")
    sim.founded[cluster["metadata"]["uid"]] = founded
    pods = {name: pod for (kind, name), pod in sim.objects.items() if kind == "Pod"}
    _back(sim, group, pods)
    _budget(sim, group, pods)


def _back(sim: Sim, group: Group, pods: dict[str, Manifest]) -> None:
    """Who was disrupted and is up again is disrupted no more."""
    if sim.disrupted and group.leader:
        up = sim.up(group)
        ending = {name for name, pod in pods.items() if "deletionTimestamp" in pod["metadata"]}
        sim.disrupted = {id_ for id_ in sim.disrupted if id_ not in up or names.member_name(id_) in ending}


def _budget(sim: Sim, group: Group, pods: dict[str, Manifest]) -> None:
    budget = sim.objects.get(("PodDisruptionBudget", NAME))
    if budget is None or len(group.voters) < 3 or sim.deceived:
        return  # an older answer may lower it for a pass: nothing that the next one does not put right
    there = {name for name, pod in pods.items() if ready(pod) and "deletionTimestamp" not in pod["metadata"]}
    allowed = max(0, len(there) - int(budget["spec"]["minAvailable"]))
    needed = max(quorum(len(half)) for half in group.halves())
    if len(there) >= needed > len(there) - allowed:
        raise Oracle(f"I18: the budget lets {allowed} of {len(there)} ready pods go, {needed} are a quorum")
