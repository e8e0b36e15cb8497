"""What the API server's audit log says of the operator's rights: what it was refused, and what it never used.

`tests/kube` writes the log (`audit.log` in its directory: metadata of every service account outside kube-system, and
of whoever makes or deletes a binding). Server-side apply that makes an object is one request, `patch`, answered 201;
the API server asks for `create` too. An operator that is uninstalled ends after its binding was deleted: what it is
refused from then on, until the binding is made again, is no lack of rights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
INSTALLED = "system:serviceaccount:oarlock-system:oarlock-operator"
"""Of manifests/install.yaml."""


@dataclass(frozen=True, order=True, slots=True)
class Right:
    """One verb on one resource (`pods/eviction`), as a rule grants it and as a request uses it."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    requests: int  # by these accounts; a report over none proves nothing
    refusals: tuple[str, ...]  # each once, in words
    unused: tuple[Right, ...]  # granted, and no request was for it

    @property
    def sound(self) -> bool:
        return bool(self.requests) and not self.refusals and not self.unused


def rules_of(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Of every Role and ClusterRole in what was installed."""
    return [rule for m in manifests if m and m["kind"] in ("Role", "ClusterRole") for rule in m["rules"]]


def report(log: Path, rules: Iterable[Manifest], accounts: Iterable[str] = (INSTALLED,)) -> Report:
    """Over the whole log. Raises ValueError for a line that is no event; a last one still being written is left out."""
    used: set[Right] = set()
    refusals: dict[str, None] = {}
    withdrawn: set[str] = set()
    wanted, requests = set(accounts), 0
    for event in _events(log):
        _follow(withdrawn, event)
        account = event["user"]["username"]
        if account not in wanted:
            continue
        requests += 1
        if "objectRef" not in event:  # discovery: every account may
            continue
        right = _right(event)
        if _refused(event) and account.rpartition(":")[2] in withdrawn:
            continue
        if _refused(event):
            where = event["objectRef"]
            place = "/".join(filter(None, (where.get("namespace"), where.get("name"))))
            refusals.setdefault(f"{right} {place}: {event['responseStatus'].get('message', 'forbidden')}")
            continue
        used.add(right)
        if right.verb == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used.add(Right(right.group, right.resource, "create"))
    return Report(requests, tuple(refusals), tuple(sorted(set(_granted(rules)) - used)))


def _events(log: Path) -> Iterator[Manifest]:
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{log}:{number}: {error}") from error


def _granted(rules: Iterable[Manifest]) -> Iterator[Right]:
    for rule in rules:
        for group in rule.get("apiGroups", []):
            for resource in rule.get("resources", []):
                for verb in rule["verbs"]:
                    yield Right(group, resource, verb)


def _right(event: Manifest) -> Right:
    where = event["objectRef"]
    resource = "/".join(filter(None, (where["resource"], where.get("subresource"))))
    return Right(where.get("apiGroup", ""), resource, event["verb"])


def _follow(withdrawn: set[str], event: Manifest) -> None:
    """Keep the names of bindings that were deleted and not made again; an account's binding has its name."""
    where = event.get("objectRef", {})
    code = event.get("responseStatus", {}).get("code", 0)
    if where.get("resource") not in ("rolebindings", "clusterrolebindings") or not 200 <= code < 300:
        return
    if event["verb"] == "delete":
        withdrawn.add(where["name"])
    else:
        withdrawn.discard(where.get("name", ""))


def _refused(event: Manifest) -> bool:
    """By authorization. Admission answers 403 too (a namespace that is ending, a quota), and then rights sufficed."""
    decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
    return event.get("responseStatus", {}).get("code") == 403 and decision != "allow"
