"""A RaftCluster on the tests' Kubernetes, as its user sees it: status, pods, addresses; and how to wait for it.

Rule of this module: it looks through the API server and the members' own ports, never into the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.e2e.cluster import Kubernetes, Object, until
from tests.e2e.logs import elected_by_wal
from tests.load import Load


@dataclass(frozen=True)
class RaftCluster:
    kube: Kubernetes
    name: str
    namespace: str = "default"

    def get(self) -> Object:
        return self.kube.get("raftcluster", self.name, "-n", self.namespace)

    def condition(self, kind: str) -> tuple[str, str]:
        """(status, reason: message); ("", "") while it is not set."""
        for c in self.get().get("status", {}).get("conditions", []):
            if c["type"] == kind:
                return c["status"], f"{c['reason']}: {c['message']}"
        return "", ""

    def pods(self) -> list[Object]:
        """Those that are not being deleted."""
        selector = f"oarlock.dev/cluster={self.name}"
        items = self.kube.get("pods", "-n", self.namespace, "-l", selector)["items"]
        return [p for p in items if "deletionTimestamp" not in p["metadata"]]

    def ready_pods(self) -> dict[str, str]:
        """Name -> address of the pods that are Ready."""
        return {p["metadata"]["name"]: p["status"]["podIP"] for p in self.pods() if is_ready(p)}

    def wait_available(self, seconds: float) -> float:
        """Seconds until the condition Available is True."""
        began = time.monotonic()
        until("Available", lambda: self.condition("Available")[0] == "True", seconds, 0.25)
        return time.monotonic() - began

    def wait_members(self, count: int, seconds: float) -> None:
        """Until the committed configuration has `count` voters, their pods are Ready, and no other pod is left.

        And until no operation is under way any more.
        """

        def done() -> bool:
            status = self.get().get("status", {})
            voters = [m for m in status.get("members", []) if m["suffrage"] == "Voter"]
            settled = status.get("replicas") == len(voters) == len(status.get("members", [])) == count
            settled = settled and not status.get("operation")
            return (
                settled and status.get("readyReplicas") == count and len(self.ready_pods()) == len(self.pods()) == count
            )

        until(f"{count} members", done, seconds)

    def member(self, pod: str) -> Object:
        """What status says of the member in that pod; empty while it says nothing."""
        found = [m for m in self.get().get("status", {}).get("members", []) if m["pod"] == pod]
        return found[-1] if found else {}

    def scale(self, replicas: int) -> None:
        self.kube.kubectl("scale", f"raftcluster/{self.name}", "-n", self.namespace, f"--replicas={replicas}")

    def change(self, **spec: object) -> None:
        """A merge patch of its spec; None takes a field away."""
        patch = json.dumps({"spec": spec})
        self.kube.kubectl("patch", "raftcluster", self.name, "-n", self.namespace, "--type=merge", "-p", patch)

    def claims(self) -> dict[str, Object]:
        """Its volume claims by name, those of members that left too."""
        items = self.kube.get("pvc", "-n", self.namespace, "-l", f"oarlock.dev/cluster={self.name}")["items"]
        return {claim["metadata"]["name"]: claim for claim in items}

    def remove(self) -> None:
        """The cluster and its volumes, until nothing of it is left."""
        everything = ("-n", self.namespace, "-l", f"oarlock.dev/cluster={self.name}")
        self.kube.kubectl("delete", "raftcluster", self.name, "-n", self.namespace, "--ignore-not-found")
        self.kube.kubectl("delete", "pvc", *everything, "--wait=false")
        until("nothing is left", lambda: not self.kube.get("pods,pvc", *everything)["items"], 90)

    def members(self) -> dict[str, str]:
        """Client URL of each pod that is Ready, by the pod's name."""
        return {name: f"http://{address}:2379" for name, address in self.ready_pods().items()}

    def service(self) -> str:
        """Client URL by the Service's cluster address."""
        return f"http://{self.kube.get('service', self.name, '-n', self.namespace)['spec']['clusterIP']}:2379"

    def admin(self, pod: str, method: str, path: str, body: Object | None = None) -> Object:
        """An admin call to one member, with the cluster's token; raises httpx.HTTPStatusError."""
        template = "{{.data.token | base64decode}}"
        where = ("-n", self.namespace, "-o", f"go-template={template}")
        token = self.kube.kubectl("get", "secret", f"{self.name}-admin", *where).strip()
        url = f"http://{self.ready_pods()[pod]}:2380{path}"
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=20, trust_env=False)
        told: Object = answer.raise_for_status().json()
        return told

    def leader(self) -> str:
        """Its pod, as any member knows it now."""

        def known() -> str:
            node_id: str = self.admin(min(self.ready_pods()), "GET", "/admin/status")["leader"] or ""
            return node_id.rpartition("-")[0]

        return until("a leader", known, 30)

    def transfer(self, pod: str) -> None:
        """Hand leadership to `pod`, if it does not lead already."""
        if (leader := self.leader()) != pod:
            members = {m["pod"]: m["nodeID"] for m in self.get()["status"]["members"]}
            self.admin(leader, "POST", "/admin/transfer", {"target": members[pod]})

    def elected_by_wals(self) -> Iterator[tuple[int, str]]:
        """(term, node id) of the no-op entries on every volume that this cluster ever had."""
        volumes = [
            claim["spec"]["volumeName"]
            for claim in self.kube.get("pvc", "-n", self.namespace)["items"]
            if claim["metadata"]["name"].startswith(f"data-{self.name}-")
        ]
        assert volumes, "the cluster has no volumes"
        for volume in volumes:
            with tempfile.TemporaryDirectory() as directory, self.kube.volume(volume, Path(directory)) as data:
                logs = [wal for wal in data.rglob("wal") if wal.is_dir()]  # those set aside by a reset too
                assert logs, f"{volume} holds no log"
                for wal in logs:
                    yield from elected_by_wal(wal)

    @contextlib.asynccontextmanager
    async def tracked_by(self, load: Load) -> AsyncIterator[None]:
        """Keep the addresses of the load's readers those of the pods that are Ready, and its writers' the Service's."""

        async def follow() -> None:
            while True:
                members = await asyncio.to_thread(self.members)
                with contextlib.suppress(RuntimeError):  # there is no Service while there is no cluster
                    load.endpoints = [await asyncio.to_thread(self.service)]
                load.members = members or load.members
                await asyncio.sleep(1.0)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


Found = Callable[..., RaftCluster]
"""Makes a cluster of that name (and spec) and waits for it; the fixture `found` is one."""


def manifest(name: str, namespace: str = "default", **spec: object) -> Object:
    """Three members on small volumes, unless `spec` says otherwise."""
    return {
        "apiVersion": "oarlock.dev/v1alpha1",
        "kind": "RaftCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 3, "storage": {"size": "320Mi"}, **spec},
    }


def is_ready(thing: Object) -> bool:
    """A pod or a node."""
    conditions = thing["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
