"""The checked-in Grafana dashboard, asked of a Prometheus as Grafana would ask it.

Rule of this module: what is asked is what is shipped (the JSON in the chart), with the variables replaced and nothing
else; a query without an answer is a complaint, and there are no exceptions.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e.prometheus import Prometheus

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "charts/oarlock-operator/files/dashboards/oarlock.json"
OPERATOR = "oarlock_operator_"


@dataclass(frozen=True)
class Query:
    panel: str
    expression: str
    legend: str
    instant: bool

    @property
    def of_operator(self) -> bool:
        """It needs an operator; all others need members alone."""
        return OPERATOR in self.expression

    @property
    def metrics(self) -> set[str]:
        return set(re.findall(r"\b(?:oarlock|process)_\w+", self.expression))


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text())
    return loaded


def panels() -> Iterator[dict[str, Any]]:
    """Those that show something: not the rows."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def queries() -> list[Query]:
    return [
        Query(panel["title"], target["expr"], target["legendFormat"], target["instant"])
        for panel in panels()
        for target in panel["targets"]
    ]


def chosen(prometheus: Prometheus, namespace: str, cluster: str) -> dict[str, str]:
    """The variables after a person chose these two among what is offered, and left `pod` at All."""
    values = {"rate_interval": "10s", "range": "5m"}
    wanted = {"namespace": namespace, "cluster": cluster}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] != "query":
            continue
        name, query = variable["name"], replaced(variable["query"]["query"], values)
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert asked, query
        offered = prometheus.label_values(asked[1], asked[2])
        if pattern := variable.get("regex"):
            offered = {match[1] for value in offered if (match := re.search(pattern.strip("/"), value))}
        assert offered, f"${name} offers nothing: {query}"
        if not variable["multi"]:
            assert wanted[name] in offered, f"${name} offers {offered}"
        values[name] = f"({'|'.join(sorted(offered))})" if variable["multi"] else wanted[name]
    return values


def replaced(text: str, values: Mapping[str, str]) -> str:
    """With `$name`, `${name}` and `$__name` filled in. Raises KeyError for a name that nothing gives."""
    return re.sub(r"\$(?:__)?(?:\{(\w+)\}|([a-z_]+))", lambda match: values[match[1] or match[2]], text)


def complaints(
    prometheus: Prometheus, asked: list[Query], values: Mapping[str, str], begin: float, end: float
) -> list[str]:
    """Of the queries that have no number anywhere between `begin` and `end`, or whose legend would be empty."""
    assert asked
    found = []
    for query in asked:
        rows = prometheus.over(replaced(query.expression, values), begin, end)
        if not any(math.isfinite(float(value)) for row in rows for _, value in row["values"]):
            found.append(f"{query.panel}: no data: {query.expression}")
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            if not all(row["metric"].get(label) for row in rows):
                found.append(f"{query.panel}: a series without the legend's label {label}: {query.expression}")
    return found
