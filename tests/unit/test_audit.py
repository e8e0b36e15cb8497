"""The reader of the audit log: what it must find, and what it must not take for a use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.audit import INSTALLED, Right, report, rules_of

RULES = [
    {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
    {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["create", "patch"]},
]


def event(verb: str, resource: str, *, code: int = 200, user: str = INSTALLED, group: str = "", **more: Any) -> str:
    name, _, subresource = resource.partition("/")
    where = {"resource": name, "namespace": "default", "name": "x", "apiVersion": "v1"}
    where |= {"subresource": subresource} if subresource else {}
    where |= {"apiGroup": group} if group else {}
    decision = more.pop("decision", "forbid" if code == 403 else "allow")
    body = {
        "kind": "Event",
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": user},
        "objectRef": where,
        "responseStatus": {"code": code, **more},
        "annotations": {"authorization.k8s.io/decision": decision},
    }
    return json.dumps(body) + "\n"


EVERYTHING = [
    event("get", "pods"),
    event("get", "secrets", code=404),
    event("create", "pods/eviction", code=429),
    event("patch", "statefulsets", group="apps", code=201),
]


def read(tmp_path: Path, *lines: str, **options: Any) -> Any:
    log = tmp_path / "audit.log"
    log.write_text("".join(lines))
    return report(log, RULES, **options)


def test_all_used_and_nothing_refused(tmp_path: Path) -> None:
    """An answer of 404 or 429 used the right; an apply that made the object used `create` too."""
    found = read(tmp_path, *EVERYTHING)
    assert (found.requests, found.refusals, found.unused) == (4, (), ())
    assert found.sound


def test_an_unused_right_is_found(tmp_path: Path) -> None:
    """Each is needed: a subresource is not its resource, a group not another, an apply that changed made nothing."""
    assert read(tmp_path, *EVERYTHING[1:]).unused == (Right("", "pods", "get"),)
    assert read(tmp_path, *EVERYTHING[:2], EVERYTHING[3]).unused == (Right("", "pods/eviction", "create"),)
    assert read(tmp_path, *EVERYTHING[:3]).unused == (
        Right("apps", "statefulsets", "create"),
        Right("apps", "statefulsets", "patch"),
    )
    changed = event("patch", "statefulsets", group="apps")
    assert read(tmp_path, *EVERYTHING[:3], changed).unused == (Right("apps", "statefulsets", "create"),)


def test_a_refusal_is_found_once_and_is_no_use(tmp_path: Path) -> None:
    refused = event("get", "pods", code=403, message='pods "x" is forbidden')
    found = read(tmp_path, refused, refused, *EVERYTHING[1:])
    assert found.refusals == ('get pods default/x: pods "x" is forbidden',)
    assert found.unused == (Right("", "pods", "get"),)
    assert not found.sound


def test_what_admission_refuses_is_no_lack_of_rights(tmp_path: Path) -> None:
    ending = event("patch", "statefulsets", group="apps", code=403, decision="allow", message="is being terminated")
    assert read(tmp_path, *EVERYTHING, ending).sound


def test_what_is_refused_after_the_binding_was_deleted_is_no_lack_of_rights(tmp_path: Path) -> None:
    """Until it is made again; and another's binding, or one that could not be deleted, changes nothing."""
    person, refused = "kubernetes-admin", event("get", "pods", code=403)

    def binding(verb: str, name: str = "oarlock-operator", code: int = 200) -> str:
        where = {"resource": "clusterrolebindings", "apiGroup": "rbac.authorization.k8s.io", "name": name}
        told = {"verb": verb, "user": {"username": person}, "objectRef": where, "responseStatus": {"code": code}}
        return json.dumps(told) + "\n"

    assert read(tmp_path, *EVERYTHING, binding("delete"), refused).sound
    assert not read(tmp_path, *EVERYTHING, refused, binding("delete")).sound
    assert not read(tmp_path, *EVERYTHING, binding("delete"), binding("create", code=201), refused).sound
    assert not read(tmp_path, *EVERYTHING, binding("delete", "another"), refused).sound
    assert not read(tmp_path, *EVERYTHING, binding("delete", code=404), refused).sound


def test_others_do_not_count(tmp_path: Path) -> None:
    other = "system:serviceaccount:default:default"
    found = read(tmp_path, event("get", "pods", user=other), event("get", "nodes", user=other, code=403))
    assert (found.requests, found.refusals) == (0, ())
    assert not found.sound
    assert read(tmp_path, event("get", "pods", user=other), accounts=[other]).requests == 1


def test_discovery_needs_no_right(tmp_path: Path) -> None:
    line = json.dumps({"verb": "get", "user": {"username": INSTALLED}, "requestURI": "/apis"}) + "\n"
    assert read(tmp_path, line).requests == 1


def test_a_line_being_written_is_left_out_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    assert read(tmp_path, *EVERYTHING, '{"verb": "ge').requests == 4
    with pytest.raises(ValueError, match=r"audit\.log:1"):
        read(tmp_path, "{\n", *EVERYTHING)


def test_rules_come_from_roles() -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    manifests = [{"kind": "ClusterRole", "rules": [rule]}, None, {"kind": "Role", "rules": []}, {"kind": "Service"}]
    assert rules_of(manifests) == [rule]  # type: ignore[arg-type]
