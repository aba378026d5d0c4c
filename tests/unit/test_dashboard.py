"""The dashboard is what is declared, and shows every metric that is declared."""

from __future__ import annotations

import json
import re

from imgproxy.telemetry.metric_kinds import Group
from imgproxy.telemetry.metric_table import METRICS
from tools.alert_rules import every_alert
from tools.dashboard import DASHBOARD, text


def expressions() -> list[str]:
    """Return the expression of every panel of the file."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def named(expression: str) -> set[str]:
    """Return the metrics that an expression names. What is between braces are labels."""
    return set(re.findall(r"\b(?:imgproxy|process)_[a-z_]+\b", re.sub(r"{[^}]*}", "", expression)))


def test_the_dashboard_is_what_is_declared() -> None:
    """After a change of a metric or a panel: python -m tools.dashboard."""
    assert DASHBOARD.read_text("utf-8") == text(), "run: python -m tools.dashboard"


def test_every_metric_of_a_panel_is_declared_and_every_metric_has_a_panel() -> None:
    """A metric that was renamed would leave a panel empty; one that nobody sees could as well be missing."""
    shown = set().union(*map(named, expressions()))
    declared = {name: metric for metric in METRICS for name in metric.sample_names}

    assert shown <= declared.keys()
    assert {declared[name] for name in shown} == set(METRICS)
    assert all(named(expression) for expression in expressions())


def test_the_rows_are_the_questions_in_their_order() -> None:
    """An operator reads from above: is it well, what do readers wait for, and so on."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]

    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [str(group) for group in Group]


def test_every_alert_can_be_looked_at() -> None:
    """What an alert asks is on the dashboard, too."""
    shown = set().union(*map(named, expressions()))
    for alert in every_alert():
        assert named(alert.expr) <= shown, alert.name
