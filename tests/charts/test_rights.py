"""The operator's rights as the chart grants them, in all namespaces and in one."""

from __future__ import annotations

from typing import Any

from tests.charts.rendering import OPERATOR, manifests

NAME = "op-oarlock-operator"
BEYOND = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"]},
]


def operator_settings(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = made[f"Deployment/{NAME}"]["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_everywhere() -> None:
    made = manifests(OPERATOR)
    assert made[f"ClusterRoleBinding/{NAME}"]["roleRef"]["name"] == NAME
    assert made[f"ClusterRole/{NAME}-nodes"]["rules"] == BEYOND
    assert not [name for name in made if name.startswith("Role")]
    settings = operator_settings(made)
    assert settings["OARLOCK_OPERATOR_NAMESPACE"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    assert "OARLOCK_OPERATOR_WATCH_NAMESPACE" not in settings


def test_in_one_namespace_the_same_rights_by_a_role_there() -> None:
    everywhere, made = manifests(OPERATOR), manifests(OPERATOR, watchNamespace="one")
    role, binding = made[f"Role/{NAME}"], made[f"RoleBinding/{NAME}"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "one"
    assert role["rules"] == everywhere[f"ClusterRole/{NAME}"]["rules"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": "ns"}]
    assert made[f"ClusterRole/ns-{NAME}-nodes"]["rules"] == BEYOND
    assert operator_settings(made)["OARLOCK_OPERATOR_WATCH_NAMESPACE"] == "one"


def test_nothing_beyond_the_namespace_where_that_is_not_wanted() -> None:
    made = manifests(OPERATOR, watchNamespace="one", rbac__readNodes=False, crds__install=False)
    assert not [name for name in made if name.startswith(("Cluster", "CustomResource"))]
