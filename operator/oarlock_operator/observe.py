"""Observe: live reads of one cluster, and the question to each member. The only reader of Kubernetes and members.

Rules: nothing is decided here; an answer counts only if it comes from the very pod that was asked (name and uid), so
that an address which moved to another pod is never mistaken for the old one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from oarlock.wire.admin import Role

from . import names, rollout
from .api.spec import Spec
from .api.status import Status
from .kube import Kube, KubeError, Manifest
from .members import MemberError, Members
from .world import Around, Barrier, Cluster, Node, Pod, Seen, Volume, World

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

CHILDREN: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("v1", "Secret", names.admin_secret),
    ("v1", "Service", names.peers_service),
    ("v1", "Service", str),
    ("apps/v1", "StatefulSet", str),
    ("policy/v1", "PodDisruptionBudget", str),
    ("networking.k8s.io/v1", "NetworkPolicy", names.network_policy),
)


async def objects(kube: Kube, namespace: str, name: str, uid: str) -> World | None:
    """The cluster and its children, read live. None when this very object is gone. Raises KubeError."""
    raw = await kube.get(names.API_VERSION, names.KIND, namespace, name)
    if raw is None or raw["metadata"]["uid"] != uid:
        return None
    (pods, claims), found = await asyncio.gather(
        asyncio.gather(
            kube.list("v1", "Pod", namespace, f"{names.CLUSTER_LABEL}={name}"),
            kube.list("v1", "PersistentVolumeClaim", namespace),
        ),
        asyncio.gather(*(kube.get(api, kind, namespace, naming(name)) for api, kind, naming in CHILDREN)),
    )
    children = {f"{kind}/{naming(name)}": child for (_, kind, naming), child in zip(CHILDREN, found, strict=True)}
    present = {key: child for key, child in children.items() if child is not None}
    secret = present.get(f"Secret/{names.admin_secret(name)}", {})
    found_cluster = cluster(raw)
    return World(
        cluster=found_cluster,
        statefulset=present.get(f"StatefulSet/{name}"),
        children=present,
        pods=tuple(sorted(filter(None, (pod(name, item) for item in pods)), key=lambda p: p.ordinal)),
        volumes=tuple(sorted(filter(None, (volume(name, item) for item in claims)), key=lambda v: v.ordinal)),
        token=base64.b64decode(secret.get("data", {}).get("token", "")).decode(),
        good_template=await _good_template(kube, found_cluster, present.get(f"StatefulSet/{name}")),
    )


async def members(members: Members, world: World) -> World:
    """The same world with what each member answers now, and the barrier of its leader. Never raises for a member."""

    async def ask(pod: Pod) -> Seen:
        if not pod.ip:
            return Seen(pod, None, pod.why or "its pod has no address yet")
        try:
            status = await members.status(pod.ip, world.token)
        except MemberError as error:
            return Seen(pod, None, pod.why or error.why)
        if status.name != pod.name or status.pod_uid != pod.uid:
            return Seen(pod, None, f"{status.name} with pod uid {status.pod_uid} answers at its address")
        return Seen(pod, status)

    seen = tuple(await asyncio.gather(*(ask(pod) for pod in world.pods)))
    leading = [one for one in seen if one.status is not None and one.status.role is Role.LEADER]
    barrier = None
    if leading:
        leader = max(leading, key=lambda one: one.status.term if one.status else 0)
        assert leader.status is not None
        try:
            answer = await members.barrier(leader.pod.ip, world.token)
            # The same term before and after: it was the leader when it told us its configuration.
            if answer.term == leader.status.term:
                barrier = Barrier(leader.status.node_id, answer.term)
        except MemberError:
            pass  # no barrier: the diagnosis says that there is no leader
    return world.with_members(seen, barrier)


async def _good_template(kube: Kube, of: Cluster, live: Manifest | None) -> Manifest | None:
    """The last good pod template, as Kubernetes keeps it; only where it is to be written again."""
    latch = of.status.rollout
    if latch is None or not latch.failed_hash or not latch.revision or live is None:
        return None
    if live["metadata"].get("annotations", {}).get(names.TEMPLATE_ANNOTATION) == latch.good_hash:
        return None
    kept = await kube.get("apps/v1", "ControllerRevision", of.namespace, latch.revision)
    return None if kept is None else rollout.of_revision(kept)


async def around(kube: Kube, world: World) -> Around | None:
    """Nodes, disks, and who uses which claim: looked at only when a member does not answer, or a volume is ending.

    Nodes and PersistentVolumes belong to no namespace; an operator that may not read them says so, and sees less.
    """
    answered = {seen.pod.ordinal for seen in world.seen if seen.status is not None}
    silent = [one for one in world.volumes if one.ordinal < (world.live_replicas or 0) and one.ordinal not in answered]
    if not silent and not any(one.terminating for one in world.volumes):
        return None
    mounts = _mounts(await kube.list("v1", "Pod", world.cluster.namespace))
    disks = [one.disk for one in silent if one.disk]
    if not disks:
        return Around(mounts=mounts)
    try:
        found, *volumes = await asyncio.gather(
            kube.list("v1", "Node", ""), *(kube.get("v1", "PersistentVolume", "", disk) for disk in disks)
        )
    except KubeError as error:
        return Around(mounts=mounts, hidden=_hidden(error))
    nodes = tuple(node(item) for item in cast(list[Manifest], found))
    read = zip(disks, cast(list[Manifest | None], volumes), strict=True)
    return Around(nodes, {name: disk for name, disk in read if disk is not None}, mounts)


def _hidden(error: KubeError) -> str:
    return (
        f"Nodes and PersistentVolumes cannot be read ({error}), so a Node that is gone is not noticed: if the disk of "
        f"a member that does not answer is lost, say so with the annotation {names.REPLACE_ANNOTATION}=<its node id>."
    )


def _mounts(pods: list[Manifest]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for raw in pods:
        for one in raw.get("spec", {}).get("volumes", []):
            claim = one.get("persistentVolumeClaim", {}).get("claimName")
            if claim and raw.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                found[claim] = (*found.get(claim, ()), raw["metadata"]["name"])
    return found


def node(raw: Manifest) -> Node:
    meta, taints = raw["metadata"], raw.get("spec", {}).get("taints") or []
    off = any(taint["key"] == OUT_OF_SERVICE for taint in taints)
    return Node(meta["name"], meta.get("labels", {}), off)


def cluster(raw: Manifest) -> Cluster:
    meta = raw["metadata"]
    return Cluster(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta["generation"],
        resource_version=meta["resourceVersion"],
        spec=Spec.model_validate(raw.get("spec", {})),
        status=Status.model_validate(raw.get("status", {})),
        deleting="deletionTimestamp" in meta,
        raw_status=raw.get("status", {}),
        annotations=meta.get("annotations", {}),
    )


def pod(cluster_name: str, raw: Manifest) -> Pod | None:
    meta, status = raw["metadata"], raw.get("status", {})
    ordinal = names.ordinal_of_pod(cluster_name, meta["name"])
    if ordinal is None:
        return None
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        ordinal=ordinal,
        ip=status.get("podIP", ""),
        ready=ready,
        terminating="deletionTimestamp" in meta,
        revision=meta.get("labels", {}).get("controller-revision-hash", ""),
        why=_why(status),
        node=raw.get("spec", {}).get("nodeName", ""),
        waiting=_waiting(status),
        created=_seconds(meta.get("creationTimestamp")),
        resource_version=meta.get("resourceVersion", ""),
    )


def volume(cluster_name: str, raw: Manifest) -> Volume | None:
    meta = raw["metadata"]
    ordinal = names.ordinal_of_claim(cluster_name, meta["name"])
    if ordinal is None:
        return None
    return Volume(
        name=meta["name"],
        ordinal=ordinal,
        uid=meta["uid"],
        cluster_uid=meta.get("labels", {}).get(names.CLUSTER_UID_LABEL, ""),
        terminating="deletionTimestamp" in meta,
        manifest=raw,
    )


def _seconds(stamp: str | None) -> float:
    """Unix seconds of a Kubernetes time; 0 for none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def _waiting(status: dict[str, Any]) -> str:
    """The error for which a container waits; empty for none."""
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            # The two alternate; a status that flickers with them would tell nobody more.
            return "ImagePullBackOff" if waiting["reason"] == "ErrImagePull" else str(waiting["reason"])
    return ""


def _why(status: dict[str, Any]) -> str:
    """Why a pod does not run, in Kubernetes' words; empty when it does."""
    if reason := _waiting(status):
        return f"its container waits: {reason}"
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"its pod is not scheduled: {condition.get('message', 'no reason given')}"
    return "" if status.get("phase") == "Running" else f"its pod is {status.get('phase', 'Unknown')}"
