"""The PromQL that panels are made of: which series, and what is asked of them.

* Members are chosen by the labels `namespace` and `pod` alone, which every way to scrape pods gives; the pods of a
  cluster are `<cluster>-<number>`. The operator's series themselves name the namespace and cluster they are about.
* A counter is shown by its rate, and what happens rarely by its increase, so that one event can be seen.
"""

from __future__ import annotations

MEMBERS = 'namespace="$namespace",pod=~"$pod"'
OPERATOR = 'namespace="$namespace",cluster="$cluster"'
EVERY = "$__rate_interval"


def m(metric: str, matcher: str = "") -> str:
    """The members' series of a metric."""
    return f"{metric}{{{','.join(filter(None, (MEMBERS, matcher)))}}}"


def o(metric: str) -> str:
    """The operator's series about this cluster."""
    return f"{metric}{{{OPERATOR}}}"


def rate(selected: str, by: str = "pod") -> str:
    return f"sum by ({by}) (rate({selected}[{EVERY}]))"


def rise(selected: str, by: str = "pod") -> str:
    return f"sum by ({by}) (increase({selected}[{EVERY}]))"


def quantile(q: float, selected: str, by: str = "pod") -> str:
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({selected}[{EVERY}])))"
