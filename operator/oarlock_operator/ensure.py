"""Ensure: which child objects differ from what they shall be. Pure; `act.py` applies them.

An object is applied only when it differs, so that a quiet cluster causes no writes: everything we want must be in the
live object (the API server adds defaults, which we leave alone), and the hash of what we last applied must be there
too (which tells that we now want less). A child of this name that this RaftCluster does not own is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import names
from .diagnose import Diagnosis
from .quantities import quantity
from .resources import budget, claims, services, statefulset
from .resources.common import owned
from .world import Manifest, World


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
    manifest: Manifest


Step: TypeAlias = Apply | MakeSecret | DeleteChild


def taken(world: World) -> list[str]:
    """Children of our names that something else made: "Kind/name"."""
    return [key for key, live in sorted(world.children.items()) if not owned(live, world.cluster)]


def ensure(world: World, diagnosis: Diagnosis, default_image: str) -> list[Step]:
    """Everything that differs, in the order it is to be made. Nothing while deleting, or while a name is taken."""
    if world.cluster.deleting or taken(world):
        return []
    return list(_steps(world, diagnosis, default_image))


def _steps(world: World, diagnosis: Diagnosis, default_image: str) -> Iterator[Step]:
    cluster = world.cluster
    if f"Secret/{names.admin_secret(cluster.name)}" not in world.children:
        yield MakeSecret()
    wanted = [
        services.peers_service(cluster),
        services.client_service(cluster),
        statefulset.statefulset(cluster, diagnosis.replicas, default_image, world.statefulset),
    ]
    for manifest in wanted:
        live = world.children.get(f"{manifest['kind']}/{manifest['metadata']['name']}")
        if live is None or ("deletionTimestamp" not in live["metadata"] and not covers(live, manifest)):
            yield Apply(manifest)
    yield from _budget(world, diagnosis)
    for volume in world.volumes:
        if (manifest_ := claims.claim(cluster, volume)) is not None:
            yield Apply(manifest_, optional=True)


def _budget(world: World, diagnosis: Diagnosis) -> Iterator[Step]:
    live = world.children.get(f"PodDisruptionBudget/{world.cluster.name}")
    if diagnosis.configuration is None or (diagnosis.leader is None and live is not None):
        return  # without a leader nobody knows better than what stands there
    available = budget.min_available(diagnosis.configuration)
    if available and blocked_claims(world, diagnosis):
        available = len(diagnosis.configuration.voters)  # a pod that leaves now might not come back: allow none
    if available == 0:
        if live is not None:
            yield DeleteChild(live)
        return
    manifest = budget.budget(world.cluster, available)
    if live is None or not covers(live, manifest):
        yield Apply(manifest)


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
