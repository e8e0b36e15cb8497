"""Both charts by real Helm on a real Kubernetes: taken over, tested, upgraded, uninstalled in either order, installed
again under other names. The tests of this file run in order, as a person would go on.

Before them `kubectl apply` had installed an operator; after them it has again.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.charts.rendering import CLUSTER, OPERATOR
from tests.e2e import operators
from tests.e2e.cluster import NEXT, Kubernetes, Object, until
from tests.e2e.raftcluster import RaftCluster
from tests.tools.helm import path

KEYS = "helm-keys"  # the namespace of the clusters, where Pod Security is restricted
ELSEWHERE = "helm-elsewhere"  # a second namespace for the operator
TAKE_OVER = ("--take-ownership", "--force-conflicts")  # kubectl holds the fields that it once applied
GONE_SECONDS = 60.0
ROLL_SECONDS = 240.0


class Helm:
    def __init__(self, kube: Kubernetes) -> None:
        self.kube = kube

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [path(), f"--kubeconfig={self.kube.kubeconfig}", *arguments]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)

    def __call__(self, *arguments: object) -> str:
        """What it said; raises AssertionError with all of it."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install_operator(self, release: str, namespace: str, *flags: object) -> str:
        return self("install", release, OPERATOR, "-n", namespace, "--wait", "--timeout=90s", *flags)

    def install_cluster(self, release: str, *flags: object, chart: Path = CLUSTER) -> str:
        return self("install", release, chart, "-n", KEYS, "--set=storage.size=1Gi", *flags)


@pytest.fixture(scope="module")
def by_helm(installed: Kubernetes, newer: dict[str, str]) -> Iterator[Helm]:
    for name in (KEYS, ELSEWHERE):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    helm = Helm(installed)
    yield helm
    for left in json.loads(helm("list", "-A", "-o", "json")):
        helm("uninstall", left["name"], "-n", left["namespace"])
    operators.install(installed)


@pytest.fixture(scope="module")
def db(by_helm: Helm) -> RaftCluster:
    return RaftCluster(by_helm.kube, "db", KEYS)


def put(cluster: RaftCluster, key: str, value: str) -> None:
    run(cluster, "put", key, value)


def get(cluster: RaftCluster, key: str) -> str:
    return run(cluster, "get", key).strip()


def run(cluster: RaftCluster, *arguments: str) -> str:
    where = ("exec", "-n", cluster.namespace, f"{cluster.name}-0", "--", "oarlock")
    return cluster.kube.kubectl(*where, *arguments, "--endpoint", f"http://{cluster.name}:2379")


def left(kube: Kubernetes, namespace: str) -> list[str]:
    """What must go with a cluster."""
    kinds = "raftclusters,statefulsets,pods,services,poddisruptionbudgets,secrets,leases,networkpolicies,roles"
    items: list[Object] = kube.get(kinds, "-n", namespace)["items"]
    named = [f"{item['kind']}/{item['metadata']['name']}" for item in items]
    return [name for name in named if not name.startswith("Secret/sh.helm.release")]


def wait_gone(kube: Kubernetes, namespace: str) -> None:
    until(f"nothing is left in {namespace}", lambda: not left(kube, namespace), GONE_SECONDS)


def test_what_kubectl_applied_is_taken_over_when_told_so(by_helm: Helm) -> None:
    """In place: under the name that install.yaml has, it is the same Deployment. Where values differ, Helm's hold."""
    kube, where = by_helm.kube, ("deployment", "oarlock-operator", "-n", operators.NAMESPACE)
    before = kube.get(*where)["metadata"]["uid"]
    refused = by_helm.run("install", "oarlock-operator", OPERATOR, "-n", operators.NAMESPACE)
    assert refused.returncode != 0
    assert "take-ownership" in refused.stderr or "ownership metadata" in refused.stderr
    assert "helm -n oarlock-system test oarlock-operator" in by_helm.install_operator(
        "oarlock-operator", operators.NAMESPACE, *TAKE_OVER, "--set=log.level=DEBUG"
    )
    assert kube.get(*where)["metadata"]["uid"] == before
    said = by_helm("test", "oarlock-operator", "-n", operators.NAMESPACE, "--logs")
    assert "Phase:" in said
    assert "Succeeded" in said


