"""The dashboard as a file: what Grafana needs is there, and it names each metric that exists and no other."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from charts.dashboards.oarlock import LEFT_OUT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from tests import grafana
from tests.charts.rendering import OPERATOR, manifests
from tests.member import running_member

from oarlock_operator.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
QUERIES = grafana.queries()
PANELS = list(grafana.panels())


def test_it_is_a_dashboard_by_grafana_s_own_types() -> None:
    """Read into them and written again it is the same: no field that they do not have, none of another type."""
    read = model.Dashboard.from_json(grafana.dashboard())
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == grafana.dashboard()
    assert re.fullmatch(r"[a-z0-9-]{1,40}", grafana.dashboard()["uid"])


def test_identifiers_and_titles_are_unique() -> None:
    identifiers = collections.Counter(panel["id"] for panel in grafana.dashboard()["panels"])  # rows have one too
    titles = collections.Counter(panel["title"] for panel in PANELS)
    for found in (identifiers, titles):
        assert found.most_common(1)[0][1] == 1, found.most_common(2)


def test_no_panel_covers_another_or_leaves_the_grid() -> None:
    places = [panel["gridPos"] for panel in grafana.dashboard()["panels"]]
    assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places)
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict) -> None:
    """A unit that Grafana knows, a legend, and a description with what is normal; the data source is the variable's."""
    known = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
    assert panel["fieldConfig"]["defaults"]["unit"] in known
    assert "Normal: " in panel["description"]
    assert len(panel["description"]) > 60
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert source == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_a_query_asks_of_the_chosen_cluster_alone(query: grafana.Query) -> None:
    for metric, selected in re.findall(r"\b((?:oarlock|process)_\w+)(?:\{([^}]*)\})?", query.expression):
        wanted = 'cluster="$cluster"' if metric.startswith(grafana.OPERATOR) else 'pod=~"$pod"'
        whole = metric == "oarlock_operator_clusters"  # the operator's own, of no cluster
        assert whole or ('namespace="$namespace"' in selected and wanted in selected), query


async def test_every_metric_is_on_a_panel_or_left_out_on_purpose(tmp_path: Path) -> None:
    async with running_member(tmp_path) as member:
        told = (await member.ops.get("/metrics")).text
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", told, re.M))
    for family in Metrics().registry.collect():
        families[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
    exist = {name.removesuffix("_total"): SERIES[kind] for name, kind in families.items()}
    series = {name + ending for name, endings in exist.items() for ending in endings}
    assert len(exist) > 60

    shown = set().union(*(query.metrics for query in QUERIES))
    assert shown - series == set(), "panels name metrics that do not exist"
    on_panels = {name for name, endings in exist.items() if any(name + ending in shown for ending in endings)}
    assert exist.keys() - on_panels == LEFT_OUT.keys(), "metrics on no panel, against those left out with a reason"


def test_the_manifest_holds_the_same_and_can_be_applied() -> None:
    text = (ROOT / "manifests/grafana-dashboard.yaml").read_text()
    made = yaml.safe_load(text)
    assert (made["kind"], made["metadata"]["labels"]) == ("ConfigMap", {"grafana_dashboard": "1"})
    assert json.loads(made["data"]["oarlock.json"]) == grafana.dashboard()
    assert len(json.dumps(made)) < 250 * 1024, "kubectl apply keeps it whole in an annotation of 256 KiB at most"


def test_the_operator_s_series_keep_the_namespace_that_they_name() -> None:
    """Else Prometheus overwrites it with the operator's own, and the operator's row is empty."""
    monitor = manifests(OPERATOR, metrics__serviceMonitor="Always")["ServiceMonitor/op-oarlock-operator"]
    assert [endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"]] == [True]


def test_the_chart_s_config_map_holds_the_same() -> None:
    made = manifests(OPERATOR)["ConfigMap/op-oarlock-operator-dashboard"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["oarlock.json"]) == grafana.dashboard()


def test_a_metric_that_is_misspelt_is_found() -> None:
    """The extraction sees every metric of an expression, and nothing else in it."""
    query = dataclasses.replace(
        QUERIES[0], expression='sum by (le) (rate(oarlock_a_bucket{pod=~"$pod"}[5m])) / process_b'
    )
    assert query.metrics == {"oarlock_a_bucket", "process_b"}
