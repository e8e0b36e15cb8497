"""Resources that make no sense: refused by the API server, or said in a condition; corrected and deleted all the same.

Objects that need no pods are paused: the operator writes their status and nothing else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.cluster import ROOT, Kubernetes, Object, until
from tests.e2e.raftcluster import RaftCluster

NAMESPACE = "bad"
SMALL: Object = {"replicas": 1, "storage": {"size": "1Gi"}}
IMPOSSIBLE_CPU: Object = {"requests": {"cpu": "-1"}}

REFUSED_SPECS: list[tuple[Object, str]] = [
    ({"replicas": 0}, "spec.replicas"),
    ({"replicas": -1}, "spec.replicas"),
    ({"replicas": 10}, "spec.replicas"),
    ({"replicas": "three"}, "spec.replicas"),
    ({"storage": {"size": "banana"}}, "size must be a positive quantity"),
    ({"storage": {"size": ""}}, "size must be a positive quantity"),
    ({"storage": {"size": "0"}}, "size must be a positive quantity"),
    ({"storage": {"size": "-1Gi"}}, "size must be a positive quantity"),
    ({"storage": {"size": 10}}, "spec.storage.size"),
    ({"storage": {"retention": {"whenScaled": "Keep"}}}, "whenScaled"),
    ({"image": ""}, "spec.image"),
    ({"resources": {"requests": {"cpu": "much"}}}, "spec.resources.requests.cpu"),
    ({"snapshots": {"entries": 99}}, "spec.snapshots.entries"),
    ({"snapshots": {"intervalSeconds": 29}}, "spec.snapshots.intervalSeconds"),
    ({"replica": 3}, 'unknown field "replica"'),
    ({"storage": {"sise": "1Gi"}}, 'unknown field "sise"'),
]
REFUSED_NAMES = ["n" * 58, "n" * 41, "a.b", "1a"]

STORABLE_SPECS: list[Object] = [
    {},
    SMALL,
    {"replicas": 2, "storage": {"size": "0.5Gi", "storageClassName": "no-such-class"}},
    {"replicas": 9, "storage": {"size": "1e9", "storageClassName": ""}},
    {"replicas": 4, "image": "No Such Image", "snapshots": {"entries": 100, "intervalSeconds": 30}},
    {"replicas": 3, "storage": {"storageClassName": "Not A Name"}, "resources": IMPOSSIBLE_CPU},
    {"storage": {"retention": {"whenDeleted": "Delete", "whenScaled": "Delete"}}, "snapshots": {}},
]


def cluster(name: str, spec: Any, *, paused: bool = True) -> Object:
    annotations = {"oarlock.dev/paused": "true"} if paused else {}
    meta = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
    return {"apiVersion": "oarlock.dev/v1alpha1", "kind": "RaftCluster", "metadata": meta, "spec": spec}


def refusal(kube: Kubernetes, manifest: Object) -> str:
    """What the API server said; raises AssertionError when it said yes."""
    with pytest.raises(RuntimeError) as refused:
        kube.apply(manifest)
    return str(refused.value)


@pytest.fixture(scope="module")
def operated(kube: Kubernetes) -> Iterator[Kubernetes]:
    """With the operator, and a namespace for what is bad."""
    kube.kubectl("apply", "-f", ROOT / "manifests/install.yaml")
    kube.kubectl("wait", "--for=condition=established", "crd/raftclusters.oarlock.dev", "--timeout=30s")
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield kube
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def stored(operated: Kubernetes) -> str:
    operated.apply(cluster("stored", SMALL))
    return "stored"


@pytest.mark.parametrize(("spec", "word"), REFUSED_SPECS)
def test_refused_as_a_new_object_and_as_a_change(operated: Kubernetes, stored: str, spec: Object, word: str) -> None:
    assert word in refusal(operated, cluster("new", spec))
    assert word in refusal(operated, cluster(stored, spec))
    kept = operated.get("raftcluster", stored, "-n", NAMESPACE)["spec"]
    assert (kept["replicas"], kept["storage"]["size"]) == (1, "1Gi")


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_names_of_which_no_pod_could_be_made(operated: Kubernetes, name: str) -> None:
    assert "metadata.name must" in refusal(operated, cluster(name, SMALL))


def test_the_longest_name_is_allowed(operated: Kubernetes) -> None:
    operated.apply(cluster("n" * 40, SMALL))
    operated.kubectl("delete", "raftcluster", "n" * 40, "-n", NAMESPACE, "--timeout=30s")


def test_scale_is_held_to_the_same_bounds(operated: Kubernetes, stored: str) -> None:
    for replicas in (0, 10):
        with pytest.raises(RuntimeError, match=r"spec\.replicas"):
            operated.kubectl("scale", "raftcluster", stored, "-n", NAMESPACE, f"--replicas={replicas}")


def test_an_unknown_field_is_dropped_where_the_client_does_not_ask(operated: Kubernetes) -> None:
    text = json.dumps(cluster("lax", {**SMALL, "replica": 3}))
    operated.kubectl("apply", "--validate=ignore", "-f", "-", stdin=text)
    assert "replica" not in operated.get("raftcluster", "lax", "-n", NAMESPACE)["spec"]


def test_whatever_is_stored_can_be_changed_to_anything_else_described_and_deleted(operated: Kubernetes) -> None:
    """Every pair: stored, status written, changed, status written again (by the operator), a finalizer, deleted."""
    pairs = list(itertools.permutations(range(len(STORABLE_SPECS)), 2))
    names = [f"pair-{old}-{new}" for old, new in pairs]

    def told() -> bool:
        found = operated.get("raftclusters", "-n", NAMESPACE)["items"]
        mine = [one for one in found if one["metadata"]["name"] in names]
        assert len(mine) == len(names)
        return all(one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"] for one in mine)

    operated.apply(*(cluster(name, STORABLE_SPECS[old]) for name, (old, _) in zip(names, pairs, strict=True)))
    until("status of what was stored", told, 60)
    changed = [cluster(name, STORABLE_SPECS[new]) for name, (_, new) in zip(names, pairs, strict=True)]
    for one in changed:
        one["metadata"]["finalizers"] = ["example.com/held"]
    operated.apply(*changed)
    until("status of what was changed", told, 60)
    operated.kubectl("delete", "raftcluster", "-n", NAMESPACE, "--wait=false", *names)
    for name in names:  # an update of metadata alone is held to the rules of spec too
        release = ("--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        operated.kubectl("patch", "raftcluster", name, "-n", NAMESPACE, *release)

    def gone() -> bool:
        found = operated.get("raftclusters", "-n", NAMESPACE)["items"]
        return not [one for one in found if one["metadata"]["name"] in names]

    until("everything is gone", gone, 30)


def test_what_cannot_be_done_is_said_and_what_is_corrected_goes_on(operated: Kubernetes) -> None:
    """One life: refused resources, corrected; a shrink and another class, taken back; two members; deleted."""
    odd = RaftCluster(operated, "odd", NAMESPACE)

    def becomes(kind: str, status: str, reason: str, *words: str, seconds: float = 60) -> None:
        def so() -> bool:
            value, why = odd.condition(kind)
            return value == status and why.startswith(f"{reason}: ") and all(word in why for word in words)

        try:
            until(f"{kind}={status}/{reason}", so, seconds)
        except TimeoutError:
            raise AssertionError(f"{kind} is {odd.condition(kind)}, not {status}, {reason}") from None

    operated.apply(cluster("odd", {**SMALL, "resources": IMPOSSIBLE_CPU}, paused=False))
    becomes("Progressing", "False", "ReconcileError", "must be greater than or equal to 0")
    operated.apply(cluster("odd", SMALL, paused=False))
    odd.wait_available(90)
    becomes("Degraded", "False", "AllHealthy")

    operated.apply(cluster("odd", {**SMALL, "storage": {"size": "512Mi"}}, paused=False))
    becomes("Degraded", "True", "CannotShrinkVolumes", "data-odd-0")
    operated.apply(cluster("odd", {**SMALL, "storage": {"size": "1Gi", "storageClassName": "other"}}, paused=False))
    becomes("Degraded", "True", "StorageClassIgnored", "other is ignored")
    operated.apply(cluster("odd", SMALL, paused=False))
    becomes("Degraded", "False", "AllHealthy")
    assert odd.condition("Available")[0] == "True"

    operated.kubectl("scale", "raftcluster", "odd", "-n", NAMESPACE, "--replicas=2")
    odd.wait_members(2, 90)
    becomes("Degraded", "False", "EvenSize", "2 tolerate no failure", "3 would tolerate one more")
    operated.kubectl("delete", "raftcluster", "odd", "-n", NAMESPACE, "--timeout=60s")


def test_a_bad_one_is_deleted_without_being_corrected(operated: Kubernetes) -> None:
    operated.apply(cluster("never", {**SMALL, "resources": IMPOSSIBLE_CPU}, paused=False))
    never = RaftCluster(operated, "never", NAMESPACE)
    until("it is said", lambda: "ReconcileError" in never.condition("Progressing")[1], 60)
    operated.kubectl("delete", "raftcluster", "never", "-n", NAMESPACE, "--timeout=60s")
    assert operated.find("raftcluster", "never", "-n", NAMESPACE) is None


def test_the_policy_is_one_that_kubernetes_takes(operated: Kubernetes) -> None:
    """What the operator made for a cluster, sent again as it is: accepted, and the server changes nothing of it."""
    operated.apply(cluster("fenced", SMALL, paused=False))
    name = ("networkpolicy", "fenced-members", "-n", NAMESPACE)
    until("the policy", lambda: operated.find(*name), 60)
    spec = operated.get(*name)["spec"]
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [2379, 2380, 2381]
    homes = [peer.get("namespaceSelector") for peer in spec["ingress"][1]["from"]]
    assert {"matchLabels": {"kubernetes.io/metadata.name": "oarlock-system"}} in homes
    operated.kubectl("delete", "raftcluster", "fenced", "-n", NAMESPACE, "--timeout=60s")
