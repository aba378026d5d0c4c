"""Alerts: each fires and is silent as it should, names metrics that exist, and has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imgproxy.telemetry.metric_table import METRICS
from tests.support.alert_cases import CASES
from tools.alert_rules import RULES, every_alert, rules
from tools.reference_pages import DOCS

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {name for metric in METRICS for name in metric.sample_names}
PROMTOOL = shutil.which("promtool") or ""
needs_promtool = pytest.mark.skipif(
    not PROMTOOL, reason="promtool is missing: it comes with Debian's package prometheus"
)


def test_the_rules_are_what_is_declared() -> None:
    """After a change of an alert: python -m tools.alert_rules."""
    assert RULES.read_text("utf-8") == rules(), "run: python -m tools.alert_rules"


def test_every_metric_of_an_alert_is_declared() -> None:
    """A metric that was renamed would make an alert silent for ever. `up` is Prometheus' own."""
    for alert in every_alert():
        named = set(re.findall(r"\b(?:imgproxy|process)_[a-z_]+\b", re.sub(r"{[^}]*}", "", alert.expr)))

        assert named <= NAMES, alert.name
        assert named or alert.expr.startswith("up{")


def test_every_alert_has_a_runbook() -> None:
    """The link of each leads to a heading of docs/runbooks.md."""
    headings = {line.removeprefix("### ").lower() for line in (DOCS / "runbooks.md").read_text("utf-8").splitlines()}
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

            assert page == "docs/runbooks.md"
            assert anchor in headings


def test_links_begin_where_the_team_has_the_documentation() -> None:
    """`--docs` changes the links, and nothing else."""
    assert rules("https://docs.example/x/").replace("https://docs.example/x/", "docs/") == rules()


@needs_promtool
def test_every_alert_fires_in_one_case_and_is_silent_in_another(tmp_path: Path) -> None:
    """`promtool test rules` evaluates all rules over the series of all cases; each case is an instance of its own."""
    declared = {rule["alert"]: rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]}
    assert CASES.keys() == declared.keys()
    series = [
        {"series": one.replace("edge-1:8080", f"{name}-{word}"), "values": values}
        for name, case in CASES.items()
        for word, chosen in (("fires", case.fires), ("silent", case.silent))
        for one, values in chosen.items()
    ]
    tests = [
        {"eval_time": "120m", "alertname": name, "exp_alerts": [firing(declared[name], name, case.labels)]}
        for name, case in CASES.items()
    ]
    cases = {
        "rule_files": [str(RULES)],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": tests}],
    }
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases), "utf-8")
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(tmp_path / "cases.yml")], text=True, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def firing(rule: dict[str, Any], name: str, more: dict[str, str]) -> dict[str, Any]:
    """Return what Prometheus says when a rule fires for the instance of its case."""
    labels = {"instance": f"{name}-fires", **more}
    return {
        "exp_labels": {**labels, **rule["labels"]},
        "exp_annotations": {
            key: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
            for key, text in rule["annotations"].items()
        },
    }


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    """Syntax, durations and templates."""
    done = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], text=True, capture_output=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
