"""The chart of one RaftCluster by real Helm: what its values make, what they may not be, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.charts.rendering import CLUSTER, REFUSED, manifests, notes, restricted, run, sets

from oarlock_operator.api.spec import Spec

HOOK_KINDS = ("ServiceAccount", "Role", "RoleBinding", "Pod")


def cluster(release: str = "db", **values: Any) -> dict[str, Any]:
    made = manifests(CLUSTER, release=release, **values)
    (found,) = [m for m in made.values() if m["kind"] == "RaftCluster"]
    assert all(m["kind"] in HOOK_KINDS for m in made.values() if m is not found), "nothing else is made"
    return found


def spec(**values: Any) -> dict[str, Any]:
    made: dict[str, Any] = cluster(**values)["spec"]
    Spec.model_validate(made)
    return made


def test_lint_is_strict_and_clean() -> None:
    done = run("lint", "--strict", CLUSTER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_by_default_it_says_as_little_as_possible() -> None:
    made = cluster()
    assert made["metadata"]["name"] == "db"
    assert "annotations" not in made["metadata"]
    assert made["spec"] == {
        "storage": {"size": "10Gi", "retention": {"whenDeleted": "Retain", "whenScaled": "Retain"}},
    }


def test_replicas_are_said_only_by_who_sets_them() -> None:
    """Else an upgrade after `kubectl scale` would be a conflict."""
    assert "replicas" not in spec()
    assert "replicas" not in spec(replicas=None)
    assert spec(replicas=5)["replicas"] == 5


@pytest.mark.parametrize(
    ("repository", "tag", "image"),
    [
        ("", "", None),
        ("", "9", "oarlock/node:9"),
        ("r.example/n", "", "r.example/n:0.1.0"),
        ("r:5000/n", "9", "r:5000/n:9"),
    ],
)
def test_the_image_is_the_operators_unless_one_is_named(repository: str, tag: str, image: str | None) -> None:
    assert spec(image__repository=repository, image__tag=tag).get("image") == image
    made = manifests(CLUSTER, image__repository=repository, image__tag=tag)
    assert made["Pod/op-helm-test"]["spec"]["containers"][0]["image"] == (image or "oarlock/node:0.1.0")


def test_every_value_reaches_the_spec() -> None:
    """And every field of the spec can be reached: a field that is new there is missed here."""
    made = cluster(
        name="mine",
        replicas=3,
        image__tag="9",
        storage={
            "size": "20Gi",
            "storageClassName": "fast",
            "retention": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        },
        resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        snapshots={"entries": 5000, "intervalSeconds": 600},
        annotations={"oarlock.dev/paused": "true"},
    )
    assert made["metadata"]["name"] == "mine"
    assert made["metadata"]["annotations"] == {"oarlock.dev/paused": "true"}
    assert made["spec"] == {
        "replicas": 3,
        "image": "oarlock/node:9",
        "storage": {
            "size": "20Gi",
            "storageClassName": "fast",
            "retention": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        },
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "snapshots": {"entries": 5000, "intervalSeconds": 600},
    }
    assert made["spec"].keys() == {field.alias or name for name, field in Spec.model_fields.items()}
    Spec.model_validate(made["spec"])


def test_large_numbers_stay_integers() -> None:
    """Helm reads numbers as floats, and writes a million as 1e+06."""
    assert spec(snapshots={"entries": 10_000_000})["snapshots"] == {"entries": 10_000_000}


WRONG = {
    "replicas=0": {"replicas": 0},
    "replicas=-1": {"replicas": -1},
    "replicas=10": {"replicas": 10},
    "replicas as a string": {"replicas": "3"},
    "half a replica": {"replicas": 2.5},
    "an unknown value": {"replica": 3},
    "an unknown value below": {"storage__sise": "1Gi"},
    "size: banana": {"storage__size": "banana"},
    "size: integer": {"storage__size": 10},
    "size: 0": {"storage__size": "0Gi"},
    "size: negative": {"storage__size": "-1Gi"},
    "size: empty": {"storage__size": ""},
    "retention": {"storage__retention__whenDeleted": "Keep"},
    "name with dots": {"name": "a.b"},
    "name of 41": {"name": "a" * 41},
    "name with a digit first": {"name": "1a"},
    "too few entries": {"snapshots__entries": 99},
    "too often": {"snapshots__intervalSeconds": 29},
    "an annotation that is no string": {"annotations": {"oarlock.dev/paused": True}},
    "resources: banana": {"resources": {"requests": {"cpu": "banana"}}},
    "resources: misspelt": {"resources": {"request": {"cpu": "1"}}},
    "image as a string": {"image": "oarlock/node:1"},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused_by_the_schema(values: dict[str, Any]) -> None:
    done = run("template", "db", CLUSTER, *sets(values))
    assert done.returncode != 0
    assert REFUSED in done.stderr


@pytest.mark.parametrize("release", ["a" * 41, "1st", "a.b"])
def test_a_release_name_that_cannot_name_a_cluster_asks_for_a_name(release: str) -> None:
    done = run("template", release, CLUSTER)
    assert done.returncode != 0
    assert "set the value name" in done.stderr
    assert cluster(release=release, name="good")["metadata"]["name"] == "good"


def test_the_helm_test_may_read_its_cluster_and_nothing_else() -> None:
    made = manifests(CLUSTER, release="db", name="mine", test__image="r/x:1", test__pullSecrets=[{"name": "s"}])
    hooks = {m["kind"]: m for m in made.values() if m["kind"] != "RaftCluster"}
    assert set(hooks) == set(HOOK_KINDS)
    for hook in hooks.values():
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
        before = hook["kind"] != "Pod"
        assert hook["metadata"]["annotations"].get("helm.sh/hook-weight") == ("-1" if before else None)
    assert hooks["Role"]["rules"] == [
        {"apiGroups": ["oarlock.dev"], "resources": ["raftclusters"], "resourceNames": ["mine"], "verbs": ["get"]}
    ]
    pod = hooks["Pod"]["spec"]
    assert restricted(pod)
    assert pod["imagePullSecrets"] == [{"name": "s"}]
    (container,) = pod["containers"]
    assert container["image"] == "r/x:1"
    assert container["args"] == ["ns", "mine"]
    compile(container["command"][2], "writes.py", "exec")


def test_notes_fit_the_values() -> None:
    plain = notes(CLUSTER, release="db")
    for line in (
        "kubectl -n ns wait raftcluster/db --for=condition=Available",
        "helm -n ns test db",
        "kubectl -n ns exec db-0 -- oarlock put greeting hello --endpoint http://db:2379",
        "kubectl -n ns scale raftcluster db --replicas=5",
        "keeps the volumes (data-db-N)",
    ):
        assert line in plain
    assert "WARNING" not in plain

    owned = notes(CLUSTER, release="db", name="mine", replicas=3)
    assert "kubectl -n ns scale" not in owned
    assert "helm -n ns upgrade db CHART --reuse-values --set replicas=5" in owned
    assert "raftcluster/mine" in owned
    assert "WARNING" not in owned


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"replicas": 1}, "one member tolerates no failure"),
        ({"replicas": 2}, "2 members tolerate no more failures than 1"),
        ({"replicas": 4}, "4 members tolerate no more failures than 3"),
        ({"storage__retention__whenDeleted": "Delete"}, "deletes the volumes"),
        ({"annotations": {"oarlock.dev/paused": "true"}}, "it is paused"),
    ],
)
def test_notes_warn(values: dict[str, Any], warning: str) -> None:
    said = notes(CLUSTER, release="db", **values)
    (found,) = re.findall(r"WARNING: (.*)", said)
    assert warning in found