def test_a_cluster_is_installed_and_tested(by_helm: Helm, db: RaftCluster) -> None:
    said = by_helm.install_cluster("db")
    assert f"kubectl -n {KEYS} wait raftcluster/db" in said
    assert "Succeeded" in by_helm("test", "db", "-n", KEYS)
    db.wait_members(3, 60)
    put(db, "greeting", "hello")
    assert get(db, "greeting") == "hello"


def test_an_upgrade_after_a_scale_changes_the_version_and_not_the_number(by_helm: Helm, db: RaftCluster) -> None:
    db.scale(5)
    db.wait_members(5, 120)
    by_helm("upgrade", "db", CLUSTER, "-n", KEYS, "--reuse-values", f"--set-string=image.tag={NEXT}")
    assert db.get()["spec"]["replicas"] == 5
    until(f"every voter runs {NEXT}", lambda: db.get()["status"].get("version") == NEXT, ROLL_SECONDS)
    db.wait_members(5, 60)
    assert get(db, "greeting") == "hello"
    assert "Succeeded" in by_helm("test", "db", "-n", KEYS)


def test_uninstalled_operator_first_nothing_is_stuck_and_the_data_stays(by_helm: Helm, db: RaftCluster) -> None:
    """With nobody to help: no finalizer waits for an operator."""
    kube, kept = db.kube, db.claims().keys()
    assert len(kept) == 5
    by_helm("uninstall", "oarlock-operator", "-n", operators.NAMESPACE, "--wait", "--timeout=60s")
    assert kube.find("crd", "raftclusters.oarlock.dev"), "and with it every cluster"
    assert get(db, "greeting") == "hello", "members need no operator"
    by_helm("uninstall", "db", "-n", KEYS, "--wait", "--timeout=60s")
    wait_gone(kube, KEYS)
    assert db.claims().keys() == kept


def test_installed_again_under_other_names_it_has_its_keys(by_helm: Helm, db: RaftCluster) -> None:
    """The operator in another namespace, where the CRD is still the first release's."""
    refused = by_helm.run("install", "second", OPERATOR, "-n", ELSEWHERE)
    assert refused.returncode != 0
    assert "ownership metadata" in refused.stderr
    by_helm.install_operator("second", ELSEWHERE, *TAKE_OVER)
    assert "Succeeded" in by_helm("test", "second", "-n", ELSEWHERE)

    by_helm.install_cluster("again", "--set=name=db,replicas=5", f"--set-string=image.tag={NEXT}")
    assert "Succeeded" in by_helm("test", "again", "-n", KEYS)
    db.wait_members(5, 120)
    assert get(db, "greeting") == "hello"


def test_a_scale_of_what_helm_owns_is_a_conflict_at_the_next_upgrade(by_helm: Helm, db: RaftCluster) -> None:
    """As the values say of replicas; and what the notes advise works."""
    db.scale(3)
    again = ("upgrade", "again", CLUSTER, "-n", KEYS, "--reuse-values")
    refused = by_helm.run(*again)
    assert refused.returncode != 0
    assert "conflict with" in refused.stderr
    assert ".spec.replicas" in refused.stderr
    by_helm(*again, "--set=replicas=3")
    db.wait_members(3, 120)


def test_uninstalled_cluster_first_nothing_is_stuck_and_volumes_go_if_asked(by_helm: Helm, db: RaftCluster) -> None:
    kube = db.kube
    by_helm("upgrade", "again", CLUSTER, "-n", KEYS, "--reuse-values", "--set=storage.retention.whenDeleted=Delete")
    claimed = ("pvc", "data-db-0", "-n", KEYS)
    until("the volumes have an owner", lambda: kube.get(*claimed)["metadata"].get("ownerReferences"), 60)
    by_helm("uninstall", "again", "-n", KEYS, "--wait", "--timeout=60s")
    wait_gone(kube, KEYS)
    until(
        "the members' volumes are gone",
        lambda: not db.claims().keys() & {f"data-db-{n}" for n in range(3)},
        GONE_SECONDS,
    )
    by_helm("uninstall", "second", "-n", ELSEWHERE, "--wait", "--timeout=60s")
    wait_gone(kube, ELSEWHERE)
    kube.kubectl("delete", "namespace", KEYS, ELSEWHERE, "--timeout=90s")
