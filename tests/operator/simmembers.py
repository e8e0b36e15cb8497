"""The members' admin interface, over a `Sim`: the refusals of design and wire contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.operator import oracles
from tests.operator.simkube import token_of
from tests.operator.simraft import Disk, Group

from oarlock.wire import admin
from oarlock.wire.admin import MemberModel, Role, State
from oarlock_operator import names
from oarlock_operator.kube import Manifest
from oarlock_operator.members import MemberError
from oarlock_operator.world import quorum

if TYPE_CHECKING:
    from tests.operator.sim import Sim

STORAGE = admin.StorageModel(healthy=True, free_bytes=1, wal_bytes=1, cut_bytes=0, low_on_space=False)


class FakeMembers:
    """Calls to members. `eyes` is what this operator was told, for the oracles."""

    def __init__(self, sim: Sim, eyes: oracles.Eyes | None = None):
        self.sim = sim
        self.eyes = eyes or oracles.Eyes()

    async def status(self, ip: str, token: str) -> admin.StatusAnswer:
        self.eyes.told.pop(ip, None)
        self.eyes.barrier = None
        self.eyes.looks(self.sim)
        await self.sim.before("status", "Member", ip)
        pod, disk = self._at(ip, token)
        answer = self.sim.answer(pod, status(self.sim, pod, disk))
        self.eyes.told[ip] = answer
        return answer

    async def barrier(self, ip: str, token: str) -> admin.BarrierAnswer:
        self.eyes.barrier = None
        await self.sim.before("barrier", "Member", ip)
        group, disk = self._leader(ip, token)
        self.eyes.barrier = (disk.node_id, group.term)
        return admin.BarrierAnswer(index=group.index, term=group.term)

    async def bootstrap(self, ip: str, token: str, request: admin.BootstrapRequest) -> admin.BootstrapAnswer:
        await self.sim.before("bootstrap", "Member", ip)
        pod, disk = self._at(ip, token)
        if disk.cluster_id:
            if disk.cluster_id.startswith(f"{request.cluster_id}+"):
                return admin.BootstrapAnswer(cluster_id=disk.cluster_id, node_id=disk.node_id)
            raise MemberError("is not Idle", "conflict", 409)
        oracles.bootstraps(self.sim, self.eyes, disk, request)
        disk.cluster_id = f"{request.cluster_id}+{self.sim.rng.getrandbits(64):016x}"
        disk.log = 1
        name = pod["metadata"]["name"]
        seed = MemberModel(
            id=disk.node_id,
            peer_url=names.peer_url(pod["metadata"]["labels"][names.CLUSTER_LABEL], "default", name),
            client_url=names.client_url(pod["metadata"]["labels"][names.CLUSTER_LABEL], "default", name),
        )
        group = Group(disk.cluster_id, [seed], min_voters=request.min_voters, leader=disk.node_id)
        self.sim.groups = {disk.cluster_id: group}
        if request.min_voters <= 1:
            group.min_voters = 0
        self._done(f"bootstrap {name}")
        return admin.BootstrapAnswer(cluster_id=disk.cluster_id, node_id=disk.node_id)

    async def configure(self, ip: str, token: str, request: admin.ConfigurationRequest) -> admin.ConfigurationAnswer:
        await self.sim.before("configure", "Member", ip)
        oracles.asks(self.sim, self.eyes, request)
        group, leader = self._leader(ip, token)
        if not group.committed or group.outgoing or request.if_config != group.model().id:
            raise MemberError("another configuration", "precondition", 412)
        oracles.configures(self.sim, self.eyes, group, request)
        up = self.sim.up(group)
        voters, learners = request.voters, request.learners
        if any(m.id in group.tombstones for m in (*voters, *learners)):
            raise MemberError("its id is tombstoned", "tombstoned", 409)
        known = {m.id for m in group.voters}
        if any(m.id not in known for m in voters):
            raise MemberError("a voter is not caught up", "not_caught_up", 425)
        if len(up & {m.id for m in voters}) < quorum(len(voters)):
            raise MemberError("would lose the quorum", "would_lose_quorum", 409)
        group.remember()
        before = {m.id for m in group.learners}
        group.tombstones |= before - {m.id for m in (*voters, *learners)}
        if {m.id for m in voters} != known:
            group.outgoing, group.committed = group.voters, False
        group.voters, group.learners = list(voters), list(learners)
        group.append()
        leader.log = group.index
        for learner in learners:
            self._admit(learner.id, group.cluster_id)
        self._done(f"configure {len(voters)}+{len(learners)}")
        return admin.ConfigurationAnswer(id=group.model().id)

    async def transfer(self, ip: str, token: str, request: admin.TransferRequest) -> admin.TransferAnswer:
        await self.sim.before("transfer", "Member", ip)
        group, disk = self._leader(ip, token)
        self.eyes.transfers.add(disk.node_id)
        oracles.transfers(self.sim, self.eyes, group, request.target)
        if request.target not in self.sim.up(group) or request.target not in {m.id for m in group.voters}:
            raise MemberError("cannot lead", "transfer_refused", 409)
        self.sim.lead(group, request.target)
        self._done(f"transfer {request.target}")
        if group.leader != request.target:
            raise MemberError("somebody else leads now", "transfer_failed", 504)
        return admin.TransferAnswer(leader=group.leader, term=group.term)

    async def snapshot(self, ip: str, token: str) -> admin.SnapshotAnswer:
        await self.sim.before("snapshot", "Member", ip)
        pod, disk = self._at(ip, token)
        group = self.sim.groups.get(disk.cluster_id)
        if group is None or self.sim.snapshots_fail:
            raise MemberError("cannot take a snapshot", "snapshot_failed", 507)
        oracles.snapshots(self.sim, self.eyes, pod)
        disk.snapshot = admin.SnapshotModel(index=disk.log, term=group.term, size_bytes=1, digest="d")
        self._done(f"snapshot {pod['metadata']['name']}")
        return admin.SnapshotAnswer(index=disk.log, term=group.term, size_bytes=1, digest="d")

    async def reset(self, ip: str, token: str, request: admin.ResetRequest) -> admin.ResetAnswer:
        await self.sim.before("reset", "Member", ip)
        pod, disk = self._at(ip, token)
        if disk.node_id != request.node_id:
            raise MemberError("another identity", "wrong_node", 409)
        oracles.resets(self.sim, self.eyes, disk)
        ordinal = int(pod["metadata"]["name"].rpartition("-")[2])
        disk.node_id, disk.cluster_id, disk.corrupt = self.sim.incarnation(ordinal), "", False
        disk.log, disk.snapshot = 0, None
        disk.quarantined += 1
        self._done(f"reset {pod['metadata']['name']}")
        return admin.ResetAnswer(node_id=disk.node_id, quarantine=f"quarantine-{disk.quarantined}")

    async def notes(self, ip: str, token: str, request: admin.NotesRequest) -> None:
        await self.sim.before("notes", "Member", ip)
        pod, disk = self._at(ip, token)
        oracles.notes(self.sim, self.eyes, disk, request)
        disk.volume_uid = request.volume_uid
        self._done(f"note {pod['metadata']['name']}")

    def _admit(self, node_id: str, cluster_id: str) -> None:
        for _, disk in self.sim.running():
            if disk.node_id == node_id and not disk.cluster_id:
                disk.cluster_id = cluster_id

    def _at(self, ip: str, token: str) -> tuple[Manifest, Disk]:
        if not token or token_of(self.sim) != token:
            raise MemberError("wrong token", "unauthorized", 401)
        for pod, disk in self.sim.running():
            if pod["status"].get("podIP") == ip:
                return pod, disk
        raise MemberError("connection refused")

    def _leader(self, ip: str, token: str) -> tuple[Group, Disk]:
        pod, disk = self._at(ip, token)
        group = self.sim.groups.get(disk.cluster_id)
        if group is None or group.leader != disk.node_id or pod["metadata"]["name"] in self.sim.cut_off:
            raise MemberError("is not the leader", "not_leader", 421)
        return group, disk

    def _done(self, what: str) -> None:
        self.sim.effect(what)
        self.sim.maybe_crash()
        if self.sim.lose_answer:
            self.sim.lose_answer = False
            raise MemberError("the answer was lost", "timeout", 504)


def status(sim: Sim, pod: Manifest, disk: Disk) -> admin.StatusAnswer:
    """What the member in this pod says of itself now. Its configuration is the one that its own log holds."""
    group = sim.groups.get(disk.cluster_id)
    name = pod["metadata"]["name"]
    state = state_of(sim, name, disk, group)
    role, peers, configuration = Role.FOLLOWER, {}, None
    apart = name in sim.cut_off
    if group is not None:
        if group.leader == disk.node_id and not disk.corrupt:
            role, configuration = Role.LEADER, group.model()
            peers = {
                other.node_id: admin.PeerModel(match_index=other.log, contact_age_seconds=0.1, progress="replicate")
                for _, other in sim.running()
                if other.node_id in group.ids() and other.node_id != disk.node_id
            }
        else:
            configuration = group.model_at(disk.log)
    return admin.StatusAnswer(
        state=state,
        cluster_id=disk.cluster_id or None,
        node_id=disk.node_id,
        name=name,
        incarnation=disk.node_id.rpartition("-")[2],
        version=sim.version_of(pod),
        cluster_version=1,
        role=role,
        term=group.term if group else 0,
        leader=(group.leader or None) if group and not apart else None,
        leader_contact_age_seconds=0.1,
        commit_index=group.acked if group else 0,
        applied_index=min(group.acked, disk.log) if group else 0,
        last_index=disk.log,
        last_term=group.term if group else 0,
        configuration=configuration,
        state_hash="",
        peers=peers,
        storage=STORAGE,
        snapshot=disk.snapshot,
        pod_uid=pod["metadata"]["uid"],
        volume_uid=disk.volume_uid,
    )


def state_of(sim: Sim, name: str, disk: Disk, group: Group | None) -> State:
    if name in sim.states:
        return sim.states[name]
    if group is None:
        return State.IDLE if not disk.cluster_id else State.STALE
    if disk.corrupt:
        return State.CORRUPT
    if disk.node_id in group.tombstones:
        return State.REMOVED
    if disk.node_id not in group.ids():
        return State.ISOLATED
    if disk.node_id not in {m.id for m in group.voters}:
        return State.LAGGING
    return State.PARTICIPATING if group.leader and name not in sim.cut_off else State.ISOLATED
