"""Service `<name>` for clients, and the headless Service `<name>-peers` that gives each pod its DNS name.

The headless one publishes addresses that are not ready: members must find each other before anybody is ready.
Both select template labels only; labels that an operator writes are missing on a recreated pod.
"""

from __future__ import annotations

from typing import Any

from .. import names
from ..world import Cluster, Manifest
from .common import child


def _port(name: str, number: int, protocol: str = "http") -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}


def client_service(cluster: Cluster) -> Manifest:
    spec = {
        "type": "ClusterIP",
        "selector": names.selector(cluster.name),
        "ports": [_port("client", names.CLIENT_PORT)],
    }
    return child(cluster, "v1", "Service", cluster.name, spec=spec)


def peers_service(cluster: Cluster) -> Manifest:
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.selector(cluster.name),
        "ports": [
            _port("client", names.CLIENT_PORT),
            _port("peer", names.PEER_PORT),
            _port("ops", names.OPS_PORT),
        ],
    }
    return child(cluster, "v1", "Service", names.peers_service(cluster.name), spec=spec)
