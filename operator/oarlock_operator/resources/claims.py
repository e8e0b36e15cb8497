"""PersistentVolumeClaims `data-<name>-N`: made by the StatefulSet; here they grow, and are owned or not.

Growing needs no quorum and no gate: a full disk must be curable. With `whenDeleted: Delete` the claims get the
RaftCluster as an owner (not its controller), so that garbage collection takes them with it even if the operator is
dead; with Retain they have none. Only claims that were made for this very object, or that it took over, are touched.
"""

from __future__ import annotations

from .. import names
from ..quantities import quantity
from ..world import Cluster, Manifest, Volume
from .common import owned


def claim(cluster: Cluster, volume: Volume, member: str = "") -> Manifest | None:
    """What to apply to an existing claim; None when it is as it shall be, or not ours to touch.

    `member` is the node id that answers from it as one of the cluster's members; empty when none does, and what was
    noted stays. The size is always sent, and never less than it is: a field that we once applied and then omit would
    be removed.
    """
    if not ours(cluster, volume) or volume.terminating or not volume.manifest:
        return None
    noted = member or volume.member
    wants_owner = cluster.spec.storage.retention.when_deleted == "Delete"
    same = wants_owner == owned(volume.manifest, cluster) and noted == volume.member
    if same and not grows(cluster, volume):
        return None
    size = cluster.spec.storage.size if grows(cluster, volume) else requested(volume)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": volume.name,
            "namespace": cluster.namespace,
            # A precondition: applied to a claim that is gone, this must not make a new one.
            "uid": volume.uid,
            **({"annotations": {names.MEMBER_ANNOTATION: noted}} if noted else {}),
            **({"ownerReferences": [names.owner(cluster.name, cluster.uid, controller=False)]} if wants_owner else {}),
        },
        "spec": {"resources": {"requests": {"storage": size}}},
    }


def ours(cluster: Cluster, volume: Volume) -> bool:
    """Made for this very object, or taken over with the cluster that is on it."""
    latch = cluster.status.bootstrap
    return volume.cluster_uid == cluster.uid or (latch is not None and latch.adopted)


def requested(volume: Volume) -> str:
    return str(volume.manifest.get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "0"))


def grows(cluster: Cluster, volume: Volume) -> bool:
    """A claim that is not bound yet cannot grow; it is asked again once it is."""
    bound = volume.manifest.get("status", {}).get("phase") == "Bound"
    return bound and quantity(cluster.spec.storage.size) > quantity(requested(volume))


def shrinks(cluster: Cluster, volume: Volume) -> bool:
    """Is less asked for than this volume has? Reported, never done."""
    return quantity(cluster.spec.storage.size) < quantity(requested(volume))
