"""Ensure: which child objects differ from what they shall be. Pure; `act.py` applies them.

An object is applied only when it differs, so that a quiet cluster causes no writes: everything we want must be in the
live object (the API server adds defaults, which we leave alone), and the hash of what we last applied must be there
too (which tells that we now want less). A child of this name that this RaftCluster does not own is never touched; one
that nobody owns, and that an operator made for a RaftCluster of this name, was left by `--cascade=orphan`: taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import names, rollout
from .diagnose import Diagnosis, Verdict, everybody
from .quantities import quantity
from .resources import budget, claims, network, services, statefulset
from .resources.common import orphaned, owned
from .rules.grow import joining
from .world import Manifest, Volume, World


@dataclass(frozen=True, slots=True)
class Apply:
    """`optional`: a refusal is reported, and stops nothing else (a class that cannot grow must not stop a repair)."""

    manifest: Manifest
    optional: bool = False


@dataclass(frozen=True, slots=True)
class MakeSecret:
    """Create the token; the caller draws it at random. Never applied: two operators must not overwrite each other's."""


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """`orphan`: what it owns stays (a StatefulSet's pods run on, and the next one takes them over)."""

    manifest: Manifest
    orphan: bool = False


Step: TypeAlias = Apply | MakeSecret | DeleteChild


def taken(world: World) -> list[str]:
    """Children of our names that something else made: "Kind/name"."""
    return [
        key
        for key, live in sorted(world.children.items())
        if not owned(live, world.cluster) and not orphaned(live, world.cluster)
    ]


def ensure(world: World, diagnosis: Diagnosis) -> list[Step]:
    """What differs, in the order it is to be made. Nothing while deleting or paused.

    Nothing for a new cluster, one of whose names is taken; one that is there keeps its other children as they shall be,
    the disruption budget before all.
    """
    if world.cluster.deleting or world.cluster.paused or (taken(world) and not diagnosis.initialised):
        return []
    return list(_steps(world, diagnosis))


def _steps(world: World, diagnosis: Diagnosis) -> Iterator[Step]:
    cluster = world.cluster
    if f"Secret/{names.admin_secret(cluster.name)}" not in world.children:
        yield MakeSecret()
    wanted = [
        services.peers_service(cluster),
        services.client_service(cluster),
        network.policy(cluster, world.operator_namespace),
        statefulset.statefulset(cluster, diagnosis.replicas, rollout.to_write(world), world.statefulset),
    ]
    others = taken(world)
    for manifest in wanted:
        key = f"{manifest['kind']}/{manifest['metadata']['name']}"
        live = world.children.get(key)
        if key in others:
            continue
        if live is None or ("deletionTimestamp" not in live["metadata"] and not covers(live, manifest)):
            yield Apply(_this(manifest, live))
    yield from _budget(world, diagnosis)
    for volume in world.volumes:
        if (manifest_ := claims.claim(cluster, volume, _member_on(world, diagnosis, volume))) is not None:
            yield Apply(manifest_, optional=True)
    yield from _renewed(world, diagnosis)


def _renewed(world: World, diagnosis: Diagnosis) -> Iterator[Step]:
    """Its claim template cannot be changed: make the StatefulSet anew around its pods, once all else is done.

    The pods keep their revision, since that is a hash of the template: this restarts nobody. It waits until every claim
    has grown and nothing is under way, and for a cluster in which everybody takes part.
    """
    live, cluster = world.statefulset, world.cluster
    if taken(world):
        return
    if live is None or "deletionTimestamp" in live["metadata"] or diagnosis.verdict is not Verdict.HEALTHY:
        return
    busy = cluster.status.operation is not None or not diagnosis.confirmed or diagnosis.losses
    pods = [pod for pod in world.pods if not pod.terminating]
    if busy or len(world.pods) != len(pods) or len(pods) != diagnosis.replicas or len(pods) != world.live_replicas:
        return
    if rollout.live_hash(world) != rollout.rendered(world).hash:
        return
    if statefulset.claims_outlived(cluster, live) and not any(claims.grows(cluster, one) for one in world.volumes):
        yield DeleteChild(live, orphan=True)


def _budget(world: World, diagnosis: Diagnosis) -> Iterator[Step]:
    live = world.children.get(f"PodDisruptionBudget/{world.cluster.name}")
    if live is not None and f"PodDisruptionBudget/{world.cluster.name}" in taken(world):
        return
    if diagnosis.configuration is None or (diagnosis.leader is None and live is not None):
        return  # without a leader nobody knows better than what stands there
    available = budget.min_available(diagnosis.configuration, len(joining(world, diagnosis)[1]))
    if available and blocked_claims(world, diagnosis):
        available = max(available, len(world.pods))  # a pod that leaves now might not come back: allow none
    if available == 0:
        if live is not None:
            yield DeleteChild(live)
        return
    manifest = budget.budget(world.cluster, available)
    if live is None or not covers(live, manifest):
        yield Apply(_this(manifest, live))


def _member_on(world: World, diagnosis: Diagnosis, volume: Volume) -> str:
    """The member of the confirmed configuration that answers from this very volume; empty when none does."""
    seen = world.at(volume.ordinal)
    if not diagnosis.confirmed or diagnosis.configuration is None or seen is None or seen.status is None:
        return ""
    member = any(one.id == seen.status.node_id for one in everybody(diagnosis.configuration))
    return seen.status.node_id if member and seen.status.volume_uid == volume.uid else ""


def _this(manifest: Manifest, live: Manifest | None) -> Manifest:
    """With the uid of what was seen: should another object stand there now, it is not ours to change."""
    uid = {} if live is None else {"uid": live["metadata"]["uid"]}
    return {**manifest, "metadata": {**manifest["metadata"], **uid}}


def blocked_claims(world: World, diagnosis: Diagnosis) -> list[str]:
    """Claims that are ending but not gone: until then the controller recreates no pod of that or a later ordinal."""
    return [volume.name for volume in world.volumes if volume.terminating and volume.ordinal < diagnosis.replicas]


def covers(live: Any, wanted: Any) -> bool:
    """Is all that is wanted in the live object? Extra keys are the API server's; lists must match item by item."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            covers(live.get(key), value) or (value in ({}, []) and key not in live) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return bool(live == wanted) or _same_quantity(live, wanted)


def _same_quantity(live: Any, wanted: Any) -> bool:
    """`0.5` is stored as `500m`."""
    if not isinstance(live, str | int) or not isinstance(wanted, str | int) or isinstance(live, bool):
        return False
    try:
        return quantity(live) == quantity(wanted)
    except ValueError:
        return False
