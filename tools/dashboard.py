"""
The dashboard for Grafana, from the declarations of metrics.

`python -m tools.dashboard` writes deploy/grafana/imgproxy.json. A test fails where it is stale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, DataSourceRef, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.common import VizOrientation as Orientation
from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode, VariableRefresh

from imgproxy.telemetry import metric_table as table
from tools.dashboard_rows import ROWS, Panel

if TYPE_CHECKING:
    from tools.promql import Query

DASHBOARD: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "imgproxy.json"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Grafana's grid is 24 wide.
NUMBER_WIDE, NUMBER_HIGH = 4, 4
LINES_WIDE, LINES_HIGH = 12, 8


def text() -> str:
    """Return the dashboard as JSON."""
    board = (
        dashboard.Dashboard("imgproxy")
        .uid("imgproxy-edge")
        .description("Written by `python -m tools.dashboard` from src/imgproxy/telemetry/metric_table.py.")
        .tags(["imgproxy"])
        .refresh("30s")
        .time("now-3h", "now")
        .tooltip(1)  # type: ignore[arg-type]
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", f"label_values({table.BUILD.name}, job)"))
        .with_variable(_variable("instance", f'label_values({table.BUILD.name}{{job=~"$job"}}, instance)'))
    )
    for group, panels in ROWS.items():
        board.with_row(dashboard.Row(str(group)))
        for panel in panels:
            board.with_panel(_panel(panel))
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(include_all=True)
        .all_value(".*")
        .multi(multi=True)
    )


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.is_number:
        made = _number(panel)
    else:
        made = (
            timeseries.Panel()
            .height(LINES_HIGH)
            .span(LINES_WIDE)
            .min(0)
            .fill_opacity(10)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.TABLE)
                .placement(LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "max"])
                .show_legend(show_legend=True)
            )
        )
    made.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.queries[0].unit)
    for number, query in enumerate(panel.queries):
        made.with_target(_target(query, chr(ord("A") + number)))
    return made


def _number(panel: Panel) -> stat.Panel:
    latest = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = stat.Panel().height(NUMBER_HIGH).span(NUMBER_WIDE).orientation(Orientation.AUTO).no_value("none")
    made.reduce_options(latest)
    if panel.good is None:
        return made.color_mode(BigValueColorMode.NONE)
    steps = [Threshold(None, "green"), Threshold(panel.good + 0.000001, "red")]
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return made.color_mode(BigValueColorMode.BACKGROUND)


def _target(query: Query, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(name).datasource(SOURCE).expr(query.expr).legend_format(query.legend)


if __name__ == "__main__":
    DASHBOARD.parent.mkdir(exist_ok=True)
    DASHBOARD.write_text(text(), "utf-8")
