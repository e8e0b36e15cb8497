"""Act: the only writer. One function per action, each with a precondition that makes a stale plan harmless.

| act | precondition |
|---|---|
| write the latch | resourceVersion of the cluster object |
| bootstrap | the member: only from Idle, same request, same answer |
| configure | `if_config`: the Raft log serialises, not we |
| reset | the member: its own id, which the configuration lacks |
| delete a volume | uid and resourceVersion |
| delete a child | uid |
| write an operation, a rollout | resourceVersion of the cluster object |
| evict a pod that is Ready | uid, and the disruption budget |
| delete a pod that is not | uid and resourceVersion: it still is not |
"""

from __future__ import annotations

import secrets

from oarlock.wire.admin import BootstrapRequest, ConfigurationRequest, NotesRequest, ResetRequest, TransferRequest

from . import names
from .actions import (
    Action,
    Bootstrap,
    Configure,
    DeleteVolume,
    Note,
    RemovePod,
    Reset,
    TakeSnapshot,
    Transfer,
    Wait,
    WriteLatch,
    WriteOperation,
    WriteRollout,
)
from .api.base import Model
from .ensure import Apply, DeleteChild, MakeSecret, Step
from .kube import Kube, KubeError
from .members import MemberError, Members
from .resources.secret import secret
from .world import Cluster, Pod, SnapshotTry, World


class NotNow(Exception):
    """What was to be done must wait for somebody else, as the reason tells."""

    def __init__(self, wait: Wait):
        super().__init__(wait.message)
        self.wait = wait


async def make(step: Step, world: World, kube: Kube) -> str:
    """Bring one child to what it shall be; says what was done. Raises KubeError."""
    if isinstance(step, Apply):
        # What was not there is made, never taken: should somebody have made it meanwhile, the API server refuses.
        await kube.apply(step.manifest, force="uid" in step.manifest["metadata"])
        return f"applied {step.manifest['kind']}/{step.manifest['metadata']['name']}"
    if isinstance(step, DeleteChild):
        await kube.delete(step.manifest, unchanged=False, orphan=step.orphan)  # its status may change at any time
        return f"deleted {step.manifest['kind']}/{step.manifest['metadata']['name']}"
    assert isinstance(step, MakeSecret)
    try:
        await kube.create(secret(world.cluster, secrets.token_urlsafe(32)))
    except KubeError as error:
        if error.status != 409:  # somebody made it meanwhile: the next pass reads it
            raise
    return f"made Secret/{names.admin_secret(world.cluster.name)}"


async def act(action: Action, world: World, kube: Kube, members: Members) -> str:
    """Do it; says what was done, as a sentence without a full stop. Raises KubeError, MemberError and NotNow."""
    token = world.token
    match action:
        case WriteLatch():
            await _latch(world.cluster, kube, action.resource_version, names.LATCH_MANAGER, bootstrap=action.latch)
            return action.why
        case WriteOperation(operation=operation):
            latch = {} if operation is None else {"operation": operation}
            await _latch(world.cluster, kube, action.resource_version, names.OPERATION_MANAGER, **latch)
            return action.why
        case WriteRollout(rollout=rollout):
            await _latch(world.cluster, kube, action.resource_version, names.ROLLOUT_MANAGER, rollout=rollout)
            return action.why
        case RemovePod(pod=removed):
            await _remove(removed, world.cluster, kube)
            return action.why
        case Bootstrap(pod=pod, latch=latch):
            request = BootstrapRequest(
                request_id=latch.request_id, cluster_id=latch.requested_cluster_id, min_voters=latch.min_voters
            )
            answer = await members.bootstrap(pod.ip, token, request)
            return f"{pod.name} founded cluster {answer.cluster_id}"
        case Note(pod=pod, volume_uid=volume_uid):
            await members.notes(pod.ip, token, NotesRequest(pod_uid=pod.uid, volume_uid=volume_uid))
            return f"told {pod.name} its pod and volume"
        case Reset(pod=pod, node_id=node_id, why=why):
            request_ = ResetRequest(request_id=f"reset.{node_id}", node_id=node_id)
            reset = await members.reset(pod.ip, token, request_)
            return f"{pod.name} put its data into quarantine ({reset.quarantine}): {why}"
        case Configure():
            change = ConfigurationRequest(
                voters=list(action.voters), learners=list(action.learners), if_config=action.if_config
            )
            await members.configure(action.leader.ip, token, change)
            return f"changed the membership: {action.why}"
        case Transfer(leader=leader, target=target, why=why):
            await members.transfer(leader.ip, token, TransferRequest(target=target))
            return f"moved the leadership to {target}: {why}"
        case DeleteVolume(volume=volume, why=why):
            await kube.delete({**volume.manifest, "apiVersion": "v1", "kind": "PersistentVolumeClaim"}, unchanged=True)
            return f"deleted the volume claim {volume.name}: {why}"


async def _remove(pod: Pod, cluster: Cluster, kube: Kube) -> None:
    """A Ready pod only as the disruption budget allows; another one at once, if it is as it was seen."""
    meta = {"name": pod.name, "namespace": cluster.namespace, "uid": pod.uid, "resourceVersion": pod.resource_version}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
    if not pod.ready:
        await kube.delete(manifest, unchanged=True)
        return
    try:
        await kube.evict(manifest)
    except KubeError as error:
        if error.status != 429:
            raise
        why = f"{pod.name} may not be evicted yet: {error.why} It is tried again until enough other pods are Ready."
        raise NotNow(Wait("EvictionRefused", why)) from error


async def try_snapshot(action: TakeSnapshot, world: World, members: Members) -> SnapshotTry:
    """Ask for it. Never raises: what went wrong is part of the answer, and stands in status."""
    try:
        taken = await members.snapshot(action.pod.ip, world.token)
    except MemberError as error:
        return SnapshotTry(action.node_id, action.request, failure=error.why)
    return SnapshotTry(action.node_id, action.request, taken.index)


async def _latch(cluster: Cluster, kube: Kube, resource_version: str, manager: str, **latch: Model) -> None:
    """Written under a field manager of its own, so that no status write can ever take it away. None given: cleared."""
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": cluster.name,
            "namespace": cluster.namespace,
            "uid": cluster.uid,
            "resourceVersion": resource_version,
        },
        "status": {name: value.model_dump(by_alias=True, exclude_none=True) for name, value in latch.items()},
    }
    await kube.apply(manifest, manager=manager, subresource="status")
