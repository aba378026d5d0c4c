"""
The alerts as Prometheus' rules, and as runbooks.

`python -m tools.alert_rules` writes deploy/prometheus/alerts.yml. With `--docs URL` the runbook links begin with the address where
your team has the documentation. `tools.reference_pages` writes docs/runbooks.md.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tools.alert_table import ALERTS, Alert

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES: Final = Path(__file__).parents[1] / "deploy" / "prometheus" / "alerts.yml"
DOCS: Final = "docs"
_HEAD: Final = "# Written by `python -m tools.alert_rules` from tools/alert_table.py. docs/runbooks.md explains each.\n"
_RUNBOOKS: Final = """\
# Runbooks

<!-- written by `python -m tools.reference_pages` from tools/alert_table.py -->

What each alert of `deploy/prometheus/alerts.yml` means, what to look at, and what to do. `critical` is for the pager, `warning` for the
next morning. The alerts link here: `python -m tools.alert_rules --docs https://docs.example.com/imgproxy` writes the links for the place
where your team reads. What the metrics count: [metrics](metrics.md).
"""


def every_alert() -> Iterator[Alert]:
    """Give each alert."""
    for alerts in ALERTS.values():
        yield from alerts


def rules(docs: str = DOCS) -> str:
    """Return the file of rules. `docs` is where the links begin."""
    groups = [
        {"name": f"imgproxy: {name}", "rules": [_rule(alert, docs) for alert in alerts]}
        for name, alerts in ALERTS.items()
    ]
    text: str = yaml.safe_dump({"groups": groups}, sort_keys=False, width=160, allow_unicode=True)
    return _HEAD + text


def _rule(alert: Alert, docs: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": _severity(alert)},
        "annotations": {
            "summary": alert.summary,
            "description": _plain(alert.means),
            "runbook_url": f"{docs.rstrip('/')}/runbooks.md#{alert.name.lower()}",
        },
    }


def _severity(alert: Alert) -> str:
    return "critical" if alert.is_urgent else "warning"


def _plain(text: str) -> str:
    """Return a text without Markdown's links."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)


def runbooks() -> str:
    """Return the page of runbooks."""
    parts = [_RUNBOOKS]
    for name, alerts in ALERTS.items():
        parts.append(f"## {name[0].upper()}{name[1:]}\n")
        parts += map(_runbook, alerts)
    return "\n".join(parts)


def _runbook(alert: Alert) -> str:
    holds = f"for {alert.wait}" if alert.wait != "0m" else "at once"
    return (
        f"### {alert.name}\n\n**{_severity(alert)}**, {holds}: `{alert.expr}`\n\n"
        f"- **What it means.** {alert.means}\n- **What to look at.** {alert.look}\n- **What to do.** {alert.do}\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", default=DOCS, help="where the runbook links begin")
    RULES.parent.mkdir(exist_ok=True)
    RULES.write_text(rules(parser.parse_args().docs), "utf-8")
