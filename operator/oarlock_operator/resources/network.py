"""NetworkPolicy `<name>-members`: who may connect to the members, where the cluster's network enforces policies.

* 2379, clients: anywhere; who they are is not known here.
* 2380, peers and the admin interface: this cluster's pods and the operator's. The token is the lock, this the fence.
* 2381, metrics and probes: pods of any namespace. It changes nothing, and which Prometheus scrapes is not known here;
  closed to whatever is outside Kubernetes.

A node's kubelet always reaches the pods on it. Policies add up: one that a person makes can open more. Egress is not
restricted: members need DNS and each other, and open nothing else.
"""

from __future__ import annotations

from typing import Any

from .. import names
from ..world import Cluster, Manifest
from .common import child

NAMESPACE_LABEL = "kubernetes.io/metadata.name"  # Kubernetes sets it, and nobody can change it
OPERATOR_LABELS = {"app.kubernetes.io/name": "oarlock-operator"}  # of the chart's pod


def policy(cluster: Cluster, operator_namespace: str) -> Manifest:
    """`operator_namespace` is empty when the operator does not run in a pod: then its label counts in any namespace."""
    members = {"podSelector": {"matchLabels": names.selector(cluster.name)}}
    home = {"matchLabels": {NAMESPACE_LABEL: operator_namespace}} if operator_namespace else {}
    operator = {"namespaceSelector": home, "podSelector": {"matchLabels": OPERATOR_LABELS}}
    spec = {
        **members,
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [_port(names.CLIENT_PORT)]},
            {"ports": [_port(names.PEER_PORT)], "from": [members, operator]},
            {"ports": [_port(names.OPS_PORT)], "from": [{"namespaceSelector": {}}]},
        ],
    }
    return child(cluster, "networking.k8s.io/v1", "NetworkPolicy", names.network_policy(cluster.name), spec=spec)


def _port(number: int) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP"}
