"""The child objects as manifests: secure, stable, and named for ever. And the CRD, generated and checked in."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from tests.operator.worlds import NAME, NAMESPACE, UID, volume, world

from oarlock_operator import crd, names
from oarlock_operator.api.spec import Spec
from oarlock_operator.diagnose import diagnose
from oarlock_operator.ensure import Apply, MakeSecret, covers, ensure
from oarlock_operator.resources import claims, secret, services, statefulset
from oarlock_operator.world import Cluster, Manifest

CLUSTER = world().cluster


def with_spec(**spec: Any) -> Cluster:
    return replace(CLUSTER, spec=Spec.model_validate(spec))


def sts(cluster: Cluster = CLUSTER, live: Manifest | None = None) -> Manifest:
    return statefulset.statefulset(cluster, 3, statefulset.template(cluster, "oarlock/node:test"), live)


def test_names_are_what_they_were() -> None:
    """Names are for ever."""
    assert sts()["metadata"]["name"] == NAME
    assert services.client_service(CLUSTER)["metadata"]["name"] == NAME
    assert services.peers_service(CLUSTER)["metadata"]["name"] == f"{NAME}-peers"
    assert secret.secret(CLUSTER, "t")["metadata"]["name"] == f"{NAME}-admin"
    assert list(secret.secret(CLUSTER, "t")["data"]) == ["token"]
    for manifest in (sts(), services.client_service(CLUSTER), secret.secret(CLUSTER, "t")):
        assert manifest["metadata"]["labels"]["oarlock.dev/cluster"] == NAME
        assert manifest["metadata"]["ownerReferences"][0]["uid"] == UID
        assert "finalizers" not in manifest["metadata"]


def test_pods_meet_pod_security_restricted() -> None:
    pod = sts()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["fsGroup"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    assert {next(iter(v.keys() - {"name"})) for v in pod["volumes"]} == {"secret", "emptyDir"}


def test_the_statefulset_restarts_nobody_and_deletes_no_volume() -> None:
    spec = sts()["spec"]
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["volumeClaimTemplates"][0]["metadata"]["labels"][names.CLUSTER_UID_LABEL] == UID


def test_no_probe_asks_for_replay_or_a_quorum() -> None:
    (container,) = sts()["spec"]["template"]["spec"]["containers"]
    paths = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {
        "startupProbe": "/healthz/startup",
        "readinessProbe": "/healthz/ready",
        "livenessProbe": "/healthz/live",
    }
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": statefulset.DRAIN_SECONDS}}
    assert statefulset.DRAIN_SECONDS < statefulset.GRACE_SECONDS


def test_pods_say_where_their_metrics_are() -> None:
    template = sts()["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (ops,) = [port["containerPort"] for port in container["ports"] if port["name"] == "ops"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(ops),
        "prometheus.io/path": "/metrics",
    }


def test_everything_selects_template_labels_only() -> None:
    """Labels that an operator writes are missing on a recreated pod."""
    template = sts()["spec"]["template"]["metadata"]["labels"]
    for selector in (
        sts()["spec"]["selector"]["matchLabels"],
        services.client_service(CLUSTER)["spec"]["selector"],
        services.peers_service(CLUSTER)["spec"]["selector"],
    ):
        assert selector.items() <= template.items()
    assert services.peers_service(CLUSTER)["spec"]["publishNotReadyAddresses"] is True
    assert services.peers_service(CLUSTER)["spec"]["clusterIP"] == "None"


def test_what_cannot_be_changed_is_copied_from_the_live_object() -> None:
    live = copy.deepcopy(sts())
    live["spec"]["serviceName"] = "older"
    live["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = "5Gi"
    live["spec"]["volumeClaimTemplates"][0]["status"] = {"phase": "Pending"}
    made = sts(with_spec(storage={"size": "20Gi", "storageClassName": "fast"}), live)["spec"]
    assert made["serviceName"] == "older"
    assert made["volumeClaimTemplates"][0]["spec"] == live["spec"]["volumeClaimTemplates"][0]["spec"]
    assert "status" not in made["volumeClaimTemplates"][0]


def test_image_and_resources_are_taken_from_the_spec() -> None:
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    (container,) = sts(with_spec(image="mine:1", resources=resources))["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mine:1"
    assert container["resources"] == resources
    (plain,) = sts()["spec"]["template"]["spec"]["containers"]
    assert plain["image"] == "oarlock/node:test"
    assert "resources" not in plain


# ---- what differs


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": 1}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"cpu": "500m"}, {"cpu": "0.5"}, True),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
        ({"cpu": "1"}, {"cpu": 1}, True),
        ({"cpu": "1"}, {"cpu": 2}, False),
        ({"a": True}, {"a": 1}, True),
        ({"a": "x"}, {"a": "y"}, False),
        ({}, {"emptyDir": {}}, True),
        (None, {"a": 1}, False),
    ],
)
def test_covers(live: Any, wanted: Any, same: bool) -> None:
    assert covers(live, wanted) is same


def test_a_field_that_we_stop_wanting_is_noticed() -> None:
    """Everything we want is in the live object; the hash of what we wanted is not."""
    limited = sts(with_spec(resources={"limits": {"memory": "1Gi"}}))
    assert not covers(limited, sts(with_spec(resources={"limits": {}})))
    assert covers(limited, limited)


def test_only_what_differs_is_applied() -> None:
    found = world()
    steps = ensure(found, diagnose(found))
    assert isinstance(steps[0], MakeSecret)
    made = [step.manifest for step in steps if isinstance(step, Apply)]
    kinds = ["Service", "Service", "NetworkPolicy", "StatefulSet", "PodDisruptionBudget"]
    assert [manifest["kind"] for manifest in made] == kinds
    children = {f"{m['kind']}/{m['metadata']['name']}": m for m in [*made, secret.secret(found.cluster, "t")]}
    (live_sts,) = [m for m in made if m["kind"] == "StatefulSet"]
    settled = replace(found, children=children, statefulset=live_sts)
    assert ensure(settled, diagnose(settled)) == []
    gone = replace(settled, children={key: m for key, m in children.items() if key != f"Service/{NAME}"})
    assert [s.manifest["kind"] for s in ensure(gone, diagnose(gone)) if isinstance(s, Apply)] == ["Service"]


def test_nothing_is_made_while_the_cluster_is_deleted() -> None:
    found = world()
    assert ensure(replace(found, cluster=replace(found.cluster, deleting=True)), diagnose(found)) == []


# ---- claims


def claim(size: str = "1Gi", *, owned: bool = False, phase: str = "Bound", **changes: Any) -> Any:
    meta: Manifest = {"name": "data-demo-0", "uid": "volume-0"}
    if owned:
        meta["ownerReferences"] = [names.owner(NAME, UID, controller=False)]
    manifest = {"metadata": meta, "spec": {"resources": {"requests": {"storage": size}}}, "status": {"phase": phase}}
    return volume(0, manifest=manifest, **changes)


def test_a_volume_grows_and_never_shrinks() -> None:
    bigger = with_spec(storage={"size": "2Gi"})
    applied = claims.claim(bigger, claim("1Gi"))
    assert applied is not None
    assert applied["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert applied["metadata"]["uid"] == "volume-0"
    assert claims.claim(bigger, claim("2048Mi")) is None
    assert claims.claim(bigger, claim("3Gi")) is None
    assert claims.claim(bigger, claim("1Gi", phase="Pending")) is None
    assert claims.shrinks(bigger, claim("3Gi"))


def test_a_volume_is_owned_only_if_it_shall_go_with_the_cluster() -> None:
    delete = with_spec(storage={"size": "1Gi", "retention": {"whenDeleted": "Delete"}})
    keep = with_spec(storage={"size": "1Gi"})
    applied = claims.claim(delete, claim())
    assert applied is not None
    (owner,) = applied["metadata"]["ownerReferences"]
    assert owner["controller"] is False
    assert claims.claim(delete, claim(owned=True)) is None
    freed = claims.claim(keep, claim(owned=True))
    assert freed is not None
    assert "ownerReferences" not in freed["metadata"]


def test_anothers_volume_is_not_touched() -> None:
    assert claims.claim(with_spec(storage={"size": "9Gi"}), claim(cluster_uid="another")) is None


# ---- names


@pytest.mark.parametrize(
    ("name", "ordinal"),
    [("demo-0", 0), ("demo-12", 12), ("demo-01", None), ("demo-", None), ("demo-x", None), ("other-1", None)],
)
def test_ordinals(name: str, ordinal: int | None) -> None:
    assert names.ordinal_of_pod(NAME, name) == ordinal
    assert names.ordinal_of_member(NAME, f"{name}-0123456789abcdef") == ordinal
    assert names.ordinal_of_claim(NAME, f"data-{name}") == ordinal


def test_a_cluster_whose_name_ends_like_an_ordinal() -> None:
    assert names.ordinal_of_pod("demo", "demo-1-0") is None
    assert names.ordinal_of_pod("demo-1", "demo-1-0") == 0


def test_urls_name_the_pod() -> None:
    assert names.peer_url(NAME, NAMESPACE, "demo-0") == "http://demo-0.demo-peers.default.svc:2380"


# ---- the CRD


def test_the_crd_is_a_structural_schema_of_a_fit_size() -> None:
    text = crd.render()
    assert len(text) < 200 * 1024
    assert "$ref" not in text
    assert "$defs" not in text

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node.get("type") == "object", path
            for key, value in node.items():
                walk(value, f"{path}.{key}")

    walk(crd.definition()["spec"]["versions"][0]["schema"], "schema")


def test_spec_has_these_fields_and_nothing_more() -> None:
    version = crd.definition()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    assert list(schema["spec"]["properties"]) == ["replicas", "image", "storage", "resources", "snapshots"]
    assert list(schema["spec"]["properties"]["storage"]["properties"]) == ["size", "storageClassName", "retention"]
    replicas = schema["spec"]["properties"]["replicas"]
    assert (replicas["minimum"], replicas["maximum"], replicas["default"]) == (1, 9, 3)
    assert [c["name"] for c in version["additionalPrinterColumns"]] == ["Ready", "Leader", "Term", "Version", "Age"]
    assert version["additionalPrinterColumns"][0]["jsonPath"] == ".status.readyReplicas"
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"


def test_every_spec_field_says_what_it_is_for() -> None:
    def walk(node: Any, path: str) -> None:
        for name, field in node.get("properties", {}).items():
            assert field.get("description"), f"{path}.{name}"
            walk(field, f"{path}.{name}")

    walk(crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")
