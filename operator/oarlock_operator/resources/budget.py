"""PodDisruptionBudget `<name>`: what Kubernetes may evict at once without taking the quorum.

`minAvailable`, not `maxUnavailable`: the latter counts from the StatefulSet's size and refills while it changes.
While a change is not committed the larger quorum of both configurations counts. One member: none, for it could never
be drained. Two: 1, with no tolerance to protect; a quorum of 2 would block every drain.
"""

from __future__ import annotations

from oarlock.wire.admin import ConfigurationModel

from .. import names
from ..world import Cluster, Manifest, quorum
from .common import child


def min_available(configuration: ConfigurationModel, joining: int = 0) -> int:
    """0 means that there shall be no budget. `joining`: members that the next change adds.

    They count before they are asked for: the leader promotes them by itself, and nobody may be there to raise it then.
    """
    new = len(configuration.voters)
    promoted = new + sum(member.promote for member in configuration.learners) + joining
    voters = max(new, promoted, len(configuration.outgoing))
    if voters <= 1:
        return 0
    return 1 if voters == 2 else quorum(voters)


def budget(cluster: Cluster, available: int) -> Manifest:
    spec = {
        "minAvailable": available,
        "selector": {"matchLabels": names.selector(cluster.name)},
        # Unready pods may go while a quorum is ready; without one, an eviction could take the survivor.
        "unhealthyPodEvictionPolicy": "IfHealthyBudget",
    }
    return child(cluster, "policy/v1", "PodDisruptionBudget", cluster.name, spec=spec)
