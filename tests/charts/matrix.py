"""Value sets that both charts must render well: nothing, everything, and as little as may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.charts.rendering import CLUSTER, OPERATOR

FULL: dict[str, Any] = {
    "image": {
        "repository": "r:5000/op",
        "digest": f"sha256:{'0' * 64}",
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "s"}],
    },
    "nodeImage": {"repository": "r:5000/node", "tag": "9"},
    "log": {"format": "console", "level": "DEBUG"},
    "serviceAccount": {"name": "mine", "annotations": {"a": "b"}},
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "x", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
    "metrics": {"serviceMonitor": "Always", "podMonitor": "Always", "monitorLabels": {"a": "b"}},
    "dashboard": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
}
MATRIX: dict[str, tuple[Path, dict[str, Any]]] = {
    "operator": (OPERATOR, {}),
    "operator, all values": (OPERATOR, FULL),
    "operator, one namespace": (OPERATOR, {"watchNamespace": "default", "rbac__readNodes": False}),
    "operator, as little as may be": (
        OPERATOR,
        {
            "crds__install": False,
            "dashboard__configMap": False,
            "metrics__scrapeAnnotations": False,
            "resources": None,
        },
    ),
    "cluster": (CLUSTER, {}),
    "cluster, all values": (
        CLUSTER,
        {
            "name": "mine",
            "replicas": 9,
            "image": {"repository": "r:5000/node", "tag": "9"},
            "storage": {
                "size": "1.5Ti",
                "storageClassName": "fast",
                "retention": {"whenDeleted": "Delete", "whenScaled": "Delete"},
            },
            "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "snapshots": {"entries": 100, "intervalSeconds": 30},
            "annotations": {"oarlock.dev/paused": "true"},
            "test": {"image": "r/x:1", "pullSecrets": [{"name": "s"}]},
        },
    ),
    "cluster, as little as may be": (CLUSTER, {"storage__retention": None, "resources": None, "snapshots": None}),
}
