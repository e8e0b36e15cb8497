"""Rules until a cluster exists: found a new one, or adopt the one that is on the disks.

A second founding would be a second cluster under the same name, so all of this must hold in one pass: every volume of
this name was made for this very object; every pod answers Idle with its current uid; and the latch in status, which
names the seed, was read back. Never beside an old disk.

    all Idle ──latch──> all Idle, latched ──bootstrap──> the seed has a cluster id ──latch──> founded
                 │  the seed's disk vanished before it answered: latch anew (its id is part of the request)
"""

from __future__ import annotations

from oarlock.wire.admin import State

from .. import names
from ..actions import Bootstrap, Decision, Note, Wait, WriteLatch
from ..api.status import BootstrapStatus
from ..diagnose import Diagnosis, answers, foreign
from ..world import Seen, World


def found(world: World, diagnosis: Diagnosis) -> Decision | None:
    """Everything before `status.bootstrap.clusterID` is set; None afterwards."""
    latch = world.cluster.status.bootstrap
    if latch is not None and latch.cluster_id:
        return None
    initialised = [(seen, status) for seen, status in answers(world) if status.cluster_id]
    if initialised:
        return _existing(world, diagnosis, latch)
    missing = _not_idle(world, diagnosis)
    if missing:
        return Wait("WaitingForPods", f"The cluster is founded once every member is up and empty: {missing}.")
    if old := foreign(world):
        return Wait(
            "ForeignVolumes",
            f"{', '.join(old)} were made for another RaftCluster, and nobody on them answers with data. "
            "Delete the claims, or restore their cluster, to go on.",
            blocked=True,
        )
    for seen in world.seen:
        note = note_needed(world, seen)
        if note is not None:
            return note
    return _found(world, latch)


def _existing(world: World, diagnosis: Diagnosis, latch: BootstrapStatus | None) -> Decision:
    """Somebody holds data already: the cluster we asked for, or one that was here before this object."""
    leader = diagnosis.leader
    if leader is None or leader.status is None:
        reason = "ForeignVolumes" if foreign(world) else "WaitingForLeader"
        return Wait(reason, "Members hold data of a cluster; it is taken over when a quorum of it answers.")
    ours = latch is not None and diagnosis.cluster_id.startswith(f"{latch.requested_cluster_id}+")
    if ours and latch is not None:
        finished = latch.model_copy(update={"cluster_id": diagnosis.cluster_id})
        return WriteLatch(finished, world.cluster.resource_version, f"{latch.seed} founded the cluster")
    adopted = BootstrapStatus(
        seed=leader.pod.name, node_id=leader.status.node_id, cluster_id=diagnosis.cluster_id, adopted=True
    )
    return WriteLatch(
        adopted,
        world.cluster.resource_version,
        f"The volumes hold cluster {diagnosis.cluster_id}, which has a quorum: adopted",
    )


def _not_idle(world: World, diagnosis: Diagnosis) -> str:
    """Who is not yet up and empty, in words; empty when all are."""
    reasons = []
    for ordinal in range(diagnosis.replicas):
        name = names.pod(world.cluster.name, ordinal)
        seen = world.at(ordinal)
        if seen is None:
            reasons.append(f"{name} does not exist yet")
        elif seen.status is None:
            reasons.append(f"{name} does not answer ({seen.why})")
        elif seen.pod.terminating:
            reasons.append(f"{name} is ending")
        elif seen.status.state is not State.IDLE:
            reasons.append(f"{name} is {seen.status.state}")
        elif world.volume(ordinal) is None:
            reasons.append(f"{name} has no volume claim")
    return "; ".join(reasons)


def _found(world: World, latch: BootstrapStatus | None) -> Decision:
    seed = world.at(0)
    if seed is None or seed.status is None:
        return Wait("WaitingForPods", "The first member does not answer yet.")
    node_id = seed.status.node_id
    if latch is None or latch.node_id != node_id:
        # The incarnation is random, so the request is new exactly when the seed's disk is.
        wanted = BootstrapStatus(
            seed=seed.pod.name,
            node_id=node_id,
            request_id=f"{world.cluster.uid}.{node_id}",
            requested_cluster_id=f"{world.cluster.name}-{world.cluster.uid}",
            min_voters=world.cluster.spec.replicas,
        )
        return WriteLatch(wanted, world.cluster.resource_version, f"{seed.pod.name} is to found the cluster")
    return Bootstrap(seed.pod, latch)


def note_needed(world: World, seen: Seen) -> Note | None:
    """An Idle member is told its volume before it is admitted, so that a volume restored under it is noticed later."""
    volume = world.volume(seen.pod.ordinal)
    if seen.status is None or volume is None or seen.status.volume_uid == volume.uid:
        return None
    return Note(seen.pod, volume.uid)
