"""The operator's metrics, served on :8080/metrics. Labels are few and bounded by the number of clusters."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .actions import Decision, Wait

ACTIONS = tuple(kind.__name__ for kind in get_args(Decision) if kind is not Wait)


class Metrics:
    def __init__(self, registry: CollectorRegistry | None = None):
        self.registry = registry if registry is not None else CollectorRegistry()
        where = ("namespace", "cluster")
        self.reconciles = Counter(
            "oarlock_operator_reconciles_total",
            "Passes over a cluster, by result.",
            (*where, "result"),
            registry=self.registry,
        )
        self.failures = Counter(
            "oarlock_operator_reconcile_failures_total", "Passes that ended in an error.", where, registry=self.registry
        )
        self.duration = Histogram(
            "oarlock_operator_reconcile_duration_seconds",
            "How long a pass took.",
            where,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.membership = Counter(
            "oarlock_operator_membership_changes_total",
            "Members added, promoted, demoted or removed, as seen in committed configurations.",
            (*where, "kind"),
            registry=self.registry,
        )
        self.actions = Counter(
            "oarlock_operator_actions_total", "Actions done, by kind.", (*where, "action"), registry=self.registry
        )
        self.clusters = Gauge("oarlock_operator_clusters", "Clusters that are watched over.", registry=self.registry)

    def introduce(self, namespace: str, cluster: str) -> None:
        """Make the series of a cluster exist at zero, so that a first increase can be seen."""
        self.failures.labels(namespace, cluster)
        self.duration.labels(namespace, cluster)
        for result in ("ok", "error", "standby"):
            self.reconciles.labels(namespace, cluster, result)
        for kind in ("added", "promoted", "demoted", "removed"):
            self.membership.labels(namespace, cluster, kind)
        for action in ACTIONS:
            self.actions.labels(namespace, cluster, action)
