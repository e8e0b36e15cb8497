"""What a member says of itself. Frozen values; the API translates them to the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from oarlock.raft.state import Role
from oarlock.raft.types import NodeId, PlacedConfiguration, SnapshotMeta

if TYPE_CHECKING:
    from oarlock.runtime.engine import Engine
    from oarlock.runtime.node import Node

State = Literal[
    "Idle",
    "Replaying",
    "Participating",
    "Lagging",
    "Isolated",
    "Removed",
    "Stale",
    "Corrupt",
    "Outdated",
    "Frozen",
    "Draining",
]

LAG_ENTRIES = 10_000  # further behind the known commit than this, a voter is Lagging


@dataclass(frozen=True, slots=True)
class PeerStatus:
    match_index: int
    contact_age_seconds: float | None
    progress: str
    diverged: bool  # its state is not the leader's at the same index (rule 26)


@dataclass(frozen=True, slots=True)
class StorageStatus:
    healthy: bool
    free_bytes: int
    wal_bytes: int
    cut_bytes: int
    low_on_space: bool
    failure: str | None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    state: State
    reason: str
    ready: bool
    cluster_id: str | None
    node_id: NodeId
    name: str
    incarnation: str
    cluster_version: int
    role: str
    term: int
    leader: NodeId | None
    leader_contact_age_seconds: float | None
    commit_index: int
    applied_index: int
    last_index: int
    last_term: int
    placed: PlacedConfiguration | None
    configuration_committed: bool
    state_hash: str
    revision: int
    peers: dict[NodeId, PeerStatus]
    replay_target: int | None  # while Replaying
    storage: StorageStatus
    snapshot: SnapshotMeta | None
    snapshot_failure: str | None
    pod_uid: str | None
    volume_uid: str | None


def status_of(node: Node) -> MemberStatus:
    """Everything of one instant. Cheap enough for a call a second; probes use `is_ready`."""
    identity = node.directory.identity
    engine = node.engine
    core = engine.core if engine is not None else None
    state, reason = state_of(node)
    now = node.host.monotonic()
    disk_full = engine is not None and engine.disk_full
    placed = core.placed if core is not None and core.placed.index else None
    part = engine.core if engine is not None and not engine.halted else None  # None: it takes part in nothing
    environment = engine.environment if engine is not None else None
    snapshots = engine.snapshots if engine is not None else None
    return MemberStatus(
        state=state,
        reason=reason,
        ready=is_ready(node),
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        name=identity.name,
        incarnation=identity.node_id.rpartition("-")[2],
        cluster_version=environment.cluster_version if environment is not None else 0,
        role=str(part.role) if part is not None else "follower",  # a person would believe what it thought last
        term=core.term if core is not None else 0,
        leader=part.leader or None if part is not None else None,
        leader_contact_age_seconds=_contact_age(node, now),
        commit_index=core.commit_index if core is not None else 0,
        applied_index=environment.applied.index if environment is not None else 0,
        last_index=core.last_index if core is not None else 0,
        last_term=core.last_term if core is not None else 0,
        placed=placed,
        configuration_committed=core is not None and core.committed_placed.id == core.placed.id,
        state_hash=environment.state_hash if environment is not None else "",
        revision=node.revision,
        peers=_peers(engine, now) if engine is not None and part is not None and part.role is Role.LEADER else {},
        replay_target=engine.replay_target if state == "Replaying" and engine is not None else None,
        storage=StorageStatus(
            healthy=node.broken is None and not disk_full,
            free_bytes=node.free_bytes,
            wal_bytes=node.wal_bytes,
            cut_bytes=engine.cut_bytes if engine is not None else 0,
            low_on_space=engine is not None and engine.member.low_on_space,
            failure=node.broken.why if node.broken is not None else "the disk is full" if disk_full else None,
        ),
        snapshot=snapshots.newest if snapshots is not None else None,
        snapshot_failure=snapshots.failure if snapshots is not None else None,
        pod_uid=identity.pod_uid,
        volume_uid=identity.volume_uid,
    )


def _peers(engine: Engine, now: float) -> dict[NodeId, PeerStatus]:
    differing = engine.member.finding.differing
    return {
        peer: PeerStatus(
            match_index=p.match,
            contact_age_seconds=now - p.contact_at if p.contact_at is not None else None,
            progress=str(p.state),
            diverged=peer in differing,
        )
        for peer, p in engine.core.peers.items()
    }


def state_of(node: Node) -> tuple[State, str]:
    """The member's state, and a sentence where it is not Participating."""
    if node.broken is not None and not (node.removed and node.broken.state == "Outdated"):
        return node.broken.state, node.broken.why
    if node.removed:
        return "Removed", "this member's id was removed from the cluster; it never returns under it"
    if node.stopping:
        return "Draining", "this member is stopping"
    if node.stale is not None:
        return "Stale", node.stale
    engine = node.engine
    if engine is None:
        return "Replaying", "reading the snapshot and the log"
    if node.cluster_id is None:
        return "Idle", "waits to be bootstrapped or to be added to a cluster"
    core = engine.core
    applied = engine.environment.applied.index
    if applied < engine.replay_target:
        return "Replaying", f"applied {applied} of {engine.replay_target} entries that were committed before the start"
    if engine.applying_blocked:
        return "Lagging", "a committed entry cannot be applied: the disk is full"
    if core.awaited_snapshot is not None:
        return "Lagging", f"the log does not reach back: fetching the snapshot at {core.awaited_snapshot.index}"
    configuration = core.placed.configuration
    if not any(m.id == core.node_id for m in (*configuration.voters, *configuration.outgoing)):
        return "Lagging", "not a voter (yet): it catches up as a learner"
    if core.role is not Role.LEADER:
        age = _contact_age(node, node.host.monotonic())
        if age is None or age > 2 * node.settings.election_timeout_seconds:
            return "Isolated", "no contact with a leader for two election time-outs"
        if core.known_commit is None:
            return "Lagging", "the leader has not said yet how far the cluster is"
    known = max(core.commit_index, core.known_commit or 0)
    if known - applied > LAG_ENTRIES:
        return "Lagging", f"{known - applied} committed entries are not applied yet"
    return "Participating", ""


def is_ready(node: Node) -> bool:
    """May clients be sent here? A voter that participates, or is Isolated and says so (stale reads, honest 503s);
    never before the cluster has had `min_voters`, and not while a committed entry waits for disk."""
    engine = node.engine
    if engine is None or engine.applying_blocked or engine.core.committed_placed.configuration.min_voters:
        return False
    return state_of(node)[0] in ("Participating", "Isolated")


def _contact_age(node: Node, now: float) -> float | None:
    """Seconds since a leader was heard; a leader hears itself. Before the first time a member's start counts, for two
    election time-outs; then None."""
    engine = node.engine
    if engine is None or engine.halted:
        return None
    if engine.core.role is Role.LEADER:
        return 0.0
    if engine.core.leader_contact_at is not None:
        return now - engine.core.leader_contact_at
    since_start = now - engine.since
    return None if since_start > 2 * node.settings.election_timeout_seconds else since_start
