"""The NetworkPolicy, as a network that enforces it would read it: who may open which port."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.worlds import NAME, NAMESPACE, world

from oarlock_operator import names
from oarlock_operator.resources.network import NAMESPACE_LABEL, policy
from oarlock_operator.resources.statefulset import template

MEMBER = names.labels(NAME)
OTHER_CLUSTER = names.labels("other")
OPERATOR = {"app.kubernetes.io/name": "oarlock-operator", "app.kubernetes.io/instance": "op"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
OUTSIDE = None
"""Not a pod: a host, or somebody beyond a load balancer."""

Source = tuple[str, dict[str, str]] | None


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def admits(spec: dict[str, Any], port: int, source: Source) -> bool:
    """By the rules of networking.k8s.io/v1; a peer without namespaceSelector means the policy's own namespace."""
    for rule in spec["ingress"]:
        if port not in [one["port"] for one in rule["ports"]]:
            continue
        if "from" not in rule:
            return True
        if source is None:
            continue
        namespace, labels = source
        for peer in rule["from"]:
            home = peer.get("namespaceSelector")
            here = namespace == NAMESPACE if home is None else matches(home, {NAMESPACE_LABEL: namespace})
            if here and matches(peer.get("podSelector", {}), labels):
                return True
    return False


@pytest.mark.parametrize(
    ("source", "ports"),
    [
        ((NAMESPACE, MEMBER), {2379, 2380, 2381}),
        (("oarlock-system", OPERATOR), {2379, 2380, 2381}),
        (("elsewhere", OPERATOR), {2379, 2381}),  # a label alone opens nothing
        ((NAMESPACE, OTHER_CLUSTER), {2379, 2381}),
        (("elsewhere", MEMBER), {2379, 2381}),
        (("monitoring", PROMETHEUS), {2379, 2381}),
        (OUTSIDE, {2379}),
    ],
)
def test_who_may_open_which_port(source: Source, ports: set[int]) -> None:
    spec = policy(world().cluster, "oarlock-system")["spec"]
    assert {port for port in (2379, 2380, 2381, 22) if admits(spec, port, source)} == ports


def test_it_covers_the_members_and_only_what_comes_in() -> None:
    cluster = world().cluster
    spec = policy(cluster, "oarlock-system")["spec"]
    assert matches(spec["podSelector"], template(cluster, "image").body["metadata"]["labels"])
    assert not matches(spec["podSelector"], OTHER_CLUSTER)
    assert spec["policyTypes"] == ["Ingress"]


def test_an_operator_outside_of_any_pod_is_known_by_its_label_alone() -> None:
    spec = policy(world().cluster, "")["spec"]
    assert admits(spec, 2380, ("anywhere", OPERATOR))
    assert not admits(spec, 2380, ("anywhere", PROMETHEUS))
