"""Queries of Prometheus, built from the declarations of metrics: a metric's type decides how it may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.telemetry.metric_kinds import Kind, Unit

if TYPE_CHECKING:
    from imgproxy.telemetry.metric_kinds import Metric

# The variables of the dashboard.
_CHOSEN = 'job=~"$job",instance=~"$instance"'
WINDOW = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, what a line is called, and the unit of its values as Grafana names it."""

    expr: str
    legend: str
    unit: str


def chosen(metric: Metric, where: str = "", ending: str = "") -> str:
    """Return the selector of a metric, for the jobs and instances that the dashboard has chosen."""
    return f"{metric.name}{ending}{{{_CHOSEN}{',' + where if where else ''}}}"


def rate(metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask how fast a counter grows a second, summed by these labels."""
    assert metric.kind is Kind.COUNTER, metric.name
    unit = {Unit.BYTES: "Bps", Unit.SECONDS: "percentunit"}.get(metric.unit, "cps")
    return Query(
        f"sum{_by(by)} (rate({chosen(metric, where)}[{WINDOW}]))", legend or _legend(by) or _short(metric), unit
    )


def observed(metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask how often a histogram was given a value, a second."""
    assert metric.kind is Kind.HISTOGRAM, metric.name
    selector = chosen(metric, where, "_count")
    return Query(f"sum{_by(by)} (rate({selector}[{WINDOW}]))", legend or _legend(by) or _short(metric), "cps")


def quantile(share: float, metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask below which value this share of a histogram's values lies."""
    assert metric.kind is Kind.HISTOGRAM, metric.name
    selector = chosen(metric, where, "_bucket")
    name = f"p{share * 100:g}"
    return Query(
        f"histogram_quantile({share:g}, sum{_by(('le', *by))} (rate({selector}[{WINDOW}])))",
        legend or f"{name} {_legend(by)}".strip(),
        "s",
    )


def total(metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask for a gauge, summed by these labels."""
    return _gauge("sum", metric, by, where, legend)


def largest(metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask for the largest value of a gauge by these labels."""
    return _gauge("max", metric, by, where, legend)


def smallest(metric: Metric, *by: str, where: str = "", legend: str = "") -> Query:
    """Ask for the smallest value of a gauge by these labels."""
    return _gauge("min", metric, by, where, legend)


def ratio(part: Query, whole: Query, legend: str) -> Query:
    """Ask for the share of one query in another. Neither may have labels. It has no value while the whole is 0."""
    return Query(f"({part.expr} or vector(0)) / ({whole.expr} > 0)", legend, "percentunit")


def _gauge(how: str, metric: Metric, by: tuple[str, ...], where: str, legend: str) -> Query:
    assert metric.kind in (Kind.GAUGE, Kind.INFO), metric.name
    unit = {Unit.BYTES: "bytes", Unit.SECONDS: "s"}.get(metric.unit, "short")
    return Query(f"{how}{_by(by)} ({chosen(metric, where)})", legend or _legend(by) or _short(metric), unit)


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _legend(by: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by)


def _short(metric: Metric) -> str:
    return metric.name.removeprefix("imgproxy_").removesuffix("_total").replace("_", " ")
