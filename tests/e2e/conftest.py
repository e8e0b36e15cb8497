"""One Kubernetes for the session; on a failure its state and logs go to build/test-logs/e2e."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import time
from collections.abc import Iterator

import pytest
from tests.e2e.cluster import ROOT, Kubernetes, prepared
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import RaftCluster

KEPT = ROOT / "build/test-logs/e2e"


@pytest.fixture(scope="session")
def kube() -> Iterator[Kubernetes]:
    """Three nodes, both images loaded, nothing applied."""
    began = time.monotonic()
    binaries, archives = prepared()
    cluster = Kubernetes(binaries)
    try:
        cluster.start()
        cluster.load(*archives)
        print(f"images loaded {time.monotonic() - began:.0f} s after the start", flush=True)
        yield cluster
        dump(cluster, KEPT)
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def logs(kube: Kubernetes) -> Iterator[LogKeeper]:
    keeper = LogKeeper(kube.state)
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture(scope="session")
def three(kube: Kubernetes, logs: LogKeeper) -> RaftCluster:
    """`kubectl apply` of the operator, and of the sample of three, where Pod Security is restricted."""
    kube.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    kube.kubectl("apply", "-f", ROOT / "manifests/install.yaml")
    kube.kubectl("wait", "--for=condition=established", "crd/raftclusters.oarlock.dev", "--timeout=30s")
    kube.kubectl("apply", "-f", ROOT / "manifests/samples/three.yaml")
    return RaftCluster(kube, "three")


def dump(kube: Kubernetes, directory: pathlib.Path) -> None:
    """What a person would look at first."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, arguments in {
        "objects": ("get", "nodes,pods,raftclusters,statefulsets,pvc,pdb,services,leases", "-A", "-o", "wide"),
        "clusters": ("get", "raftclusters", "-A", "-o", "yaml"),
        "pods": ("describe", "pods", "-A"),
        "events": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
    }.items():
        with contextlib.suppress(RuntimeError):
            (directory / f"{name}.txt").write_text(kube.kubectl(*arguments))
    for log in (kube.state / "kept-logs").glob("*.log"):
        shutil.copy(log, directory)
