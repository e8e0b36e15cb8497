"""Whatever the charts render, Kubernetes 1.34 to 1.37 know: kubeconform, strictly, over a matrix of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.charts.rendering import CLUSTER, MONITORING, OPERATOR, ROOT, crd, template
from tests.tools import conform

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


@pytest.mark.parametrize("kubernetes", conform.KUBERNETES)
@pytest.mark.parametrize(("chart", "values"), MATRIX.values(), ids=MATRIX.keys())
def test_charts_conform(chart: Path, values: dict[str, Any], kubernetes: str) -> None:
    rendered = template(chart, "--kube-version", kubernetes, **values)
    assert conform.conforms(rendered, kubernetes, crd()) == ""


@pytest.mark.parametrize("kubernetes", conform.KUBERNETES)
def test_manifests_conform(kubernetes: str) -> None:
    files = sorted((ROOT / "manifests").rglob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        assert conform.conforms(file.read_text(), kubernetes, crd()) == "", file


def test_monitors_are_what_the_prometheus_operator_reads() -> None:
    assert conform.monitors(template(OPERATOR, "--api-versions", MONITORING)) == 2
    assert conform.monitors(template(OPERATOR, **FULL)) == 2
    assert conform.monitors(template(OPERATOR)) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [("serviceAccountName:", "serviceAcountName:"), ("replicas: 1", 'replicas: "one"')],
)
@pytest.mark.parametrize("kubernetes", conform.KUBERNETES)
def test_a_misspelt_manifest_does_not_conform(kubernetes: str, before: str, after: str) -> None:
    rendered = template(OPERATOR)
    assert before in rendered
    assert "Deployment" in conform.conforms(rendered.replace(before, after), kubernetes, crd())


@pytest.mark.parametrize(("before", "after"), [("size:", "sise:"), ("whenScaled: Retain", "whenScaled: Keep")])
def test_a_field_that_the_crd_lacks_does_not_conform(before: str, after: str) -> None:
    rendered = template(CLUSTER)
    assert before in rendered
    assert "RaftCluster" in conform.conforms(rendered.replace(before, after), conform.KUBERNETES[-1], crd())


@pytest.mark.parametrize(("before", "after"), [("matchLabels:", "matchLabel:"), ("any: true", "any: all")])
def test_a_misspelt_monitor_is_found(before: str, after: str) -> None:
    monitors = template(OPERATOR, "--show-only", "templates/monitors.yaml", "--api-versions", MONITORING)
    assert before in monitors
    with pytest.raises(ValueError, match="Monitor"):
        conform.monitors(monitors.replace(before, after))
