#!/usr/bin/env python3
"""Everything that is generated and checked in: the CRD (from the models), docs/crd.md, the values in docs/helm.md,
manifests/install.yaml, and the Grafana dashboard in the chart and as a manifest.

    render.py --write     write them
    render.py --check     say which differ, and fail

install.yaml is the chart, rendered by real Helm with default values, behind the Namespace it goes to; without the
dashboard, which is a manifest of its own, and without the hooks of `helm test`, which `kubectl apply` would just run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from charts.dashboards import oarlock as dashboard  # noqa: E402
from tests.tools import helm, reference, values  # noqa: E402

from oarlock_operator import crd  # noqa: E402

NAMESPACE = "oarlock-system"
CHART = ROOT / "charts/oarlock-operator"
KUBE_VERSION = "1.36.3"

HEAD = f"""\
# Rendered from charts/oarlock-operator by tests/tools/render.py. Do not edit.
#
#   kubectl apply -f install.yaml
#
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def install() -> str:
    """manifests/install.yaml."""
    command = [helm.path(), "template", "oarlock-operator", CHART, "--namespace", NAMESPACE]
    done = subprocess.run(
        [*map(str, command), "--kube-version", KUBE_VERSION, "--skip-tests", "--set", "dashboard.configMap=false"],
        check=True,
        capture_output=True,
        text=True,
    )
    return HEAD + done.stdout


def page() -> str:
    """docs/crd.md: the tables are made anew, the rest stays."""
    return reference.fill((ROOT / "docs/crd.md").read_text())


def helm_page() -> str:
    """docs/helm.md: its tables are made anew, the rest stays."""
    return values.fill((ROOT / "docs/helm.md").read_text())


def main(arguments: list[str]) -> int:
    if arguments not in (["--write"], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    # In this order: Helm reads the CRD from the chart's files.
    for file, render in (
        (CHART / "files/raftclusters.yaml", crd.render),
        (ROOT / "docs/crd.md", page),
        (ROOT / "docs/helm.md", helm_page),
        (CHART / "files/dashboards/oarlock.json", dashboard.render),
        (ROOT / "manifests/grafana-dashboard.yaml", lambda: dashboard.config_map(dashboard.render())),
        (ROOT / "manifests/install.yaml", install),
    ):
        text = render()
        if file.exists() and file.read_text() == text:
            continue
        if arguments == ["--write"]:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        else:
            stale.append(file)
    for file in stale:
        print(f"{file.relative_to(ROOT)} is stale: run tests/tools/render.py --write", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
