"""A member's status, from the runtime's frozen values to the wire. Pure."""

from __future__ import annotations

from oarlock import __version__
from oarlock.raft.types import Member
from oarlock.runtime.settings import NodeSettings
from oarlock.runtime.status import MemberStatus
from oarlock.wire.admin import (
    ConfigurationModel,
    MemberModel,
    PeerModel,
    ReplayModel,
    Role,
    SnapshotModel,
    State,
    StatusAnswer,
    StorageModel,
)
from oarlock.wire.client import ClientStatusAnswer, ClusterAnswer, ClusterMember


def status_answer(status: MemberStatus, settings: NodeSettings) -> StatusAnswer:
    """For the operator: everything. `settings` has the addresses that this member advertises."""
    storage = status.storage
    return StatusAnswer(
        state=State(status.state),
        reason=status.reason,
        cluster_id=status.cluster_id,
        node_id=status.node_id,
        name=status.name,
        incarnation=status.incarnation,
        peer_url=settings.peer_url,
        client_url=settings.client_url,
        version=__version__,
        cluster_version=status.cluster_version,
        role=Role(status.role.replace("_", "-")),
        term=status.term,
        leader=status.leader or None,
        leader_contact_age_seconds=status.leader_contact_age_seconds,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        last_index=status.last_index,
        last_term=status.last_term,
        configuration=_configuration(status),
        state_hash=status.state_hash,
        revision=status.revision,
        peers={
            peer: PeerModel(
                match_index=p.match_index,
                contact_age_seconds=p.contact_age_seconds,
                progress=p.progress,
                diverged=p.diverged,
            )
            for peer, p in status.peers.items()
        },
        replay=_replay(status),
        storage=StorageModel(
            healthy=storage.healthy,
            free_bytes=storage.free_bytes,
            wal_bytes=storage.wal_bytes,
            cut_bytes=storage.cut_bytes,
            low_on_space=storage.low_on_space,
            failure=storage.failure,
        ),
        snapshot=_snapshot(status),
        pod_uid=status.pod_uid,
        volume_uid=status.volume_uid,
    )


def client_status_answer(status: MemberStatus) -> ClientStatusAnswer:
    """For anybody: nothing about disks or peers."""
    return ClientStatusAnswer(
        state=State(status.state),
        reason=status.reason,
        cluster_id=status.cluster_id,
        node_id=status.node_id,
        version=__version__,
        cluster_version=status.cluster_version,
        role=Role(status.role.replace("_", "-")),
        term=status.term,
        leader=status.leader or None,
        leader_contact_age_seconds=status.leader_contact_age_seconds,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        revision=status.revision,
    )


def cluster_answer(status: MemberStatus) -> ClusterAnswer:
    placed = status.placed
    members: list[ClusterMember] = []
    if placed is not None:
        configuration = placed.configuration
        voters = {m.id: m for m in (*configuration.outgoing, *configuration.voters)}  # in a joint one, both halves
        learners = {m.id: m for m in configuration.learners if m.id not in voters}
        for member in (*voters.values(), *learners.values()):
            members.append(
                ClusterMember(
                    id=member.id,
                    client_url=member.client_url,
                    peer_url=member.peer_url,
                    voter=member.id in voters,
                    leader=member.id == status.leader,
                )
            )
    return ClusterAnswer(
        cluster_id=status.cluster_id,
        configuration_id=placed.id if placed is not None else None,
        committed=status.configuration_committed,
        leader=status.leader or None,
        term=status.term,
        members=members,
    )


def _configuration(status: MemberStatus) -> ConfigurationModel | None:
    if status.placed is None:
        return None
    configuration = status.placed.configuration
    return ConfigurationModel(
        id=status.placed.id,
        committed=status.configuration_committed,
        voters=[_member(m) for m in configuration.voters],
        learners=[_member(m) for m in configuration.learners],
        outgoing=[_member(m) for m in configuration.outgoing],
        tombstones=list(configuration.tombstones),
        min_voters=configuration.min_voters,
    )


def _member(member: Member) -> MemberModel:
    return MemberModel(id=member.id, peer_url=member.peer_url, client_url=member.client_url, promote=member.promote)


def _replay(status: MemberStatus) -> ReplayModel | None:
    if status.replay_target is None:
        return None
    return ReplayModel(applied_index=status.applied_index, target_index=status.replay_target)


def _snapshot(status: MemberStatus) -> SnapshotModel | None:
    meta = status.snapshot
    if meta is None:  # a first one that fails must be told too: nothing lets go of the log
        why = status.snapshot_failure
        return SnapshotModel(index=0, term=0, size_bytes=0, digest="", failure=why) if why else None
    return SnapshotModel(
        index=meta.index,
        term=meta.term,
        size_bytes=meta.size_bytes,
        digest=meta.digest,
        failure=status.snapshot_failure,
    )
