"""Names that outlive every version: the API group, labels, child objects, and what a member is called.

Rules of this module: pure string functions; a name given here once is never changed.
"""

from __future__ import annotations

import re
from typing import Any

GROUP = "oarlock.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURAL = "raftclusters"
KIND = "RaftCluster"

CLUSTER_LABEL = f"{GROUP}/cluster"
CLUSTER_UID_LABEL = f"{GROUP}/cluster-uid"
"""On volume claims, as born: which RaftCluster object they were made for. It tells a leftover disk from a new one."""
DESIRED_ANNOTATION = f"{GROUP}/desired"
"""Hash of the manifest that was applied, so that a field we stop sending is noticed."""
TEMPLATE_ANNOTATION = f"{GROUP}/template"
"""On the StatefulSet: hash of the pod template that was rendered for it."""
PAUSED_ANNOTATION = f"{GROUP}/paused"
"""On a RaftCluster, "true": nothing but its status is written."""
SNAPSHOT_ANNOTATION = f"{GROUP}/snapshot-now"
"""On a RaftCluster: each participating member takes a snapshot once for each new value."""

REPLACE_ANNOTATION = f"{GROUP}/replace"
"""On a RaftCluster: node id of a member whose disk a person says is lost."""
MEMBER_ANNOTATION = f"{GROUP}/member"
"""On a volume claim: node id of the member whose disk it holds."""

CLIENT_PORT, PEER_PORT, OPS_PORT = 2379, 2380, 2381

MANAGER = "oarlock-operator"
STATUS_MANAGER = "oarlock-operator-status"
LATCH_MANAGER = "oarlock-operator-latch"
OPERATION_MANAGER = "oarlock-operator-operation"
ROLLOUT_MANAGER = "oarlock-operator-rollout"


def peers_service(cluster: str) -> str:
    return f"{cluster}-peers"


def network_policy(cluster: str) -> str:
    return f"{cluster}-members"


def admin_secret(cluster: str) -> str:
    return f"{cluster}-admin"


def lease(cluster: str) -> str:
    return f"oarlock-{cluster}"


def pod(cluster: str, ordinal: int) -> str:
    return f"{cluster}-{ordinal}"


def claim(cluster: str, ordinal: int) -> str:
    return f"data-{cluster}-{ordinal}"


def ordinal_of_pod(cluster: str, name: str) -> int | None:
    """The ordinal of a pod (or of a member, which records its pod's name); None for a name that is not ours."""
    match = re.fullmatch(re.escape(cluster) + r"-(0|[1-9][0-9]{0,5})", name)
    return int(match[1]) if match else None


def ordinal_of_claim(cluster: str, name: str) -> int | None:
    return ordinal_of_pod(cluster, name.removeprefix("data-")) if name.startswith("data-") else None


def member_name(node_id: str) -> str:
    """The name in `<name>-<incarnation>` (rule 15): all before the last dash."""
    return node_id.rpartition("-")[0]


def ordinal_of_member(cluster: str, node_id: str) -> int | None:
    return ordinal_of_pod(cluster, member_name(node_id))


def peer_url(cluster: str, namespace: str, pod_name: str) -> str:
    return f"http://{pod_name}.{peers_service(cluster)}.{namespace}.svc:{PEER_PORT}"


def client_url(cluster: str, namespace: str, pod_name: str) -> str:
    return f"http://{pod_name}.{peers_service(cluster)}.{namespace}.svc:{CLIENT_PORT}"


def owner(cluster: str, uid: str, *, controller: bool = True) -> dict[str, Any]:
    """An owner reference. `blockOwnerDeletion` stays false: it would need the right to update finalizers."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": cluster,
        "uid": uid,
        "controller": controller,
        "blockOwnerDeletion": False,
    }


def labels(cluster: str) -> dict[str, str]:
    """The labels of every child. Pods carry them from the template, so that a recreated pod has them at once."""
    return {
        "app.kubernetes.io/name": "oarlock",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/managed-by": "oarlock-operator",
        CLUSTER_LABEL: cluster,
    }


def selector(cluster: str) -> dict[str, str]:
    """What Services, the disruption budget and the StatefulSet select: template labels only, immutable."""
    return {"app.kubernetes.io/name": "oarlock", CLUSTER_LABEL: cluster}
