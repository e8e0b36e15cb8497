"""Both charts by real Helm, as objects."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.tools import helm

ROOT = Path(__file__).resolve().parents[2]
OPERATOR, CLUSTER = ROOT / "charts/oarlock-operator", ROOT / "charts/oarlock-cluster"
MONITORING = "monitoring.coreos.com/v1"
REFUSED = "values don't meet the specifications of the schema"

Object = dict[str, Any]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(helm.path()), *map(str, arguments)], capture_output=True, text=True, check=False)


def sets(values: dict[str, Any]) -> list[str]:
    """Helm's flags for values by dotted name; two underscores are a dot."""
    return [f"--set-json={key.replace('__', '.')}={json.dumps(value)}" for key, value in values.items()]


def template(chart: Path, *flags: object, release: str = "op", namespace: str = "ns", **values: Any) -> str:
    """What Helm renders; raises AssertionError with what it says."""
    done = run("template", release, chart, "--namespace", namespace, *flags, *sets(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(chart: Path, *flags: object, release: str = "op", **values: Any) -> dict[str, Object]:
    """Manifests by "Kind/name"."""
    text = template(chart, *flags, release=release, **values)
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in yaml.safe_load_all(text) if m}


def notes(chart: Path, release: str = "op", **values: Any) -> str:
    """What `helm install` says at the end."""
    done = run("install", release, chart, "--dry-run=client", "--namespace", "ns", *sets(values))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def crd() -> Object:
    made: Object = yaml.safe_load((OPERATOR / "files/raftclusters.yaml").read_text())
    return made


def restricted(pod: Object) -> bool:
    """Does this pod's spec keep Pod Security "restricted", and write to no root file system?"""
    security = pod["securityContext"]
    return (
        security["runAsNonRoot"] is True
        and security["seccompProfile"] == {"type": "RuntimeDefault"}
        and not any(key in pod for key in ("hostNetwork", "hostPID", "hostIPC"))
        and not any("hostPath" in volume for volume in pod.get("volumes", []))
        and all(
            container["securityContext"]
            == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for container in [*pod.get("initContainers", []), *pod["containers"]]
        )
    )
