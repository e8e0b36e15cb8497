"""A real Prometheus scrapes three members and the operator: each metric is there, and moves when it should."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from tests import grafana
from tests.e2e.cluster import Kubernetes
from tests.e2e.prometheus import Prometheus, scraping
from tests.e2e.raftcluster import RaftCluster

OF_A_MEMBER = {
    *("oarlock_raft_term", "oarlock_raft_role", "oarlock_raft_leader_changes_total"),
    *("oarlock_raft_elections_started_total", "oarlock_raft_elections_won_total"),
    *("oarlock_raft_election_duration_seconds_bucket", "oarlock_raft_commit_index", "oarlock_raft_applied_index"),
    *("oarlock_raft_last_index", "oarlock_raft_commit_lag_entries", "oarlock_raft_apply_lag_entries"),
    *("oarlock_raft_peer_match_lag_entries", "oarlock_raft_leader_contact_age_seconds"),
    *("oarlock_raft_commit_latency_seconds_bucket", "oarlock_wal_fsync_seconds_bucket"),
    *("oarlock_snapshot_count_total", "oarlock_snapshot_seconds_bucket", "oarlock_snapshot_bytes"),
    *("oarlock_snapshot_last_index", "oarlock_http_requests_total", "oarlock_http_request_seconds_bucket"),
}

OF_THE_OPERATOR = {
    *("oarlock_operator_reconciles_total", "oarlock_operator_reconcile_failures_total"),
    *("oarlock_operator_reconcile_duration_seconds_bucket", "oarlock_operator_membership_changes_total"),
}

PEER_PORT = 2380


@pytest.fixture(scope="module")
def addresses(three: RaftCluster) -> dict[str, str]:
    """Pod -> address."""
    three.wait_available(60)
    three.wait_members(3, 60)
    return three.ready_pods()


@pytest.fixture(scope="module")
def operator_address(kube: Kubernetes) -> str:
    pods = kube.get("pods", "-A", "-l", "app.kubernetes.io/name=oarlock-operator")["items"]
    return next(p["status"]["podIP"] for p in pods if p["status"]["phase"] == "Running")


@pytest.fixture(scope="module")
def prometheus(
    addresses: dict[str, str], operator_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    members = {name: f"{address}:2381" for name, address in addresses.items()}
    jobs = {"members": members, "operator": {"operator": f"{operator_address}:8080"}}
    of_operator = {"operator": "oarlock-system"}
    with scraping(tmp_path_factory.mktemp("prometheus"), jobs, of_operator) as running:
        running.until("up", lambda told: sum(told.values()) == 4)
        yield running


def write(address: str, key: str, seconds: float = 5.0) -> httpx.Response:
    return httpx.put(f"http://{address}:2379/v1/kv/{key}", content=b"x" * 256, timeout=seconds, trust_env=False)


def leader_of(prometheus: Prometheus) -> str:
    told = prometheus.until('oarlock_raft_role{role="leader"} == 1', lambda leaders: len(leaders) == 1)
    return next(iter(told))


@contextlib.contextmanager
def cut_off(kube: Kubernetes, pod: str) -> Iterator[None]:
    """No packet of the peer port enters or leaves the pod; clients and Prometheus still reach it."""
    found = kube.get("pod", pod, "-n", "default")
    n = int(found["spec"]["nodeName"].removeprefix("kt-"))
    netns = pod_netns(kube, n, found["status"]["podIP"])
    rules = ["add table inet cut"]
    for hook in ("input", "output"):
        rules.append(f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}")
        rules += [f"add rule inet cut {hook} tcp {side} {PEER_PORT} drop" for side in ("dport", "sport")]
    subprocess.run(["nsenter", f"--net={netns}", "nft", "-f", "-"], input="\n".join(rules), text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nsenter", f"--net={netns}", "nft", "delete", "table", "inet", "cut"], check=True)


def pod_netns(kube: Kubernetes, node: int, address: str) -> pathlib.Path:
    init = int((kube.state / f"node-{node}/pid").read_text())
    for path in pathlib.Path(f"/proc/{init}/root/run/netns").iterdir():
        shown = subprocess.run(["nsenter", f"--net={path}", "ip", "-o", "addr"], capture_output=True, text=True)
        if f" {address}/" in shown.stdout:
            return path
    raise LookupError(f"no network namespace on node {node} has {address}")


def test_each_metric_is_there(prometheus: Prometheus, addresses: dict[str, str]) -> None:
    write(addresses["three-0"], "metrics/first").raise_for_status()
    prometheus.until("sum by (member) (oarlock_http_requests_total)", lambda told: bool(told.get("three-0")))
    assert OF_A_MEMBER - prometheus.names("members") == set()
    assert OF_THE_OPERATOR - prometheus.names("operator") == set()
    for name in ("oarlock_raft_term", "oarlock_raft_commit_index", "oarlock_wal_fsync_seconds_count"):
        assert len(prometheus.ask(f"{name} > 0")) == 3, name
    assert set(prometheus.ask("sum by (member) (oarlock_raft_role)").values()) == {1.0}


def test_writes_move_the_indices_and_the_latencies(prometheus: Prometheus, addresses: dict[str, str]) -> None:
    moving = (
        "oarlock_raft_commit_index", "oarlock_raft_applied_index", "oarlock_raft_last_index",
        "oarlock_wal_fsync_seconds_count",
    )  # fmt: skip
    before = {name: prometheus.ask(name) for name in moving}
    latency = prometheus.total("oarlock_raft_commit_latency_seconds_count")
    answered = 'oarlock_http_requests_total{code=~"20.",route=~".*kv.*"}'
    requests = prometheus.total(answered)
    for n in range(20):
        write(addresses[f"three-{n % 3}"], f"metrics/{n}").raise_for_status()
    for name, values in before.items():
        prometheus.until(name, lambda told, values=values: all(told[m] > values[m] for m in values))
    prometheus.until(f"sum({answered})", lambda told: told.get("", 0) >= requests + 20, by="")
    assert prometheus.total("oarlock_raft_commit_latency_seconds_count") >= latency + 1
    prometheus.until(
        "oarlock_raft_commit_lag_entries + oarlock_raft_apply_lag_entries", lambda t: set(t.values()) == {0}
    )


def test_a_cut_off_follower_ages_and_lags(kube: Kubernetes, prometheus: Prometheus, addresses: dict[str, str]) -> None:
    leader = leader_of(prometheus)
    follower = next(name for name in sorted(addresses) if name != leader)
    age = f'oarlock_raft_leader_contact_age_seconds{{member="{follower}"}}'
    lag = f'oarlock_raft_peer_match_lag_entries{{member="{leader}",peer=~"{follower}-.*"}}'
    assert prometheus.ask(age)[follower] < 2
    with cut_off(kube, follower):
        for n in range(20):
            write(addresses[leader], f"metrics/{n}").raise_for_status()
        prometheus.until(age, lambda told: told[follower] > 3)
        prometheus.until(lag, lambda told: told[leader] >= 20)
    prometheus.until(age, lambda told: told[follower] < 2)
    prometheus.until(lag, lambda told: told[leader] == 0)


def test_a_leader_without_quorum_lags_and_another_is_elected(
    kube: Kubernetes, prometheus: Prometheus, addresses: dict[str, str]
) -> None:
    leader = leader_of(prometheus)
    others = [name for name in addresses if name != leader]
    term = prometheus.ask("oarlock_raft_term")
    counters = (
        "oarlock_raft_elections_started_total", "oarlock_raft_elections_won_total",
        "oarlock_raft_leader_changes_total", "oarlock_raft_election_duration_seconds_count",
    )  # fmt: skip
    before = {name: prometheus.total(name) for name in counters}
    with cut_off(kube, leader):
        stuck = [threading.Thread(target=attempt, args=(addresses[leader], f"metrics/{n}")) for n in range(4)]
        for thread in stuck:
            thread.start()
        prometheus.until(f'oarlock_raft_commit_lag_entries{{member="{leader}"}}', lambda told: told[leader] > 0)
        prometheus.until("oarlock_raft_term", lambda told: all(told[m] > term[m] for m in others))
        for thread in stuck:
            thread.join()
    for name, value in before.items():
        prometheus.until(f"sum({name})", lambda told, value=value: told[""] > value, by="")
    prometheus.until("oarlock_raft_commit_lag_entries", lambda told: set(told.values()) == {0})
    prometheus.until("oarlock_raft_term", lambda told: len(set(told.values())) == 1)


def attempt(address: str, key: str) -> None:
    """A write that nobody can commit: how it ends is no matter here."""
    with contextlib.suppress(httpx.TransportError):
        write(address, key, seconds=8)


def test_a_snapshot_moves_its_metrics(three: RaftCluster, prometheus: Prometheus) -> None:
    before = prometheus.ask("oarlock_snapshot_count_total")
    index = three.admin("three-1", "POST", "/admin/snapshot")["index"]
    prometheus.until("oarlock_snapshot_count_total", lambda told: told["three-1"] == before["three-1"] + 1)
    assert prometheus.ask("oarlock_snapshot_last_index")["three-1"] == index
    assert prometheus.ask("oarlock_snapshot_bytes > 0")["three-1"]
    assert prometheus.ask("oarlock_snapshot_seconds_count")["three-1"] >= 1


def test_the_operator_counts_what_it_does(three: RaftCluster, prometheus: Prometheus) -> None:
    """It counts from its own start, and the node it was on may have been off: what moves it is done here."""
    changes = "sum by (kind) (oarlock_operator_membership_changes_total)"
    passes = prometheus.total("oarlock_operator_reconciles_total")
    before = prometheus.ask(changes, by="kind")
    for replicas, kind in ((5, "added"), (3, "removed")):
        three.scale(replicas)
        three.wait_members(replicas, 120)
        wanted = before.get(kind, 0) + 2
        prometheus.until(changes, lambda told, kind=kind, wanted=wanted: told.get(kind, 0) >= wanted, 40, by="kind")
    prometheus.until("sum(oarlock_operator_reconciles_total)", lambda told: told[""] > passes, 40, by="")
    assert prometheus.total("oarlock_operator_reconcile_duration_seconds_count") >= passes


def test_every_query_of_the_dashboard_about_the_operator_has_an_answer(prometheus: Prometheus) -> None:
    """Those about members are asked in tests/integration/test_dashboard.py."""
    values = grafana.chosen(prometheus, "default", "three")
    assert values["pod"] == "(three-0|three-1|three-2)"
    asked = [query for query in grafana.queries() if query.of_operator]
    now = time.time()
    assert grafana.complaints(prometheus, asked, values, now - 120, now) == []
