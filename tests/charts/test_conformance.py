"""Whatever the charts render, Kubernetes 1.34 to 1.37 know: kubeconform, strictly, over a matrix of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.charts.matrix import FULL, MATRIX
from tests.charts.rendering import CLUSTER, MONITORING, OPERATOR, ROOT, crd, template
from tests.tools import conform


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
