#!/usr/bin/env python3
"""Everything that is generated and checked in: the CRD (from the models), docs/crd.md, manifests/install.yaml, and the
Grafana dashboard in the chart and as a manifest.

    render.py --write     write them
    render.py --check     say which differ, and fail

install.yaml is the chart, rendered by real Helm with default values, behind the Namespace it goes to; without the
dashboard, which is a manifest of its own, and without the hooks of `helm test`, which `kubectl apply` would just run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from charts.dashboards import oarlock as dashboard  # noqa: E402
from tests.tools import helm  # noqa: E402

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


def reference() -> str:
    """docs/crd.md: each field of RaftCluster, from the same models."""
    version = crd.definition()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        "# RaftCluster: every field",
        "",
        "Generated from `operator/oarlock_operator/api` by `tests/tools/render.py`. Group `oarlock.dev`, version "
        "`v1alpha1`, short name `raft`.",
        "`metadata.name` is at most 40 characters: lower-case letters, digits and dashes, starting with a letter.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(*field) for field in _fields(part, schema[part])]
    columns = ", ".join(column["name"] for column in version["additionalPrinterColumns"])
    lines += ["", f"`kubectl get raft` prints: {columns}.", ""]
    return "\n".join(lines)


def _fields(prefix: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}"
        found.append((path, field))
        found += _fields(path, field)
        found += _fields(f"{path}[]", field.get("items", {}))
    return found


def _row(path: str, field: dict[str, Any]) -> str:
    kind = "quantity" if field.get("x-kubernetes-int-or-string") else field.get("type", "")
    if "additionalProperties" in field:
        kind = "map of quantities"
    if "enum" in field:
        kind = " or ".join(f"`{value}`" for value in field["enum"])
    if "minimum" in field and "maximum" in field:
        kind += f", {field['minimum']} to {field['maximum']}"
    default = field.get("default")
    shown = "" if default in (None, {}, [], "") else f"`{default}`"
    return f"| `{path}` | {kind} | {shown} | {' '.join(field.get('description', '').split())} |"


def main(arguments: list[str]) -> int:
    if arguments not in (["--write"], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    # In this order: Helm reads the CRD from the chart's files.
    for file, render in (
        (CHART / "files/raftclusters.yaml", crd.render),
        (ROOT / "docs/crd.md", reference),
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
