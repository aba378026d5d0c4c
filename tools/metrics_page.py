"""The page of every metric, docs/metrics.md, from the declarations. `python -m tools.reference_pages` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.telemetry.metric_kinds import Group, Kind, Label, Metric, Unit
from imgproxy.telemetry.metric_table import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEAD: Final = """\
# Metrics

<!-- written by `python -m tools.reference_pages` from src/imgproxy/telemetry/metric_table.py -->

`/-/metrics` has them in Prometheus' text format. It needs the admin token:

```yaml
scrape_configs:
  - job_name: imgproxy
    metrics_path: /-/metrics
    authorization: {credentials_file: /etc/prometheus/imgproxy-admin-token}
    static_configs:
      - targets: ["edge-1:8080", "edge-2:8080"]
```

`deploy/grafana/imgproxy.json` is a dashboard with the questions below as its rows: import it, and choose the data source and the job.
`deploy/prometheus/alerts.yml` has the alerts; [runbooks](runbooks.md) says of each what it means and what to do. Both are made from the same
declarations as this page, and expect a job whose name has `imgproxy` in it.

A counter grows until the process starts again: ask for its `rate()` or `increase()`. A histogram has the samples `_bucket`, `_sum`
and `_count`. Each label has the values that are listed here: nothing that a visitor sends makes a new one. A metric that names a
section of the configuration is there only with that section.
"""


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for group in Group:
        rows = [metric for metric in METRICS if metric.group is group]
        parts.append(f"## {group}\n\n| metric | type | meaning |\n|---|---|---|\n" + "\n".join(map(_row, rows)) + "\n")
    parts.append("## Labels\n\n| metric | label | values |\n|---|---|---|\n" + "\n".join(_labels()) + "\n")
    parts.append(
        "## Buckets\n\nUpper bounds, in seconds.\n\n| metric | buckets |\n|---|---|\n" + "\n".join(_buckets()) + "\n"
    )
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    names = f"{{{', '.join(metric.label_names)}}}" if metric.labels else ""
    unit = f", {metric.unit}" if metric.unit is not Unit.NUMBER else ""
    needs = f" (`{metric.needs}`)".replace(" or ", "` or `") if metric.needs else ""
    return f"| `{metric.name}{names}` | {metric.kind}{unit} | {metric.help}{needs} |"


def _labels() -> Iterable[str]:
    for metric in METRICS:
        for label in metric.labels:
            yield f"| `{metric.name}` | `{label.name}` | {_values(label)} |"


def _values(label: Label) -> str:
    return ", ".join(f"`{value}`" for value in label.values) or label.bound


def _buckets() -> Iterable[str]:
    for metric in METRICS:
        if metric.kind is Kind.HISTOGRAM:
            yield f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |"
