"""`helm template | kubectl apply --dry-run=server`: a real API server takes what both charts render, unwarned."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.charts.matrix import MATRIX
from tests.charts.rendering import CLUSTER, template
from tests.e2e.cluster import Kubernetes

UNSERVED = {"metrics__serviceMonitor": "Never", "metrics__podMonitor": "Never"}
"""There is no Prometheus operator here. The charts' tier decodes monitors into its types."""


def dry_run(kube: Kubernetes, rendered: str) -> subprocess.CompletedProcess[str]:
    command = kube.command("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-")
    return subprocess.run(command, input=rendered, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("chart", "values"), MATRIX.values(), ids=MATRIX.keys())
def test_the_api_server_takes_it(installed: Kubernetes, chart: Path, values: dict[str, Any]) -> None:
    """Without the hooks, whose pods want their accounts to be there already; scenarios/helm.py runs those."""
    own = values if chart == CLUSTER else {key: v for key, v in values.items() if key != "metrics"} | UNSERVED
    done = dry_run(installed, template(chart, "--skip-tests", namespace="default", **own))
    assert done.returncode == 0, done.stderr
    assert "raftcluster" in done.stdout or "deployment" in done.stdout


def test_a_field_that_is_misspelt_is_refused(installed: Kubernetes) -> None:
    rendered = template(CLUSTER, "--skip-tests", namespace="default").replace("size:", "sise:")
    done = dry_run(installed, rendered)
    assert done.returncode != 0
    assert 'unknown field "spec.storage.sise"' in done.stderr
