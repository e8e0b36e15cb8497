"""Rules that give a place a new volume, and that take volumes away.

    its id is out of the configuration --> claim: delete --> pod: remove --> both gone --> claim and pod made anew

The claim first: the other way round the pod would return on the old disk, and the claim would hang for ever. Only where
nothing else answers from that disk (a member that does is reset instead, and its data kept), and only while all other
voters take part: until the pod is back, there is one less to spare.
"""

from __future__ import annotations

from .. import names
from ..actions import Decision, DeleteVolume, RemovePod
from ..diagnose import Diagnosis, everybody
from ..evidence import condemned
from ..resources.claims import ours
from ..world import Volume, World, voters_of

PROTECTION = "kubernetes.io/pvc-protection"


def renew_disks(world: World, diagnosis: Diagnosis) -> Decision | None:
    """The next step for the first condemned volume for which nothing stands in the way."""
    configuration = diagnosis.configuration
    if configuration is None or not diagnosis.confirmed:
        return None
    taken = {world.ordinal(member.id) for member in everybody(configuration)}
    for ordinal in range(diagnosis.target):
        volume, why = world.volume(ordinal), condemned(world, ordinal)
        if ordinal in taken or volume is None or not why or obstacle(world, diagnosis, volume):
            continue
        if not volume.terminating:
            return DeleteVolume(volume, f"it {why}")
        pod = next((pod for pod in world.pods if pod.ordinal == ordinal), None)
        if pod is not None and not pod.terminating:
            return RemovePod(pod, f"its volume claim {volume.name} {why}, and goes once no pod holds it")
    return None


def obstacle(world: World, diagnosis: Diagnosis, volume: Volume, member: str = "") -> str:
    """What keeps this volume from being replaced, and what would help, as a sentence; empty when nothing does.

    `member` is who leaves with it, and need not take part itself.
    """
    if held := [finalizer for finalizer in volume.finalizers if finalizer != PROTECTION]:
        return (
            f"{volume.name} is held by the finalizer {', '.join(held)}: whoever set it must remove it "
            f"(kubectl get pvc {volume.name} -o yaml), and nothing else is disturbed until then."
        )
    if not ours(world.cluster, volume):
        return f"{volume.name} was made for another RaftCluster: delete it by hand if its data may go."
    pod = names.pod(world.cluster.name, volume.ordinal)
    if world.around is None:
        return f"Whether another pod uses {volume.name} was not seen yet."
    if others := [name for name in world.around.mounts.get(volume.name, ()) if name != pod]:
        return f"{volume.name} is used by pod {', '.join(others)} too: delete that pod."
    voters = voters_of(diagnosis.configuration) if diagnosis.configuration is not None else frozenset()
    if away := sorted(voters - diagnosis.participating - {member}):
        return f"{', '.join(away)} must take part before the disk under {volume.name} is replaced."
    return ""


def drop_volumes(world: World, diagnosis: Diagnosis) -> Decision | None:
    """With `whenScaled: Delete`, delete the claim of a member that the confirmed configuration lacks, its pod gone."""
    configuration = diagnosis.configuration
    if world.cluster.spec.storage.retention.when_scaled != "Delete" or not diagnosis.confirmed or configuration is None:
        return None
    members = {world.ordinal(member.id) for member in everybody(configuration)}
    pods = {pod.ordinal for pod in world.pods}
    for volume in world.volumes:
        ours = volume.cluster_uid == world.cluster.uid and not volume.terminating
        beyond = volume.ordinal >= max(diagnosis.replicas, world.live_replicas or 0)
        if ours and beyond and volume.ordinal not in members | pods:
            return DeleteVolume(volume, "its member was removed, and storage.retention.whenScaled is Delete")
    return None
