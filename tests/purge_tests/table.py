"""The outcomes as a table in Markdown, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scenarios import Outcome
    from .targets import Target


def markdown(results: Sequence[tuple[Target, dict[str, Outcome]]]) -> str:
    """Make the table: a row for each scenario, a column for each proxy. A cell that does not hold says what was seen."""
    titles = list(dict.fromkeys(title for _, outcomes in results for title in outcomes))
    names = [f"{target.name} {target.version}".strip() for target, _ in results]
    rows = [["the purge meets", *names], ["---", *("---" for _ in names)]]
    rows += [[title, *(_cell(outcomes.get(title)) for _, outcomes in results)] for title in titles]
    held = [sum(item.holds is True for item in outcomes.values()) for _, outcomes in results]
    asked = [sum(item.holds is not None for item in outcomes.values()) for _, outcomes in results]
    rows.append(["**holds**", *(f"**{count} of {of}**" for count, of in zip(held, asked, strict=True))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def page(results: Sequence[tuple[Target, dict[str, Outcome]]], *, scenarios: dict[str, str], date: str) -> str:
    """Make the page of the documentation: the table, and what was measured, how and when."""
    lines = [
        "# What a purge means: imgproxy, Varnish, nginx",
        "",
        "Each row is a scenario: a picture is cached, or being fetched, when it is replaced or revoked at the origin and",
        "purged. **kept** means: a request that came after the confirmed purge still got the old picture. The suite is also",
        "the origin. It holds its answers, so that the order of events is the same in each run.",
        "",
        markdown(results).strip(),
        "",
        "Varnish and nginx alone are configured as in their manuals (`tests/purge_tests/configs/`). Varnish has three",
        "columns, one for each way to purge it. Open-source nginx has no purge. `imgproxy + …` is our edge behind the",
        "configurations in `deploy/`. It is purged by one call to the edge.",
        "",
        f"Measured on {date} by `cd tests && python -m purge_tests --page ../docs/purge-comparison.md`. The head of the",
        "table has the versions. The suite can test any proxy: `python -m purge_tests --help`.",
        "",
        "| scenario | what is expected |",
        "| --- | --- |",
        *(f"| {title} | {text} |" for title, text in scenarios.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.holds is True:
        return "holds" if outcome.note in ("", "new") or "," not in outcome.note else f"holds: {outcome.note}"
    if outcome.holds is None:
        return f"does not apply: {outcome.note}"
    if "old" not in outcome.note:
        return f"fails: {outcome.note}"
    return "**kept**" if outcome.note == "old" else f"**kept**: {outcome.note}"


def as_json(results: Sequence[tuple[Target, dict[str, Outcome]]]) -> str:
    """Make JSON: a list of proxies, each with its outcomes."""
    found = [
        {
            "name": target.name,
            "version": target.version,
            "outcomes": {title: {"holds": item.holds, "seen": item.note} for title, item in outcomes.items()},
        }
        for target, outcomes in results
    ]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
