"""Words for writing a dashboard: queries, panels, rows.

* Every panel has a unit, a legend and a description that says what is normal and what to do when it is not.
* A panel's data source is always the dashboard's variable, never a name.
* Identifiers are given in order, so that the same source makes the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, dashboard

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
Colour = Literal["green", "orange", "red"]
Panel = stat.Panel | timeseries.Panel | statetimeline.Panel
P = TypeVar("P", stat.Panel, timeseries.Panel, statetimeline.Panel)


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str


def graph(
    title: str, description: str, unit: str, *queries: Query, span: int = 8, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time. Not a single point is hidden: a rare event is one point."""
    panel = (
        timeseries.Panel()
        .draw_style(common.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(common.VisibilityMode.AUTO)
        .axis_soft_min(0)
        .legend(
            build_common.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel = panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL))
    return _filled(panel, title, description, unit, queries, size=(span, 8), latest=False)


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    above: tuple[tuple[float, Colour], ...] = (),
    names: bool = False,
    span: int = 3,
) -> stat.Panel:
    """The latest value, green until it is `above` a bound; with `names` the legend is what is shown."""
    values = len(queries) > 1
    mode = common.BigValueTextMode.VALUE_AND_NAME if values else common.BigValueTextMode.VALUE
    panel = (
        stat.Panel()
        .reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.NAME if names else mode)
        .thresholds(
            build.ThresholdsConfig()
            .mode(dashboard.ThresholdsMode.ABSOLUTE)
            .steps(
                [
                    dashboard.Threshold(value=None, color="green"),
                    *(dashboard.Threshold(value=bound, color=colour) for bound, colour in above),
                ]
            )
        )
    )
    return _filled(panel, title, description, unit, queries, size=(span, 4), latest=True)


def timeline(
    title: str, description: str, query: Query, words: dict[int, tuple[str, str]], span: int = 8
) -> statetimeline.Panel:
    """A bar for each series, coloured by value: `words` gives each value its word and colour."""
    told = {
        str(value): dashboard.ValueMappingResult(text=word, color=colour, index=n)
        for n, (value, (word, colour)) in enumerate(words.items())
    }
    panel = (
        statetimeline.Panel()
        .mappings([dashboard.ValueMap(options=told)])
        .show_value(common.VisibilityMode.NEVER)
        .row_height(0.8)
        .legend(
            build_common.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    return _filled(panel, title, description, "none", (query,), size=(span, 8), latest=False)


def _filled(
    panel: P, title: str, description: str, unit: str, queries: Sequence[Query], *, size: tuple[int, int], latest: bool
) -> P:
    span, height = size
    panel.title(title).description(description).unit(unit).datasource(SOURCE).height(height).span(span)
    for letter, query in zip("ABCDEFGH", queries):  # noqa: B905 - no panel has eight
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(letter)
        panel.with_target((target.instant() if latest else target.range()).datasource(SOURCE))
    return panel


def variable(
    name: str, label: str, description: str, query: str, *, regex: str = "", several: bool = False
) -> build.QueryVariable:
    """What a label can be, from Prometheus, read again when the shown time changes."""
    made = (
        build.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "refId": name, "qryType": 1})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )
    if regex:
        made = made.regex(regex)
    if several:
        every = dashboard.VariableOption(text="All", value="$__all", selected=True)
        made = made.multi(True).include_all(True).current(every)
    return made


def source_variable() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def assembled(
    title: str, uid: str, description: str, variables: Sequence[object], rows: dict[str, Sequence[Panel]]
) -> dashboard.Dashboard:
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["oarlock", "raft"])
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .variables(list(variables))
    )
    identifier = 0
    for name, panels in rows.items():
        identifier += 1
        made.with_row(build.Row(name).id(identifier))
        for panel in panels:
            identifier += 1
            made.with_panel(panel.id(identifier))
    return made.build()
