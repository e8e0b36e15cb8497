"""A Kubernetes and its members as values, for the operator's tests: the ports it uses, over a small model.

The model refuses what the real ones refuse (resourceVersion, uid, `if_config`, a quorum), and *asserts* what the
operator may never even ask for (`Oracle`). Everything happens when it is called; the rest moves in `settle()`.
"""

from __future__ import annotations

import base64
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from oarlock.wire import admin
from oarlock.wire.admin import MemberModel, Role, State
from oarlock_operator import names
from oarlock_operator.kube import KubeError, Manifest
from oarlock_operator.lease import Lease
from oarlock_operator.members import MemberError
from oarlock_operator.metrics import Metrics
from oarlock_operator.reconcile import Reconciler
from oarlock_operator.world import quorum

NAMESPACE, NAME = "default", "demo"


class Oracle(AssertionError):
    """The operator did what it may never do."""


class Crash(BaseException):
    """The operator dies here: not an Exception, so that no handler of its own sees it."""


@dataclass
class Disk:
    """What is on a volume: an identity, and the cluster it belongs to ("" is Idle)."""

    node_id: str
    cluster_id: str = ""
    volume_uid: str | None = None
    corrupt: bool = False
    quarantined: int = 0


@dataclass
class Group:
    """The replicated state of one cluster id: what a quorum of its members agrees on."""

    cluster_id: str
    voters: list[MemberModel]
    learners: list[MemberModel] = field(default_factory=list)
    outgoing: list[MemberModel] = field(default_factory=list)
    tombstones: set[str] = field(default_factory=set)
    min_voters: int = 0
    term: int = 1
    index: int = 1
    committed: bool = True
    leader: str = ""

    def model(self) -> admin.ConfigurationModel:
        return admin.ConfigurationModel(
            id=f"{self.term}.{self.index}",
            committed=self.committed,
            voters=self.voters,
            learners=self.learners,
            outgoing=self.outgoing,
            tombstones=sorted(self.tombstones),
            min_voters=self.min_voters,
        )


