"""A Kubernetes and its members as values, for the operator's tests: the ports it uses, over a small model.

The model refuses what the real ones refuse (resourceVersion, uid, `if_config`, a quorum, a disruption budget), and
*asserts* what the operator may never even ask for (`oracles`). Everything happens when it is called; the rest moves
in `settle()`, or one controller at a time (`simcontrollers`), as a test likes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.operator import oracles, simcontrollers, simraft
from tests.operator.simcontrollers import OUT_OF_SERVICE, copied
from tests.operator.simkube import FakeKube, allowed_disruptions
from tests.operator.simmembers import FakeMembers, state_of
from tests.operator.simraft import Disk, Group, Oracle

from oarlock.wire import admin
from oarlock.wire.admin import State
from oarlock_operator import names
from oarlock_operator.kube import KubeError, Manifest
from oarlock_operator.lease import Lease
from oarlock_operator.metrics import Metrics
from oarlock_operator.reconcile import Reconciler

__all__ = ["NAME", "NAMESPACE", "Crash", "Disk", "FakeKube", "FakeMembers", "Group", "Oracle", "Sim"]

NAMESPACE, NAME = "default", "demo"
Key = tuple[str, str]


class Crash(BaseException):
    """The operator dies here: not an Exception, so that no handler of its own sees it."""


class Sim:
    """One RaftCluster `demo` and everything around it. `rng` decides only names of new things."""

    def __init__(self, replicas: int = 3, *, seed: int = 0, spec: Manifest | None = None, nodes: int = 3):
        self.rng = random.Random(seed)
        self.version = 0
        self.objects: dict[Key, Manifest] = {}
        self.managed: dict[tuple[str, str, str], Manifest] = {}
        self.disks: dict[str, Disk] = {}  # by uid of the claim
        self.groups: dict[str, Group] = {}
        self.down: set[str] = set()  # pods whose member does not answer, and does not run
        self.cut_off: set[str] = set()  # pods whose member answers us, and cannot reach its peers
        self.stuck: set[str] = set()  # pods that do not end
        self.states: dict[str, State] = {}  # pods whose member says this of itself, whatever is true
        self.nodes_off: dict[str, float] = {}  # nodes without power, since when
        self.snapshots_fail = False
        self.hold_commits = False  # joint configurations stay uncommitted
        self.writes: list[str] = []
        self.calls: list[str] = []
        self.fail_after: int | None = None  # side effects until a Crash
        self.lose_answer = False  # the next call to a member takes effect, but its answer is lost
        self.lose_kube_answer = False  # the same of the next write to the API server
        self.stale = 0.0  # chance that a read from the API server is as old as the last `settle`
        self.past: dict[Key, Manifest] = {}
        self.disrupted: set[str] = set()  # members whose pods an operator removed, and that are not back
        self.deceived = 0  # passes until an operator that saw something old has surely seen what is
        self.founded: dict[str, str] = {}  # cluster id in the latch, by uid of the RaftCluster
        self.watch: list[Callable[[str], None]] = []  # told of each side effect, after it
        self.now = 1000.0
        for number in range(nodes):
            self.add_node(f"node-{number}")
        self.make_cluster(replicas, spec)

    # ---- the person

    def make_cluster(self, replicas: int, spec: Manifest | None = None) -> None:
        retention = {"whenDeleted": "Retain", "whenScaled": "Retain"}
        full = {"replicas": replicas, "storage": {"size": "1Gi", "retention": retention}, **(spec or {})}
        meta = {"name": NAME, "namespace": NAMESPACE, "generation": 1}
        self.put({"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": full, "status": {}})

    def edit(self, **fields: object) -> None:
        """Change top-level fields of spec; None takes one away."""
        cluster = self.objects[(names.KIND, NAME)]
        spec = {key: value for key, value in {**cluster["spec"], **fields}.items() if value is not None}
        if spec != cluster["spec"]:
            cluster["spec"] = spec
            cluster["metadata"]["generation"] += 1
            self.touch(cluster)

    def scale(self, replicas: int) -> None:
        self.edit(replicas=replicas)

    def annotate(self, key: str, value: str | None) -> None:
        """On the RaftCluster; None takes it away."""
        cluster = self.objects[(names.KIND, NAME)]
        annotations = {k: v for k, v in cluster["metadata"].get("annotations", {}).items() if k != key}
        if value is not None:
            annotations[key] = value
        cluster["metadata"]["annotations"] = annotations
        self.touch(cluster)

    def delete_cluster(self, *, orphan: bool = False) -> None:
        """With garbage collection: children go with their owner, claims without one stay. Or `--cascade=orphan`."""
        uid = self.objects.pop((names.KIND, NAME))["metadata"]["uid"]
        self.managed.clear()
        for key, child in list(self.objects.items()):
            owners = child["metadata"].get("ownerReferences", [])
            if not any(owner["uid"] == uid for owner in owners):
                continue
            if orphan:
                child["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
                self.touch(child)
            else:
                del self.objects[key]
        for key in [key for key in self.objects if key[0] == "Pod" and not orphan]:
            del self.objects[key]

    def delete_pod(self, ordinal: int) -> None:
        """By force: it is gone at once."""
        self.objects.pop(("Pod", names.pod(NAME, ordinal)), None)

    def delete_claim(self, ordinal: int) -> None:
        key = ("PersistentVolumeClaim", names.claim(NAME, ordinal))
        if key in self.objects:
            self.delete(key)

    def hold_claim(self, ordinal: int, finalizer: str | None = "example.com/hold") -> None:
        """Put a foreign finalizer on a claim, or take it away."""
        claim = self.objects.get(("PersistentVolumeClaim", names.claim(NAME, ordinal)))
        if claim is not None:
            ours = [f for f in claim["metadata"].get("finalizers", []) if f == simcontrollers.PROTECTION]
            claim["metadata"]["finalizers"] = [*ours, finalizer] if finalizer else ours
            self.touch(claim)

    def empty_disk(self, ordinal: int) -> None:
        """Its directory is wiped, and its process restarted: a new incarnation, Idle."""
        claim = self.objects.get(("PersistentVolumeClaim", names.claim(NAME, ordinal)))
        if claim is not None:
            uid = claim["metadata"]["uid"]
            self.disks[uid] = replace(
                self.disks[uid], node_id=self.incarnation(ordinal), cluster_id="", volume_uid=None, log=0
            )
            self.delete_pod(ordinal)

    # ---- nodes

    def add_node(self, name: str) -> None:
        meta = {"name": name, "labels": {simcontrollers.HOSTNAME: name}}
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.put({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": []}, "status": status})

    def node_names(self) -> list[str]:
        return [name for kind, name in self.objects if kind == "Node"]

    def node_of(self, ordinal: int) -> str | None:
        pod = self.objects.get(("Pod", names.pod(NAME, ordinal)))
        return pod["spec"].get("nodeName") if pod else None

    def power_off(self, node: str) -> None:
        self.nodes_off.setdefault(node, self.now)

    def power_on(self, node: str) -> None:
        self.nodes_off.pop(node, None)

    def delete_node(self, node: str) -> None:
        """For good: the machine and its local volumes are gone."""
        self.objects.pop(("Node", node), None)
        self.nodes_off.pop(node, None)

    def taint_out_of_service(self, node: str) -> None:
        manifest = self.objects[("Node", node)]
        manifest["spec"]["taints"] = [*manifest["spec"]["taints"], {"key": OUT_OF_SERVICE, "effect": "NoExecute"}]
        self.touch(manifest)

    def drain(self, node: str) -> bool:
        """`kubectl drain`, one try: cordon, and evict what the budget allows. True when nothing of ours is left."""
        manifest = self.objects[("Node", node)]
        if not manifest["spec"].get("unschedulable"):
            manifest["spec"]["unschedulable"] = True
            self.touch(manifest)
        for (kind, name), pod in list(self.objects.items()):
            if kind == "Pod" and pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]:
                try:
                    self.evict(name)
                except KubeError:
                    return False
        return not any(k == "Pod" and pod["spec"].get("nodeName") == node for (k, _), pod in self.objects.items())

    def uncordon(self, node: str) -> None:
        self.objects[("Node", node)]["spec"].pop("unschedulable", None)
        self.touch(self.objects[("Node", node)])

    # ---- controllers and members

    def settle(self) -> None:
        """Kubernetes' controllers, elections, commits and promotions: as far as they get by themselves."""
        self.past = copied(self.objects) if self.stale else {}
        for _ in range(12):
            moved = simcontrollers.nodes(self)
            moved |= simcontrollers.statefulset(self, NAME)
            for pod in [pod for (kind, _), pod in self.objects.items() if kind == "Pod"]:
                moved |= simcontrollers.kubelet(self, pod)
            moved |= simcontrollers.volumes(self)
            for group in self.groups.values():
                moved |= self._raft(group)
            if not moved:
                return

    def _raft(self, group: Group) -> bool:
        disks, up = self.logs(group), self.up(group)
        before = group.leader
        simraft.elect(group, disks, up)
        if self.hold_commits or not group.leader:
            return group.leader != before
        moved = simraft.replicate(group, disks, up) | simraft.commit(group, disks)
        return bool(moved | simraft.promote(group, disks, up) or group.leader != before)

    def lead(self, group: Group, node_id: str) -> None:
        """An election that this member wins if its log is long enough."""
        simraft.elect(group, self.logs(group), self.up(group), prefer=node_id)

    def up(self, group: Group) -> set[str]:
        """Ids of this group whose process runs and reaches its peers."""
        return {
            disk.node_id
            for pod, disk in self.running()
            if disk.cluster_id == group.cluster_id and not disk.corrupt and pod["metadata"]["name"] not in self.cut_off
        }

    def logs(self, group: Group) -> dict[str, Disk]:
        return {disk.node_id: disk for _, disk in self.running() if disk.cluster_id == group.cluster_id}

    def running(self) -> Iterator[tuple[Manifest, Disk]]:
        for (kind, name), pod in sorted(self.objects.items()):
            if kind == "Pod" and self.runs(name, pod) and (disk := self.disk_of(name)) is not None:
                yield pod, disk

    def runs(self, name: str, pod: Manifest) -> bool:
        """Is there a process that answers?"""
        node, image = pod["spec"].get("nodeName"), pod["spec"]["containers"][0]["image"]
        if node is None or node in self.nodes_off or ("Node", node) not in self.objects or name in self.down:
            return False
        return bool(pod["status"].get("podIP")) and not self.bad_image(image) and not self.crashing(image)

    def is_ready(self, name: str) -> bool:
        """As the member's readiness probe answers: a voter that participates or is isolated, and accepts writes."""
        pod, disk = self.objects.get(("Pod", name)), self.disk_of(name)
        group = self.groups.get(disk.cluster_id) if disk else None
        if pod is None or disk is None or group is None or name in self.down or group.min_voters:
            return False
        state = state_of(self, name, disk, group)
        voter = disk.node_id in {m.id for m in group.voters}
        return voter and state in (State.PARTICIPATING, State.ISOLATED)

    def disk_of(self, pod: str) -> Disk | None:
        claim = self.objects.get(("PersistentVolumeClaim", f"data-{pod}"))
        return self.disks.get(claim["metadata"]["uid"]) if claim else None

    def group(self) -> Group | None:
        """The cluster of this test, if there is one."""
        return next(iter(self.groups.values()), None)

    # ---- what Kubernetes asks of the model

    def new_disk(self, claim_uid: str, ordinal: int) -> None:
        self.disks[claim_uid] = Disk(self.incarnation(ordinal))

    def bind(self, claim: Manifest, node: str) -> None:
        """A local volume on this node, and for ever there."""
        name = f"pv-{claim['metadata']['uid']}"
        expression = {"key": simcontrollers.HOSTNAME, "operator": "In", "values": [node]}
        required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        spec = {"nodeAffinity": {"required": required}, "claimRef": {"name": claim["metadata"]["name"]}}
        self.put({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
        claim["spec"]["volumeName"] = name
        claim["status"] = {"phase": "Bound"}
        self.touch(claim)

    def address(self, pod: str) -> str:
        return f"10.0.0.{names.ordinal_of_pod(NAME, pod)}"

    @staticmethod
    def bad_image(image: str) -> bool:
        """One that cannot be pulled."""
        return "bad" in image

    @staticmethod
    def crashing(image: str) -> bool:
        """One whose program ends at once."""
        return "crash" in image

    @staticmethod
    def version_of(pod: Manifest) -> str:
        tag = str(pod["spec"]["containers"][0]["image"]).rpartition(":")[2]
        return tag if tag[:1].isdigit() else "0.1.0"

    def mark_deleted(self, manifest: Manifest) -> None:
        manifest["metadata"]["deletionTimestamp"] = self.stamp()
        self.touch(manifest)

    def delete(self, key: Key, *, orphan: bool = False) -> None:
        """As the API server does: gracefully for a pod, and not before the last finalizer is gone."""
        live = self.objects[key]
        if key[0] == "Pod" or live["metadata"].get("finalizers"):
            if "deletionTimestamp" not in live["metadata"]:
                self.mark_deleted(live)
            return
        del self.objects[key]
        for child in list(self.objects.values()):
            owners = child["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == live["metadata"]["uid"] for owner in owners):
                if orphan:
                    child["metadata"]["ownerReferences"] = []
                    self.touch(child)
                else:
                    self.delete((child["kind"], child["metadata"]["name"]))

    def evict(self, name: str) -> None:
        """By anybody. Raises KubeError 429 where the budget allows none."""
        pod = self.objects[("Pod", name)]
        budget = self.objects.get(("PodDisruptionBudget", NAME))
        if budget is not None and "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Pending":
            pods = [pod for (kind, _), pod in self.objects.items() if kind == "Pod"]
            spare = allowed_disruptions(budget, pods)
            healthy = sum(simcontrollers.ready(p) and "deletionTimestamp" not in p["metadata"] for p in pods)
            enough = healthy >= int(budget["spec"]["minAvailable"])
            if not (spare > 0 if simcontrollers.ready(pod) else enough):
                raise KubeError(429, "Cannot evict pod as it would violate the pod's disruption budget.")
        if "deletionTimestamp" not in pod["metadata"]:
            self.mark_deleted(pod)

    # ---- hooks of a test that disturbs (`chaos`); here nothing does

    async def before(self, verb: str, kind: str, name: str) -> None:
        """Before each call of an operator arrives. May raise what the port raises, and may let others act."""

    def seen(self, key: Key) -> Manifest | None:
        """What a read of this object gives."""
        return self._view().get(key)

    def seen_all(self, kind: str) -> list[Manifest]:
        return [item for (of, _), item in sorted(self._view().items()) if of == kind]

    def answer(self, pod: Manifest, now: admin.StatusAnswer) -> admin.StatusAnswer:
        """What arrives when this member says this."""
        return now

    def _view(self) -> dict[Key, Manifest]:
        old = self.past and self.rng.random() < self.stale
        return self.past if old else self.objects

    # ---- small things

    def incarnation(self, ordinal: int) -> str:
        return f"{names.pod(NAME, ordinal)}-{self.rng.getrandbits(64):016x}"

    def put(self, manifest: Manifest) -> Manifest:
        manifest["metadata"].setdefault("uid", f"uid-{self.rng.getrandbits(48):012x}")
        manifest["metadata"].setdefault("creationTimestamp", self.stamp())
        self.objects[(manifest["kind"], manifest["metadata"]["name"])] = manifest
        self.touch(manifest)
        return manifest

    def touch(self, manifest: Manifest) -> None:
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)

    def effect(self, what: str, *, write: bool = False) -> None:
        """Every side effect passes here; the operator may die right after any of them."""
        (self.writes if write else self.calls).append(what)
        oracles.state(self)
        for told in self.watch:
            told(what)
        if self.fail_after is not None:
            self.fail_after -= 1

    def maybe_crash(self) -> None:
        if self.fail_after is not None and self.fail_after <= 0:
            self.fail_after = None
            raise Crash

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    def stamp(self) -> str:
        return self.wall().strftime("%Y-%m-%dT%H:%M:%SZ")

    def reconciler(self, identity: str = "operator-1", image: str = "oarlock/node:test") -> Reconciler:
        eyes = oracles.Eyes(identity=identity)
        kube = FakeKube(self, eyes)
        uid = self.objects[(names.KIND, NAME)]["metadata"]["uid"]
        lease = Lease(kube, NAMESPACE, NAME, uid, identity, lambda: self.now)
        return Reconciler(
            NAMESPACE,
            NAME,
            uid,
            kube=kube,
            members=FakeMembers(self, eyes),  # type: ignore[arg-type]  # it has the same calls
            lease=lease,
            metrics=Metrics(),
            default_image=image,
            monotonic=lambda: self.now,
            wall=self.wall,
        )

    async def run(self, passes: int = 30, reconciler: Reconciler | None = None) -> Reconciler:
        """Passes, with the world settling before each, as if every event woke the loop."""
        reconciler = reconciler or self.reconciler()
        for _ in range(passes):
            self.settle()
            self.now += 1.0
            await reconciler.one_pass(woken=True)
            await asyncio.sleep(0)
        self.settle()
        return reconciler
