"""The chart by real Helm: lint, a matrix of values, what is checked in, and that its roles are what the code uses."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from tests.charts.rendering import MONITORING, OPERATOR, REFUSED, ROOT, manifests, notes, restricted, run
from tests.operator.worlds import world

from oarlock_operator import kube, names
from oarlock_operator.resources import services

POD = "Pod/op-oarlock-operator-test"
CONFIG = "ConfigMap/op-oarlock-operator-dashboard"
MONITORS = {"ServiceMonitor/op-oarlock-operator", "PodMonitor/op-oarlock-operator-members"}


def render(*flags: object, **values: Any) -> dict[str, Any]:
    return manifests(OPERATOR, *flags, **values)


def test_what_is_generated_is_what_is_checked_in() -> None:
    """CRD from the models, docs/crd.md from the CRD, install.yaml from the chart."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/tools/render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lint_is_strict_and_clean() -> None:
    done = run("lint", "--strict", OPERATOR)
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
        "metrics.podMonitor=Sometimes",
        "metrics.serviceMonitor=true",
        "metrics.scrapeAnnotations=1",
        "dashboard.configMap=Auto",
        "dashboard.labels.a=1",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = run("template", "op", OPERATOR, "--set", wrong)
    assert done.returncode != 0
    assert REFUSED in done.stderr


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
    assert restricted(pod)
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
    rules = [rule for m in render().values() if m["kind"] == "ClusterRole" for rule in m["rules"]]
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
    assert granted.keys() == used | {("oarlock.dev", "raftclusters/status"), ("", "pods/eviction")}
    assert granted[("", "secrets")] == {"get", "create"}
    assert not any("*" in verbs for verbs in granted.values())
    assert not granted[("", "pods")] & {"create", "patch", "update"}


def test_nothing_is_monitored_where_nobody_serves_monitors() -> None:
    assert not MONITORS & render().keys()


def test_monitors_come_with_their_kinds_and_choose_what_is_there() -> None:
    made = render("--api-versions", MONITORING, metrics__monitorLabels={"release": "prometheus"})
    assert made.keys() >= MONITORS
    for name in MONITORS:
        assert made[name]["metadata"]["labels"]["release"] == "prometheus"
    service = made["Service/op-oarlock-operator-metrics"]
    pod = made["Deployment/op-oarlock-operator"]["spec"]["template"]
    monitor = made["ServiceMonitor/op-oarlock-operator"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [e["port"] for e in monitor["endpoints"]] == [p["name"] for p in service["spec"]["ports"]]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= made[POD]["metadata"]["labels"].items(), "the test is no operator"


def test_members_are_found_by_the_label_and_port_that_the_operator_gives_them() -> None:
    """Both are names in the operator's code."""
    monitor = render(metrics__podMonitor="Always")["PodMonitor/op-oarlock-operator-members"]["spec"]
    assert monitor["selector"] == {"matchExpressions": [{"key": names.CLUSTER_LABEL, "operator": "Exists"}]}
    ports = {port["targetPort"]: port["port"] for port in services.peers_service(world().cluster)["spec"]["ports"]}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert ports[endpoint["port"]] == names.OPS_PORT


def test_in_one_namespace_nothing_looks_at_another() -> None:
    made = render(watchNamespace="one", metrics__podMonitor="Always")
    assert made["PodMonitor/op-oarlock-operator-members"]["spec"]["namespaceSelector"] == {"matchNames": ["one"]}
    assert made[POD]["spec"]["containers"][0]["args"][1] == "one"
    said = notes(OPERATOR, watchNamespace="one")
    assert "of namespace one alone" in said
    assert "kubectl -n one get raftcluster three" in said


def test_monitors_can_be_forced_and_forbidden() -> None:
    assert render(metrics__podMonitor="Always", metrics__serviceMonitor="Always").keys() >= MONITORS
    never = {"metrics__podMonitor": "Never", "metrics__serviceMonitor": "Never"}
    assert not MONITORS & render("--api-versions", MONITORING, **never).keys()


def test_scrape_annotations_name_the_port_and_can_be_left_out() -> None:
    def annotations(**values: Any) -> dict[str, str] | None:
        made: dict[str, str] | None = render(**values)["Deployment/op-oarlock-operator"]["spec"]["template"][
            "metadata"
        ].get("annotations")
        return made

    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/metrics"}
    assert annotations() == scraped
    assert annotations(podAnnotations={"a": "b"}) == {**scraped, "a": "b"}
    assert annotations(metrics__scrapeAnnotations=False) is None


def test_the_dashboard_is_a_config_map_that_the_sidecar_finds() -> None:
    """As it is in its file: Grafana's braces are no template."""
    made = render(dashboard__annotations={"grafana_folder": "Raft"})[CONFIG]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Raft"}
    text = (OPERATOR / "files/dashboards/oarlock.json").read_text()
    assert made["data"] == {"oarlock.json": text.removesuffix("\n")}
    assert CONFIG not in render(dashboard__configMap=False)


def test_the_helm_test_is_an_unprivileged_hook_with_the_operators_own_account() -> None:
    made = render(image__digest=f"sha256:{'1' * 64}", serviceAccount__name="mine", image__pullSecrets=[{"name": "s"}])
    pod = made[POD]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert restricted(pod["spec"])
    assert pod["spec"]["serviceAccountName"] == "mine"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "s"}]
    operator = made["Deployment/op-oarlock-operator"]["spec"]["template"]["spec"]["containers"][0]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == operator["image"]
    assert container["args"] == ["http://op-oarlock-operator-metrics:8080/healthz", ""]
    compile(container["command"][2], "served.py", "exec")


def test_long_release_names_make_names_that_a_service_may_have() -> None:
    made = manifests(OPERATOR, "--api-versions", MONITORING, release="r" * 53)
    roles = ("ClusterRole", "ClusterRoleBinding")  # their names may be longer
    assert all(len(m["metadata"]["name"]) <= 63 for m in made.values() if m["kind"] not in roles)
    assert len(made) == len(render("--api-versions", MONITORING)), "no two have one name"


def test_notes_say_what_to_do_next() -> None:
    said = notes(OPERATOR)
    assert "kubectl get raftcluster three" in said
    assert "is kept when this release is uninstalled" in said
    assert "crds.install is off" in notes(OPERATOR, crds__install=False)
    assert "helm -n ns test op" in said


def test_install_yaml_holds_no_test_and_no_monitor() -> None:
    """A hook is nothing special to `kubectl apply`: it would just run."""
    made = list(yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text()))
    assert not any("helm.sh/hook" in m["metadata"].get("annotations", {}) for m in made)
    assert {"Pod", "PodMonitor", "ServiceMonitor", "ConfigMap"}.isdisjoint(m["kind"] for m in made)


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
