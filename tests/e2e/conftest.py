"""One Kubernetes for the session; on a failure its state and logs go to build/test-logs/e2e."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

import pytest
from tests.e2e import audit, operators
from tests.e2e.cluster import IMAGES, NEXT, ROOT, Kubernetes, next_images, prepared
from tests.e2e.logs import LogKeeper
from tests.e2e.raftcluster import Found, RaftCluster, manifest

KEPT = ROOT / "build/test-logs/e2e"
AUDIT = pathlib.Path(os.environ.get("OARLOCK_AUDIT") or ROOT / "build/audit.log")


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
        keep_audit(cluster)
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def logs(kube: Kubernetes) -> Iterator[LogKeeper]:
    keeper = LogKeeper(kube.state)
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture(scope="session")
def installed(kube: Kubernetes, logs: LogKeeper) -> Kubernetes:
    """`kubectl apply` of the operator; Pod Security is restricted where the clusters will be."""
    kube.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    operators.install(kube)
    return kube


@pytest.fixture(scope="session")
def newer(kube: Kubernetes) -> dict[str, str]:
    """Names of images whose programs report the version NEXT, by what they are; loaded on every node."""
    kube.load(*next_images())
    return {what: f"{name.removeprefix('docker.io/').rpartition(':')[0]}:{NEXT}" for what, name in IMAGES.items()}


@pytest.fixture
def found(installed: Kubernetes) -> Iterator[Found]:
    """What it makes is removed after the test, volumes too."""
    made: list[RaftCluster] = []

    def one(name: str, **spec: object) -> RaftCluster:
        cluster = RaftCluster(installed, name)
        made.append(cluster)
        installed.apply(manifest(name, **spec))
        cluster.wait_available(60)
        cluster.wait_members(cluster.get()["spec"]["replicas"], 60)
        return cluster

    yield one
    for cluster in made:
        cluster.remove()


@pytest.fixture(scope="session")
def three(installed: Kubernetes) -> RaftCluster:
    """The sample of three."""
    kube = installed
    kube.kubectl("apply", "-f", ROOT / "manifests/samples/three.yaml")
    return RaftCluster(kube, "three")


def keep_audit(kube: Kubernetes) -> None:
    """The audit log, for whoever looks for rights that nobody used; raises AssertionError if a right was missing."""
    AUDIT.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(kube.state / "audit.log", AUDIT)
    refusals = audit.report(AUDIT, []).refusals
    assert not refusals, "the operator was refused:\n" + "\n".join(refusals)


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
    for log in (*kube.state.glob("node-*/log/*.log"), *kube.state.glob("node-*/node.log")):
        shutil.copy(log, directory / str(log.relative_to(kube.state)).replace("/", "-"))
