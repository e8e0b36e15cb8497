"""The ground that everything else stands on: the Dockerfile's image runs in a pod of a real Kubernetes."""

from __future__ import annotations

from tests.e2e.cluster import Kubernetes, until

import oarlock

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod(name: str, namespace: str, *command: str) -> dict:
    """A pod of the member's image that runs `command` once, allowed under Pod Security "restricted"."""
    container = {"name": "main", "image": "oarlock/node:0.1.0", "command": list(command), "securityContext": RESTRICTED}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def run_pod(kube: Kubernetes, name: str, namespace: str, *command: str, seconds: float = 30) -> str:
    """What the pod wrote; raises AssertionError with it if the command failed."""
    kube.apply(pod(name, namespace, *command))

    def phase() -> str | None:
        reached: str = kube.get("pod", name, "-n", namespace)["status"]["phase"]
        return reached if reached in ("Succeeded", "Failed") else None

    reached = until(f"pod {name} ends", phase, seconds)
    said = kube.kubectl("logs", "-n", namespace, name)
    kube.kubectl("delete", "pod", "-n", namespace, name, "--wait=false")
    assert reached == "Succeeded", said
    return said


def test_a_pod_of_the_image_says_its_version(kube: Kubernetes) -> None:
    """Without probes, as the restricted Pod Security standard wants it, on a read-only root file system."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ground", "labels": labels}})
    assert oarlock.__version__ in run_pod(kube, "version", "ground", "oarlock", "--version")
