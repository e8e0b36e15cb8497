"""The chart by real Helm: lint, a matrix of values, what is checked in, and that its roles are what the code uses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools import helm

from oarlock_operator import kube

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/oarlock-operator"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(helm.path()), *map(str, arguments)], capture_output=True, text=True, check=False)


def render(**values: Any) -> dict[str, Any]:
    """Manifests by "Kind/name"."""
    sets = [f"--set-json={key.replace('__', '.')}={json.dumps(value)}" for key, value in values.items()]
    done = run("template", "op", CHART, "--namespace", "ns", *sets)
    assert done.returncode == 0, done.stderr
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in yaml.safe_load_all(done.stdout) if m}


def test_what_is_generated_is_what_is_checked_in() -> None:
    """CRD from the models, docs/crd.md from the CRD, install.yaml from the chart."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/tools/render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lint_is_strict_and_clean() -> None:
    done = run("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        "image.pullPolicy=Sometimes",
        "crds.install=maybe",
        "imag.tag=1",
        "image.digest=sha256:12",
        "log.level=LOUD",
        "resources.requets.cpu=1",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = run("template", "op", CHART, "--set", wrong)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_the_crd_is_kept_and_can_be_left_out() -> None:
    made = render()["CustomResourceDefinition/raftclusters.oarlock.dev"]
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "CustomResourceDefinition/raftclusters.oarlock.dev" not in render(crds__install=False)


def test_the_operator_pod() -> None:
    deployment = render()["Deployment/op-oarlock-operator"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == "oarlock/operator:0.1.0"
    assert {"name": "OARLOCK_OPERATOR_NODE_IMAGE", "value": "oarlock/node:0.1.0"} in container["env"]
    waits = {t["key"]: t["tolerationSeconds"] for t in pod["tolerations"]}
    assert waits["node.kubernetes.io/unreachable"] == 20


def test_values_reach_the_pod() -> None:
    digest = f"sha256:{'0' * 64}"
    made = render(
        image__digest=digest,
        image__repository="r/op",
        nodeImage__tag="9.9.9",
        podLabels={"team": "a"},
        priorityClassName="high",
        tolerations=[{"key": "x", "operator": "Exists"}],
        serviceAccount__name="mine",
    )
    spec = made["Deployment/op-oarlock-operator"]["spec"]["template"]
    (container,) = spec["spec"]["containers"]
    assert container["image"] == f"r/op@{digest}"
    assert {"name": "OARLOCK_OPERATOR_NODE_IMAGE", "value": "oarlock/node:9.9.9"} in container["env"]
    assert spec["metadata"]["labels"]["team"] == "a"
    assert spec["spec"]["priorityClassName"] == "high"
    assert {"key": "x", "operator": "Exists"} in spec["spec"]["tolerations"]
    assert spec["spec"]["serviceAccountName"] == "mine"
    assert made["ClusterRoleBinding/op-oarlock-operator"]["subjects"][0]["name"] == "mine"
    assert "ServiceAccount/mine" in made


def test_the_role_is_no_wider_than_the_code() -> None:
    """Each kind that the port can name, and no other; Secrets are never listed; nothing has a wildcard."""
    rules = render()["ClusterRole/op-oarlock-operator"]["rules"]
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    used = set()
    for prefix, plural in kube._PATHS.values():
        group = match[1] if (match := re.fullmatch(r"/apis/([^/]+)/.*", prefix)) else ""
        used.add((group, plural))
    assert granted.keys() == used | {("oarlock.dev", "raftclusters/status")}
    assert granted[("", "secrets")] == {"get", "create"}
    assert not any("*" in verbs for verbs in granted.values())
    assert not granted[("", "pods")] & {"create", "delete", "patch", "update"}


def test_notes_say_what_to_do_next() -> None:
    done = run("install", "op", CHART, "--dry-run=client", "--namespace", "ns")
    assert done.returncode == 0, done.stderr
    assert "kubectl get raftcluster three" in done.stdout


@pytest.mark.parametrize("sample", ["three", "single"])
def test_samples_say_nothing_that_the_crd_does_not_know(sample: str) -> None:
    (made,) = yaml.safe_load_all((ROOT / f"manifests/samples/{sample}.yaml").read_text())
    crd = render()["CustomResourceDefinition/raftclusters.oarlock.dev"]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def known(value: Any, node: dict[str, Any], path: str) -> None:
        if isinstance(value, dict) and "properties" in node:
            for key, child in value.items():
                assert key in node["properties"], f"{path}.{key}"
                known(child, node["properties"][key], f"{path}.{key}")

    known(made["spec"], schema, "spec")
    assert made["metadata"]["name"] == sample
