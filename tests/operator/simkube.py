"""The operator's port to Kubernetes, over a `Sim`: reads, server-side apply, preconditions, Eviction.

Refused here is what a real API server refuses (uid, resourceVersion, immutable fields, a disruption budget). What the
operator may never even ask for is judged in `oracles`.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from tests.operator import oracles
from tests.operator.simcontrollers import copied, ready

from oarlock_operator import names
from oarlock_operator.kube import KubeError, Manifest

if TYPE_CHECKING:
    from tests.operator.sim import Sim

IMMUTABLE = ("volumeClaimTemplates", "serviceName", "selector", "podManagementPolicy")


def merge(live: Any, wanted: Any) -> Any:
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {**live, **{key: merge(live.get(key), value) for key, value in wanted.items()}}
    return copied(wanted)


def prune(live: Any, before: Any, wanted: Any) -> None:
    """Server-side apply: what this manager applied before and now does not is taken away."""
    if not (isinstance(live, dict) and isinstance(before, dict) and isinstance(wanted, dict)):
        return
    for key in before:
        if key not in wanted:
            if key not in ("uid", "resourceVersion"):
                live.pop(key, None)
        else:
            prune(live.get(key), before[key], wanted[key])


class FakeKube:
    """The port to Kubernetes. `eyes` is what this operator was shown, for the oracles."""

    def __init__(self, sim: Sim, eyes: oracles.Eyes | None = None):
        self.sim = sim
        self.eyes = eyes or oracles.Eyes()

    async def get(self, api: str, kind: str, namespace: str, name: str) -> Manifest | None:
        self.eyes.looks(self.sim)
        await self.sim.before("get", kind, name)
        found = copied(self.sim.seen((kind, name)))
        self.eyes.saw((kind, name), found)
        return found

    async def list(self, api: str, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        await self.sim.before("list", kind, "")
        found = copied(self.sim.seen_all(kind))
        for part in filter(None, selector.split(",")):
            key, _, value = part.partition("=")
            found = [item for item in found if item["metadata"].get("labels", {}).get(key) == value]
        self.eyes.saw_all(kind, found)
        return found

    async def apply(
        self, manifest: Manifest, *, manager: str = names.MANAGER, subresource: str = "", force: bool = True
    ) -> Manifest:
        """Server-side apply: merges, and takes away what this manager applied before and now does not."""
        sim, meta = self.sim, manifest["metadata"]
        key = (manifest["kind"], meta["name"])
        await sim.before("apply", *key)
        live = sim.objects.get(key)
        for precondition in ("uid", "resourceVersion"):
            if precondition in meta and (live is None or live["metadata"][precondition] != meta[precondition]):
                raise KubeError(409, f"{precondition} differs")
        if not force and live is not None and (*key, manager) not in sim.managed:
            raise KubeError(409, "conflict with another manager")
        oracles.applies(sim, self.eyes, manifest, live, subresource)
        before = sim.managed.get((*key, manager), {})
        merged = merge(copied(live) or {}, {k: v for k, v in manifest.items() if k != "metadata" or not subresource})
        prune(merged, before, manifest)
        if live is not None:
            self._refuse(live, merged, subresource)
        merged.setdefault("metadata", {})["resourceVersion"] = live["metadata"]["resourceVersion"] if live else ""
        sim.managed[(*key, manager)] = copied(manifest)
        if merged != live:
            spec_changed = live is not None and merged.get("spec") != live.get("spec")
            generation = live["metadata"].get("generation", 1) + spec_changed if live else 1
            merged["metadata"]["generation"] = generation
            sim.put(merged)
        sim.effect(f"apply {'/'.join(key)}{f'/{subresource}' if subresource else ''}", write=True)
        sim.maybe_crash()
        return self._told(copied(merged))

    def _refuse(self, live: Manifest, merged: Manifest, subresource: str) -> None:
        if live["kind"] != "StatefulSet" or subresource:
            return
        for field in IMMUTABLE:
            if live["spec"].get(field) != merged["spec"].get(field):
                raise KubeError(422, f"spec.{field}: Forbidden: updates to it are forbidden")

    async def create(self, manifest: Manifest) -> Manifest:
        key = (manifest["kind"], manifest["metadata"]["name"])
        await self.sim.before("create", *key)
        if key in self.sim.objects:
            raise KubeError(409, "exists")
        oracles.creates(self.sim, self.eyes, manifest)
        made = self.sim.put(copied(manifest))
        if key[0] != "Lease":
            self.sim.effect(f"create {'/'.join(key)}", write=True)
            self.sim.maybe_crash()
        return self._told(copied(made))

    async def replace(self, manifest: Manifest) -> Manifest:
        key = (manifest["kind"], manifest["metadata"]["name"])
        await self.sim.before("replace", *key)
        live = self.sim.objects.get(key)
        if live is None or live["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise KubeError(409, "resourceVersion differs")
        return self._told(copied(self.sim.put(copied(manifest))))

    async def delete(self, manifest: Manifest, *, unchanged: bool, orphan: bool = False) -> None:
        meta = manifest["metadata"]
        key = (manifest["kind"], meta["name"])
        await self.sim.before("delete", *key)
        live = self.sim.objects.get(key)
        if live is None:
            return
        same = live["metadata"]["uid"] == meta["uid"]
        if not same or (unchanged and live["metadata"]["resourceVersion"] != meta["resourceVersion"]):
            raise KubeError(409, "precondition")
        oracles.deletes(self.sim, self.eyes, live, orphan=orphan)
        self.sim.delete(key, orphan=orphan)
        self.sim.effect(f"delete {'/'.join(key)}", write=True)
        self.sim.maybe_crash()
        self._told({})

    async def evict(self, manifest: Manifest) -> None:
        """The Eviction API: refused with 429 where the disruption budget allows none. By uid."""
        meta = manifest["metadata"]
        key = ("Pod", meta["name"])
        await self.sim.before("evict", *key)
        live = self.sim.objects.get(key)
        if live is None:
            return
        if live["metadata"]["uid"] != meta["uid"]:
            raise KubeError(409, "precondition: uid differs")
        oracles.evicts(self.sim, self.eyes, live)
        self.sim.evict(meta["name"])
        self.sim.effect(f"evict {'/'.join(key)}", write=True)
        self.sim.maybe_crash()
        self._told({})

    async def served(self) -> bool:
        return True

    def _told(self, answer: Manifest) -> Manifest:
        """The answer, unless it gets lost on the way."""
        if self.sim.lose_kube_answer:
            self.sim.lose_kube_answer = False
            raise KubeError(0, "the answer was lost")
        return answer


def token_of(sim: Sim) -> str:
    from tests.operator.sim import NAME

    secret = sim.objects.get(("Secret", names.admin_secret(NAME)))
    return base64.b64decode(secret["data"]["token"]).decode() if secret else ""


def allowed_disruptions(budget: Manifest, pods: list[Manifest]) -> int:
    """As the disruption controller counts: ready pods beyond minAvailable."""
    healthy = sum(ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
    return max(0, healthy - int(budget["spec"]["minAvailable"]))
