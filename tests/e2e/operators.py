"""The operator as a process that can die: installed, found on its node, killed in the middle of an operation.

Rules of this module:
* It dies by SIGKILL, as by an out-of-memory kill or a power loss: no word of it is said after that.
* A kill counts only if `status.operation` is still there, unfinished, when it is dead.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from tests.e2e.cluster import ROOT, Kubernetes, Object
from tests.e2e.watch import Watch

NAMESPACE = "oarlock-system"
LABEL = "app.kubernetes.io/name=oarlock-operator"


def install(kube: Kubernetes) -> None:
    """By `kubectl apply`, as the README has it; returns when its resource is served and it runs."""
    kube.kubectl("apply", "-f", ROOT / "manifests/install.yaml")
    kube.kubectl("wait", "--for=condition=established", "crd/raftclusters.oarlock.dev", "--timeout=60s")
    kube.kubectl("rollout", "status", "deployment/oarlock-operator", "-n", NAMESPACE, "--timeout=60s")


def another(name: str, image: str) -> list[Object]:
    """The objects of a second operator beside the first: its own deployment, account and binding; the same rights."""
    objects = []
    for one in yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text()):
        if one is None or one["kind"] in ("CustomResourceDefinition", "Namespace", "ClusterRole"):
            continue
        one["metadata"]["name"] = one["metadata"]["name"].replace("oarlock-operator", name)
        for subject in one.get("subjects", []):
            subject["name"] = name
        if one["kind"] == "Deployment":
            for labels in (one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]):
                labels["app.kubernetes.io/instance"] = name
            pod = one["spec"]["template"]["spec"]
            pod["serviceAccountName"] = name
            pod["containers"][0]["image"] = image
        objects.append(one)
    return objects


def processes(pod_uid: str = "") -> Iterator[int]:
    """Host's ids of the operator's processes on the test's nodes; of one pod, if its uid is given."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            group = (path / "cgroup").read_text().replace("_", "-")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        ours = "/kt/" in group and pod_uid in group
        if ours and any(part.endswith(b"/oarlock-operator") for part in command[:2]):
            yield int(path.name)


def holder(kube: Kubernetes, cluster: str, namespace: str) -> str:
    """Name of the pod whose operator holds the cluster's Lease; empty when nobody does."""
    lease = kube.find("lease", f"oarlock-{cluster}", "-n", namespace)
    identity = (lease or {}).get("spec", {}).get("holderIdentity", "")
    return str(identity).rpartition("-")[0]


def kill(pod_uid: str = "") -> list[int]:
    """SIGKILL; returns who was killed."""
    killed = list(processes(pod_uid))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


def replace_pods(kube: Kubernetes) -> None:
    """Delete its pods, dead as they are, so that no back-off of the kubelet delays the next one."""
    kube.kubectl("delete", "pods", "-n", NAMESPACE, "-l", LABEL, "--grace-period=0", "--force", "--wait=false")


@dataclass(frozen=True)
class Killed:
    """One kill that counted: what was under way, and still is."""

    type: str
    step: str


async def kill_during(
    kube: Kubernetes, watch: Watch, namespace: str, name: str, kind: str, after_seconds: float
) -> Killed:
    """Kill the operator `after_seconds` into such an operation; raises AssertionError if that had ended by then."""
    told = await watch.until(lambda status: (status.get("operation") or {}).get("type") == kind, 120)
    await asyncio.sleep(after_seconds)
    assert kill(), "there is no operator to kill"
    now = await asyncio.to_thread(kube.get, "raftcluster", name, "-n", namespace)
    operation = now.get("status", {}).get("operation") or {}
    assert operation.get("type") == kind, (
        f"{kind} had ended before the kill: {told.get('operation')} became {operation}"
    )
    await asyncio.to_thread(replace_pods, kube)
    return Killed(operation["type"], operation.get("step", ""))
