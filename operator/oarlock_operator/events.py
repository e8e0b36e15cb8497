"""Kubernetes Events about a RaftCluster. Best effort: an Event that cannot be posted never stops a pass."""

from __future__ import annotations

import hashlib
from datetime import datetime

import structlog

from . import names
from .actions import Action, RemovePod, TakeSnapshot, WriteOperation, WriteRollout
from .kube import Kube, KubeError, Manifest
from .status import Happening
from .world import Cluster

log = structlog.get_logger(__name__)


def event(cluster: Cluster, happening: Happening, now: datetime) -> Manifest:
    """The name is made of what happened and when, so that a repeat within the second is the same Event."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(f"{cluster.uid} {happening.reason} {happening.message} {stamp}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{cluster.name}.{digest}", "namespace": cluster.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": cluster.name,
            "namespace": cluster.namespace,
            "uid": cluster.uid,
        },
        "reason": happening.reason,
        "message": happening.message,
        "type": happening.type,
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "reportingComponent": names.MANAGER,
        "source": {"component": names.MANAGER},
    }


def of(action: Action | TakeSnapshot) -> list[Happening]:
    """What an act that was done tells people. Changes that show in the status have their own (`status.happenings`)."""
    match action:
        case WriteOperation(operation=None, before=before) if before is not None:
            return [Happening(f"{before.type}Finished", f"{before.type} to {before.target} is done.")]
        case WriteOperation(operation=begun) if begun is not None:
            return [Happening(f"{begun.type}Started", f"{begun.type} to {begun.target}: {action.why}.")]
        case WriteRollout(rollout=latch) if latch.failed_hash:
            return [Happening("RolledBack", f"{action.why}.", type="Warning")]
        case RemovePod(warning=""):
            return [Happening("PodRestarted", f"{action.why}.")]
        case RemovePod(warning=warning):
            return [Happening("NoFaultTolerance", warning, type="Warning")]
        case _:
            return []


async def post(kube: Kube, cluster: Cluster, happenings: list[Happening], now: datetime) -> None:
    for happening in happenings:
        try:
            await kube.create(event(cluster, happening, now))
        except KubeError as error:
            if error.status != 409:
                log.warning("event_not_posted", cluster=cluster.name, reason=happening.reason, why=error.why)
