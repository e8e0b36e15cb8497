"""The Lease `oarlock-<cluster>`: one operator at a time acts on a cluster.

It saves work and confusion; safety does not hang on it (membership is a compare-and-set in the Raft log, everything
else has a uid and a resourceVersion). Rules: another's lease is judged by how long *we* have seen it unchanged on our
own monotonic clock, never by the times written in it; ours counts only until `DURATION` after the *start* of the
request that renewed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from . import names
from .kube import Kube, KubeError, Manifest

DURATION_SECONDS = 15.0
RENEW_SECONDS = 5.0


@dataclass(slots=True)
class _Foreign:
    """A record of another holder, and since when we have seen it stand still."""

    resource_version: str
    since: float


class Lease:
    """One cluster's lease. `monotonic` is injected; `ensure` is called before each act and renews at need."""

    def __init__(
        self, kube: Kube, namespace: str, cluster: str, uid: str, identity: str, monotonic: Callable[[], float]
    ):
        self._kube = kube
        self._namespace = namespace
        self._name = names.lease(cluster)
        self._owner = names.owner(cluster, uid)  # so that it goes when the cluster goes
        self._identity = identity
        self._monotonic = monotonic
        self._held_since: float | None = None
        self._foreign: _Foreign | None = None

    @property
    def held(self) -> bool:
        return self._held_since is not None and self._monotonic() - self._held_since < DURATION_SECONDS

    async def ensure(self) -> bool:
        """Acquire or renew if it is time; True while we hold it. A conflict or an error means: not now."""
        began = self._monotonic()
        if self._held_since is not None and began - self._held_since < RENEW_SECONDS:
            return True
        try:
            live = await self._kube.get("coordination.k8s.io/v1", "Lease", self._namespace, self._name)
            if live is None:
                await self._kube.create(self._manifest({}))
            elif self._may_take(live, began):
                await self._kube.replace(self._manifest(live))
            else:
                self._held_since = None
                return False
        except KubeError:
            return self.held
        self._held_since, self._foreign = began, None
        return True

    async def release(self) -> None:
        """Let a successor start at once. Best effort."""
        if not self.held:
            return
        self._held_since = None
        try:
            live = await self._kube.get("coordination.k8s.io/v1", "Lease", self._namespace, self._name)
            if live is not None and live["spec"].get("holderIdentity") == self._identity:
                spec = {**live["spec"], "holderIdentity": ""}
                await self._kube.replace({**live, "spec": spec})
        except KubeError:
            return

    def _may_take(self, live: Manifest, now: float) -> bool:
        holder = live["spec"].get("holderIdentity", "")
        if holder in ("", self._identity):
            return True
        version = live["metadata"]["resourceVersion"]
        if self._foreign is None or self._foreign.resource_version != version:
            self._foreign = _Foreign(version, now)
        return now - self._foreign.since > float(live["spec"].get("leaseDurationSeconds", DURATION_SECONDS))

    def _manifest(self, live: Manifest) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = live.get("spec", {})
        same = before.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "renewTime": now,
            "acquireTime": before.get("acquireTime", now) if same else now,
            "leaseTransitions": int(before.get("leaseTransitions", 0)) + (0 if same or not before else 1),
        }
        meta = {"name": self._name, "namespace": self._namespace, "ownerReferences": [self._owner]}
        if live:
            meta["resourceVersion"] = live["metadata"]["resourceVersion"]
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
