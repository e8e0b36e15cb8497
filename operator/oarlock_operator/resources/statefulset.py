"""StatefulSet `<name>`: pods with a name and a volume each. Who is a member is never its business.

* `Parallel`: after a full outage every pod must come up at once; a quorum cannot wait for pod 0 to be ready.
* `OnDelete`: the StatefulSet controller knows nothing of leaders and quorums, so it restarts nobody.
* Fields that cannot be changed (volumeClaimTemplates, serviceName, selector) are copied from the live object.
* Probes: none fails because of replay, a peer, a quorum or a slow disk. Startup asks whether the identity is loaded and
  the port open; liveness only whether the event loop turns.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .. import names
from ..quantities import quantity
from ..world import Cluster, Manifest
from .common import child

USER = 65532
GRACE_SECONDS = 30
# For a Prometheus that finds pods by annotations; others have the chart's PodMonitor.
SCRAPED = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(names.OPS_PORT),
    "prometheus.io/path": "/metrics",
}
DRAIN_SECONDS = 3  # for endpoints to be withdrawn everywhere before the process is told to stop


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template. `hash` is of what the operator rendered, before the API server added its defaults."""

    hash: str
    body: Manifest


def template(cluster: Cluster, default_image: str) -> Template:
    """What the spec asks for."""
    metadata = {"labels": names.labels(cluster.name), "annotations": SCRAPED}
    body = {"metadata": metadata, "spec": _pod(cluster, default_image)}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return Template(hashlib.sha256(text.encode()).hexdigest()[:16], body)


def statefulset(cluster: Cluster, replicas: int, template: Template, live: Manifest | None) -> Manifest:
    """`replicas` is the diagnosis's, which knows about membership; `live` is the existing object, if any.

    The mark of what was applied counts the template by its hash: the live one, kept, is no difference.
    """
    fixed = live["spec"] if live is not None else {}
    spec = {
        "replicas": replicas,
        "serviceName": fixed.get("serviceName", names.peers_service(cluster.name)),
        "podManagementPolicy": fixed.get("podManagementPolicy", "Parallel"),
        "selector": fixed.get("selector", {"matchLabels": names.selector(cluster.name)}),
        "updateStrategy": {"type": "OnDelete"},
        # The StatefulSet never deletes a volume: the operator does, once the membership is committed.
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "volumeClaimTemplates": _claims(fixed.get("volumeClaimTemplates"), cluster),
        "template": template.hash,
    }
    manifest = child(cluster, "apps/v1", "StatefulSet", cluster.name, spec=spec)
    manifest["spec"]["template"] = template.body
    manifest["metadata"]["annotations"][names.TEMPLATE_ANNOTATION] = template.hash
    return manifest


def claims_outlived(cluster: Cluster, live: Manifest) -> bool:
    """Would the volumes that this StatefulSet makes from now on be smaller than asked for, or another object's?"""
    for claim in live["spec"].get("volumeClaimTemplates", []):
        size = claim["spec"]["resources"]["requests"]["storage"]
        made_for = claim["metadata"].get("labels", {}).get(names.CLUSTER_UID_LABEL)
        if quantity(size) < quantity(cluster.spec.storage.size) or made_for != cluster.uid:
            return True
    return False


def _claims(live: list[Manifest] | None, cluster: Cluster) -> list[Manifest]:
    if live is not None:
        return [{key: value for key, value in claim.items() if key != "status"} for claim in live]
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": cluster.spec.storage.size}},
    }
    if cluster.spec.storage.storage_class_name is not None:
        spec["storageClassName"] = cluster.spec.storage.storage_class_name
    labels = {**names.labels(cluster.name), names.CLUSTER_UID_LABEL: cluster.uid}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "labels": labels},
            "spec": spec,
        }
    ]


def _pod(cluster: Cluster, default_image: str) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                # Preferred, so that five members still fit on three nodes.
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "nodeTaintsPolicy": "Honor",
                "labelSelector": {"matchLabels": names.selector(cluster.name)},
            }
        ],
        "containers": [_container(cluster, default_image)],
        "volumes": [
            {"name": "token", "secret": {"secretName": names.admin_secret(cluster.name), "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(cluster: Cluster, default_image: str) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "oarlock",
        "image": cluster.spec.image or default_image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "serve",
            "--name=$(POD_NAME)",
            "--data-dir=/data",
            f"--listen-client=0.0.0.0:{names.CLIENT_PORT}",
            f"--listen-peer=0.0.0.0:{names.PEER_PORT}",
            f"--listen-ops=0.0.0.0:{names.OPS_PORT}",
            f"--client-url={names.client_url(cluster.name, cluster.namespace, '$(POD_NAME)')}",
            f"--peer-url={names.peer_url(cluster.name, cluster.namespace, '$(POD_NAME)')}",
            "--advertise-ip=$(POD_IP)",
            "--pod-uid=$(POD_UID)",
            "--cluster-token-file=/etc/oarlock/token/token",
        ],
        "env": [
            _field("POD_NAME", "metadata.name"),
            _field("POD_UID", "metadata.uid"),
            _field("POD_IP", "status.podIP"),
        ],
        "ports": [
            {"name": "client", "containerPort": names.CLIENT_PORT, "protocol": "TCP"},
            {"name": "peer", "containerPort": names.PEER_PORT, "protocol": "TCP"},
            {"name": "ops", "containerPort": names.OPS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("startup", period=2, timeout=2, failures=150),
        "readinessProbe": _probe("ready", period=2, timeout=2, failures=2),
        "livenessProbe": _probe("live", period=10, timeout=5, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "token", "mountPath": "/etc/oarlock/token", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    resources = cluster.spec.resources
    if resources is not None:
        container["resources"] = resources.model_dump(by_alias=True, exclude_none=True)
    return container


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(which: str, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/healthz/{which}", "port": "ops", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }
