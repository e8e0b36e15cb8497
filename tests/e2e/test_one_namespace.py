"""An operator with rights in one namespace alone carries a cluster through its life, and is refused nothing there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml
from tests.charts.rendering import OPERATOR, template
from tests.e2e import audit
from tests.e2e.cluster import ROOT, Kubernetes, until
from tests.e2e.raftcluster import RaftCluster

HOME, WATCHED = "one-home", "one"
ACCOUNT = f"system:serviceaccount:{HOME}:op-oarlock-operator"


@pytest.fixture(scope="module")
def one(kube: Kubernetes) -> Iterator[Kubernetes]:
    """No other operator runs meanwhile: whichever holds the Lease does the work."""
    kube.kubectl("apply", "-f", ROOT / "manifests/install.yaml")
    kube.kubectl("wait", "--for=condition=established", "crd/raftclusters.oarlock.dev", "--timeout=30s")
    everywhere = ("scale", "deployment/oarlock-operator", "-n", "oarlock-system")
    kube.kubectl(*everywhere, "--replicas=0")
    operators = ("pod", "-l", "app.kubernetes.io/name=oarlock-operator", "-n", "oarlock-system")
    kube.kubectl("wait", "--for=delete", *operators, "--timeout=60s")
    for name in (HOME, WATCHED):
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    values = {"watchNamespace": WATCHED, "rbac__readNodes": False, "crds__install": False}
    kube.kubectl("apply", "-f", "-", stdin=rendered(**values))
    yield kube
    kube.kubectl("delete", "namespace", WATCHED, HOME, "--wait=false")
    kube.kubectl(*everywhere, "--replicas=1")


def rendered(**values: object) -> str:
    """The chart without its hooks, as `kubectl apply` takes it."""
    return template(OPERATOR, "--no-hooks", namespace=HOME, **values)


def test_a_whole_life_with_rights_in_one_namespace(one: Kubernetes) -> None:
    spec = {"replicas": 1, "storage": {"size": "1Gi"}}
    meta = {"name": "only", "namespace": WATCHED}
    one.apply({"apiVersion": "oarlock.dev/v1alpha1", "kind": "RaftCluster", "metadata": meta, "spec": spec})
    only = RaftCluster(one, "only", WATCHED)
    only.wait_available(120)
    one.kubectl("scale", "raftcluster", "only", "-n", WATCHED, "--replicas=3")
    only.wait_members(3, 120)
    request = f"now-{time.time():.0f}"
    one.kubectl("annotate", "raftcluster", "only", "-n", WATCHED, f"oarlock.dev/snapshot-now={request}")
    until("snapshots", lambda: only.get()["status"].get("snapshotNow") == request, 60)
    taken = {m["pod"]: m["lastSnapshot"] for m in only.get()["status"]["members"]}
    assert all(last["index"] > 0 and not last["failure"] for last in taken.values()), taken
    assert taken.keys() == {"only-0", "only-1", "only-2"}
    for pod in taken:
        assert only.admin(pod, "GET", "/admin/status")["snapshot"]["index"] >= taken[pod]["index"]

    roles = list(yaml.safe_load_all(rendered(watchNamespace=WATCHED, rbac__readNodes=False)))
    assert not [m for m in roles if m and m["kind"] == "ClusterRole"]
    found = audit.report(one.state / "audit.log", audit.rules_of(roles), [ACCOUNT])
    print(f"{found.requests} requests; not used here: {', '.join(map(str, found.unused))}")
    assert found.requests > 20
    # A pod that has not answered yet: it asks whether its Node is gone, may not, and goes on.
    beyond = ("list nodes ", "get persistentvolumes ")
    assert [refusal for refusal in found.refusals if not refusal.startswith(beyond)] == []