class Sim:
    """One RaftCluster `demo` and everything around it. `rng` decides only names of new things."""

    def __init__(self, replicas: int = 3, *, seed: int = 0, spec: Manifest | None = None):
        self.rng = random.Random(seed)
        self.version = 0
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.managed: dict[tuple[str, str, str], Manifest] = {}
        self.disks: dict[str, Disk] = {}  # by uid of the claim
        self.groups: dict[str, Group] = {}
        self.down: set[str] = set()  # pods whose member does not answer
        self.hold_commits = False  # joint configurations stay uncommitted
        self.writes: list[str] = []
        self.calls: list[str] = []
        self.fail_after: int | None = None  # side effects until a Crash
        self.lose_answer = False  # the next call to a member takes effect, but its answer is lost
        self.stale = 0.0  # chance that a read from the API server is as old as the last `settle`
        self.past: dict[tuple[str, str], Manifest] = {}
        self.now = 1000.0
        self.make_cluster(replicas, spec)

    # ---- the person

    def make_cluster(self, replicas: int, spec: Manifest | None = None) -> None:
        retention = {"whenDeleted": "Retain", "whenScaled": "Retain"}
        full = {"replicas": replicas, "storage": {"size": "1Gi", "retention": retention}, **(spec or {})}
        meta = {"name": NAME, "namespace": NAMESPACE, "generation": 1}
        self.put({"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": full, "status": {}})

    def scale(self, replicas: int) -> None:
        cluster = self.objects[(names.KIND, NAME)]
        if cluster["spec"]["replicas"] != replicas:
            cluster["spec"]["replicas"] = replicas
            cluster["metadata"]["generation"] += 1
            self.touch(cluster)

    def delete_cluster(self) -> None:
        """With garbage collection: children go with their owner, claims without one stay."""
        uid = self.objects.pop((names.KIND, NAME))["metadata"]["uid"]
        for key, child in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in child["metadata"].get("ownerReferences", [])):
                del self.objects[key]
        for key in [key for key in self.objects if key[0] == "Pod"]:
            del self.objects[key]
        self.managed.clear()

    def delete_pod(self, ordinal: int) -> None:
        self.objects.pop(("Pod", names.pod(NAME, ordinal)), None)

    def empty_disk(self, ordinal: int) -> None:
        """Its directory is wiped, and its process restarted: a new incarnation, Idle."""
        claim = self.objects.get(("PersistentVolumeClaim", names.claim(NAME, ordinal)))
        if claim is not None:
            uid = claim["metadata"]["uid"]
            self.disks[uid] = replace(
                self.disks[uid], node_id=self.incarnation(ordinal), cluster_id="", volume_uid=None
            )
            self.delete_pod(ordinal)

    # ---- controllers and members

    def settle(self) -> None:
        """StatefulSet controller, kubelet, elections, commits and promotions: as far as they get by themselves."""
        self.past = copy.deepcopy(self.objects) if self.stale else {}
        self._statefulset()
        for group in self.groups.values():
            self._raft(group)

    def _statefulset(self) -> None:
        sts = self.objects.get(("StatefulSet", NAME))
        if sts is None:
            return
        for ordinal in range(sts["spec"]["replicas"]):
            claim = names.claim(NAME, ordinal)
            if ("PersistentVolumeClaim", claim) not in self.objects:
                template = copy.deepcopy(sts["spec"]["volumeClaimTemplates"][0])
                meta = {"name": claim, "namespace": NAMESPACE, "labels": template["metadata"]["labels"]}
                status = {"phase": "Bound"}
                made = self.put({**template, "metadata": meta, "status": status})
                self.disks[made["metadata"]["uid"]] = Disk(self.incarnation(ordinal))
            pod = names.pod(NAME, ordinal)
            if ("Pod", pod) not in self.objects:
                labels = sts["spec"]["template"]["metadata"]["labels"]
                status = {
                    "phase": "Running",
                    "podIP": f"10.0.0.{ordinal}",
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
                meta = {"name": pod, "namespace": NAMESPACE, "labels": labels}
                self.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})
        for _, pod in [key for key in self.objects if key[0] == "Pod"]:
            if (names.ordinal_of_pod(NAME, pod) or 0) >= sts["spec"]["replicas"]:
                del self.objects[("Pod", pod)]

    def _raft(self, group: Group) -> None:
        up = self.up(group)
        halves = [half for half in (group.voters, group.outgoing) if half]
        if not all(len(up & {m.id for m in half}) >= quorum(len(half)) for half in halves):
            group.leader = ""
            return
        voters = {m.id for m in group.voters}
        if group.leader not in up or group.leader not in voters:
            group.leader = sorted(up & voters)[0]
            group.term += 1
        if self.hold_commits:
            return
        if not group.committed:
            dropped = {m.id for m in group.outgoing} - {m.id for m in (*group.voters, *group.learners)}
            group.tombstones |= dropped
            group.outgoing, group.committed, group.index = [], True, group.index + 1
        coming = [m for m in group.learners if m.promote]
        if coming and all(m.id in up for m in coming):
            group.voters = [*group.voters, *(m.model_copy(update={"promote": False}) for m in coming)]
            group.learners = [m for m in group.learners if not m.promote]
            group.index += 1
        if len(group.voters) >= group.min_voters:
            group.min_voters = 0

    def up(self, group: Group) -> set[str]:
        """Ids of this group whose process runs and answers."""
        return {disk.node_id for _, disk in self.running() if disk.cluster_id == group.cluster_id and not disk.corrupt}

    def running(self) -> Iterator[tuple[Manifest, Disk]]:
        for (kind, name), pod in sorted(self.objects.items()):
            if kind == "Pod" and name not in self.down and (disk := self.disk_of(name)) is not None:
                yield pod, disk

    def disk_of(self, pod: str) -> Disk | None:
        claim = self.objects.get(("PersistentVolumeClaim", f"data-{pod}"))
        return self.disks.get(claim["metadata"]["uid"]) if claim else None

    def group(self) -> Group | None:
        """The cluster of this test, if there is one."""
        return next(iter(self.groups.values()), None)

    # ---- small things

    def incarnation(self, ordinal: int) -> str:
        return f"{names.pod(NAME, ordinal)}-{self.rng.getrandbits(64):016x}"

    def put(self, manifest: Manifest) -> Manifest:
        manifest["metadata"].setdefault("uid", f"uid-{self.rng.getrandbits(48):012x}")
        self.objects[(manifest["kind"], manifest["metadata"]["name"])] = manifest
        self.touch(manifest)
        return manifest

    def touch(self, manifest: Manifest) -> None:
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)

    def effect(self, what: str, *, write: bool = False) -> None:
        """Every side effect passes here; the operator may die right after any of them."""
        (self.writes if write else self.calls).append(what)
        if self.fail_after is not None:
            self.fail_after -= 1

    def maybe_crash(self) -> None:
        if self.fail_after is not None and self.fail_after <= 0:
            self.fail_after = None
            raise Crash

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    def reconciler(self, identity: str = "operator-1") -> Reconciler:
        kube = FakeKube(self)
        uid = self.objects[(names.KIND, NAME)]["metadata"]["uid"]
        lease = Lease(kube, NAMESPACE, NAME, uid, identity, lambda: self.now)
        return Reconciler(
            NAMESPACE,
            NAME,
            uid,
            kube=kube,
            members=FakeMembers(self),  # type: ignore[arg-type]  # it has the same calls
            lease=lease,
            metrics=Metrics(),
            default_image="oarlock/node:test",
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
        self.settle()
        return reconciler


def _merge(live: Any, wanted: Any) -> Any:
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {**live, **{key: _merge(live.get(key), value) for key, value in wanted.items()}}
    return copy.deepcopy(wanted)


class FakeKube:
    """The port to Kubernetes, over a Sim."""

    def __init__(self, sim: Sim):
        self.sim = sim

    async def get(self, api: str, kind: str, namespace: str, name: str) -> Manifest | None:
        return copy.deepcopy(self._seen().get((kind, name)))

    async def list(self, api: str, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        found = [copy.deepcopy(item) for (of, _), item in sorted(self._seen().items()) if of == kind]
        if not selector:
            return found
        key, _, value = selector.partition("=")
        return [item for item in found if item["metadata"].get("labels", {}).get(key) == value]

    async def apply(
        self, manifest: Manifest, *, manager: str = names.MANAGER, subresource: str = "", force: bool = True
    ) -> Manifest:
        """Server-side apply: merges, and takes away what this manager applied before and now does not."""
        sim, meta = self.sim, manifest["metadata"]
        key = (manifest["kind"], meta["name"])
        live = sim.objects.get(key)
        for precondition in ("uid", "resourceVersion"):
            if precondition in meta and (live is None or live["metadata"][precondition] != meta[precondition]):
                raise KubeError(409, f"{precondition} differs")
        self._judge(manifest, live)
        before = sim.managed.get((*key, manager), {})
        merged = _merge(live or {}, manifest)
        if subresource == "status":
            for gone in before.get("status", {}).keys() - manifest["status"].keys():
                merged["status"].pop(gone, None)
        elif "ownerReferences" in before.get("metadata", {}) and "ownerReferences" not in meta:
            merged["metadata"].pop("ownerReferences", None)
        sim.managed[(*key, manager)] = copy.deepcopy(manifest)
        if merged != live:
            sim.put(merged)
        sim.effect(f"apply {'/'.join(key)}{f'/{subresource}' if subresource else ''}", write=True)
        sim.maybe_crash()
        return copy.deepcopy(merged)

    async def create(self, manifest: Manifest) -> Manifest:
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in self.sim.objects:
            raise KubeError(409, "exists")
        made = self.sim.put(copy.deepcopy(manifest))
        if key[0] != "Lease":
            self.sim.effect(f"create {'/'.join(key)}", write=True)
            self.sim.maybe_crash()
        return copy.deepcopy(made)

    async def replace(self, manifest: Manifest) -> Manifest:
        key = (manifest["kind"], manifest["metadata"]["name"])
        live = self.sim.objects.get(key)
        if live is None or live["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise KubeError(409, "resourceVersion differs")
        return copy.deepcopy(self.sim.put(copy.deepcopy(manifest)))

    async def delete(self, manifest: Manifest, *, unchanged: bool) -> None:
        meta = manifest["metadata"]
        key = (manifest["kind"], meta["name"])
        live = self.sim.objects.get(key)
        if live is None:
            return
        same = live["metadata"]["uid"] == meta["uid"]
        if not same or (unchanged and live["metadata"]["resourceVersion"] != meta["resourceVersion"]):
            raise KubeError(409, "precondition")
        if key[0] == "PersistentVolumeClaim":
            disk, group = self.sim.disks[meta["uid"]], self.sim.group()
            members = {m.id for m in (*group.voters, *group.learners, *group.outgoing)} if group else set()
            if disk.node_id in members or ("Pod", key[1].removeprefix("data-")) in self.sim.objects:
                raise Oracle(f"deletes the volume of a member: {key[1]}")
        del self.sim.objects[key]
        self.sim.effect(f"delete {'/'.join(key)}", write=True)
        self.sim.maybe_crash()

    async def served(self) -> bool:
        return True

    def _seen(self) -> dict[tuple[str, str], Manifest]:
        old = self.sim.past and self.sim.rng.random() < self.sim.stale
        return self.sim.past if old else self.sim.objects

    def _judge(self, manifest: Manifest, live: Manifest | None) -> None:
        if manifest["kind"] != "StatefulSet" or live is None:
            return
        group = self.sim.group()
        everybody = (*group.voters, *group.learners, *group.outgoing) if group else ()
        highest = max((names.ordinal_of_member(NAME, m.id) or 0 for m in everybody), default=-1)
        lower = manifest["spec"]["replicas"] < live["spec"]["replicas"]
        if lower and (manifest["spec"]["replicas"] <= highest or group is None or not group.committed):
            raise Oracle(f"takes pods away before their members: {manifest['spec']['replicas']} <= {highest}")


class FakeMembers:
    """The members' admin interface, over a Sim: the refusals of design and wire contract."""

    def __init__(self, sim: Sim):
        self.sim = sim

    async def status(self, ip: str, token: str) -> admin.StatusAnswer:
        pod, disk = self._at(ip, token)
        group = self.sim.groups.get(disk.cluster_id)
        role, state = Role.FOLLOWER, State.IDLE
        configuration = None
        if group is not None:
            configuration = group.model()
            everybody = {m.id for m in (*group.voters, *group.learners, *group.outgoing)}
            if disk.corrupt:
                state = State.CORRUPT
            elif disk.node_id in group.tombstones:
                state = State.REMOVED
            elif disk.node_id not in everybody:
                state = State.ISOLATED
            elif disk.node_id not in {m.id for m in group.voters}:
                state = State.LAGGING
            else:
                state = State.PARTICIPATING if group.leader else State.ISOLATED
            if group.leader == disk.node_id:
                role = Role.LEADER
        peers = {}
        if group is not None and role is Role.LEADER:
            ids = {m.id for m in (*group.voters, *group.learners)} - {disk.node_id}
            peers = {
                id_: admin.PeerModel(match_index=group.index, contact_age_seconds=0.1, progress="replicate")
                for id_ in ids
            }
        return admin.StatusAnswer(
            state=state,
            cluster_id=disk.cluster_id or None,
            node_id=disk.node_id,
            name=pod["metadata"]["name"],
            incarnation=disk.node_id.rpartition("-")[2],
            version="0.1.0",
            cluster_version=1,
            role=role,
            term=group.term if group else 0,
            leader=(group.leader or None) if group else None,
            leader_contact_age_seconds=0.1,
            commit_index=group.index if group else 0,
            applied_index=group.index if group else 0,
            last_index=group.index if group else 0,
            last_term=group.term if group else 0,
            configuration=configuration,
            state_hash="",
            peers=peers,
            storage=admin.StorageModel(healthy=True, free_bytes=1, wal_bytes=1, cut_bytes=0, low_on_space=False),
            pod_uid=pod["metadata"]["uid"],
            volume_uid=disk.volume_uid,
        )

    async def barrier(self, ip: str, token: str) -> admin.BarrierAnswer:
        group, _ = self._leader(ip, token)
        return admin.BarrierAnswer(index=group.index, term=group.term)

    async def bootstrap(self, ip: str, token: str, request: admin.BootstrapRequest) -> admin.BootstrapAnswer:
        pod, disk = self._at(ip, token)
        if disk.cluster_id:
            if disk.cluster_id.startswith(f"{request.cluster_id}+"):
                return admin.BootstrapAnswer(cluster_id=disk.cluster_id, node_id=disk.node_id)
            raise MemberError("is not Idle", "conflict", 409)
        if any(other.cluster_id for uid, other in self.sim.disks.items() if self._exists(uid)):
            raise Oracle("founds a cluster beside an old disk")
        latch = self.sim.objects[(names.KIND, NAME)]["status"].get("bootstrap", {})
        if latch.get("requestID") != request.request_id or latch.get("nodeID") != disk.node_id:
            raise Oracle("founds a cluster that the latch does not name")
        disk.cluster_id = f"{request.cluster_id}+{self.sim.rng.getrandbits(64):016x}"
        seed = MemberModel(id=disk.node_id, peer_url="http://a:1", client_url="http://a:2")
        self.sim.groups = {
            disk.cluster_id: Group(disk.cluster_id, [seed], min_voters=request.min_voters, leader=disk.node_id)
        }
        self._done(f"bootstrap {pod['metadata']['name']}")
        return admin.BootstrapAnswer(cluster_id=disk.cluster_id, node_id=disk.node_id)

    async def configure(self, ip: str, token: str, request: admin.ConfigurationRequest) -> admin.ConfigurationAnswer:
        group, _ = self._leader(ip, token)
        if not group.committed or group.outgoing or request.if_config != group.model().id:
            raise MemberError("another configuration", "precondition", 412)
        self._judge(group, request)
        up = self.sim.up(group)
        voters, learners = request.voters, request.learners
        if any(m.id in group.tombstones for m in (*voters, *learners)):
            raise MemberError("its id is tombstoned", "tombstoned", 409)
        known = {m.id for m in group.voters}
        if any(m.id not in known for m in voters):
            raise MemberError("a voter is not caught up", "not_caught_up", 425)
        if len(up & {m.id for m in voters}) < quorum(len(voters)):
            raise MemberError("would lose the quorum", "would_lose_quorum", 409)
        before = {m.id for m in group.learners}
        group.tombstones |= before - {m.id for m in (*voters, *learners)}
        if {m.id for m in voters} != known:
            group.outgoing, group.committed = group.voters, False
        group.voters, group.learners, group.index = list(voters), list(learners), group.index + 1
        for learner in learners:
            self._admit(learner.id, group.cluster_id)
        self._done(f"configure {len(voters)}+{len(learners)}")
        return admin.ConfigurationAnswer(id=group.model().id)

    async def transfer(self, ip: str, token: str, request: admin.TransferRequest) -> admin.TransferAnswer:
        group, _ = self._leader(ip, token)
        if request.target not in self.sim.up(group) or request.target not in {m.id for m in group.voters}:
            raise MemberError("cannot lead", "transfer_refused", 409)
        group.leader, group.term = request.target, group.term + 1
        self._done(f"transfer {request.target}")
        return admin.TransferAnswer(leader=group.leader, term=group.term)

    async def reset(self, ip: str, token: str, request: admin.ResetRequest) -> admin.ResetAnswer:
        pod, disk = self._at(ip, token)
        if disk.node_id != request.node_id:
            raise MemberError("another identity", "wrong_node", 409)
        for group in self.sim.groups.values():
            if disk.node_id in {m.id for m in (*group.voters, *group.learners, *group.outgoing)}:
                raise Oracle("resets a member of the configuration")
        ordinal = names.ordinal_of_pod(NAME, pod["metadata"]["name"])
        disk.node_id, disk.cluster_id, disk.corrupt = self.sim.incarnation(ordinal or 0), "", False
        disk.quarantined += 1
        self._done(f"reset {pod['metadata']['name']}")
        return admin.ResetAnswer(node_id=disk.node_id, quarantine=f"quarantine-{disk.quarantined}")

    async def notes(self, ip: str, token: str, request: admin.NotesRequest) -> None:
        pod, disk = self._at(ip, token)
        disk.volume_uid = request.volume_uid
        self._done(f"note {pod['metadata']['name']}")

    def _judge(self, group: Group, request: admin.ConfigurationRequest) -> None:
        """What the operator may not even ask for: the invariants of a membership change."""
        if not request.voters:
            raise Oracle("asks for no voters at all")
        wanted = {m.id for m in (*request.voters, *request.learners)}
        up, staying = self.sim.up(group), {m.id for m in request.voters}
        if len(up & staying) < quorum(len(staying)):
            raise Oracle("would leave fewer participants than a quorum")
        spec = max(self.sim.objects[(names.KIND, NAME)]["spec"]["replicas"], group.min_voters)
        for member in (*group.voters, *group.learners):
            if member.id in wanted:
                continue
            ordinal = names.ordinal_of_member(NAME, member.id)
            if ordinal is None:
                raise Oracle(f"removes a member that is not ours: {member.id}")
            disk = self.sim.disk_of(names.pod(NAME, ordinal))
            claim = self.sim.objects.get(("PersistentVolumeClaim", names.claim(NAME, ordinal)))
            moved = disk is not None and claim is not None and disk.volume_uid != claim["metadata"]["uid"]
            lost = disk is None or disk.node_id != member.id or disk.corrupt or moved
            if ordinal < spec and not lost:
                raise Oracle(f"removes a sound member that shall stay: {member.id}")
        if group.leader not in staying:
            raise Oracle("removes the leader before moving the leadership")

    def _admit(self, node_id: str, cluster_id: str) -> None:
        for _, disk in self.sim.running():
            if disk.node_id == node_id and not disk.cluster_id:
                disk.cluster_id = cluster_id

    def _at(self, ip: str, token: str) -> tuple[Manifest, Disk]:
        secret = self.sim.objects.get(("Secret", names.admin_secret(NAME)))
        if secret is None or base64.b64decode(secret["data"]["token"]).decode() != token or not token:
            raise MemberError("wrong token", "unauthorized", 401)
        for pod, disk in self.sim.running():
            if pod["status"]["podIP"] == ip:
                return pod, disk
        raise MemberError("connection refused")

    def _leader(self, ip: str, token: str) -> tuple[Group, Disk]:
        _, disk = self._at(ip, token)
        group = self.sim.groups.get(disk.cluster_id)
        if group is None or group.leader != disk.node_id:
            raise MemberError("is not the leader", "not_leader", 421)
        return group, disk

    def _exists(self, claim_uid: str) -> bool:
        return any(o["metadata"]["uid"] == claim_uid for o in self.sim.objects.values())

    def _done(self, what: str) -> None:
        self.sim.effect(what)
        self.sim.maybe_crash()
        if self.sim.lose_answer:
            self.sim.lose_answer = False
            raise MemberError("the answer was lost", "timeout", 504)
