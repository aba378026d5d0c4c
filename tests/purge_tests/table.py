"""The outcomes as a table in Markdown, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scenarios import Outcome
    from .targets import Target


def markdown(results: Sequence[tuple[Target, dict[str, Outcome]]]) -> str:
    """One row a scenario, one column a proxy; what was seen stands beside what does not hold."""
    titles = list(dict.fromkeys(title for _, outcomes in results for title in outcomes))
    names = [f"{target.name} {target.version}".strip() for target, _ in results]
    rows = [["the purge meets", *names], ["---", *("---" for _ in names)]]
    rows += [[title, *(_cell(outcomes.get(title)) for _, outcomes in results)] for title in titles]
    held = [sum(item.holds is True for item in outcomes.values()) for _, outcomes in results]
    asked = [sum(item.holds is not None for item in outcomes.values()) for _, outcomes in results]
    rows.append(["**holds**", *(f"**{count} of {of}**" for count, of in zip(held, asked, strict=True))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def page(results: Sequence[tuple[Target, dict[str, Outcome]]], *, scenarios: dict[str, str], date: str) -> str:
    """The table as a page of the documentation, with what was measured, how and when."""
    lines = [
        "# What a purge means: imgproxy, Varnish, nginx",
        "",
        "Each row is a scenario: a picture is cached, or on its way, when it is replaced or revoked at the origin and",
        "purged. **kept** means that a request which came after the purge was confirmed got the old picture. The suite",
        "plays the origin and holds its answers, so that every order of events is the same in each run.",
        "",
        markdown(results).strip(),
        "",
        "Varnish and nginx stand here as their manuals configure them (`tests/purge_tests/configs/`); Varnish's columns",
        "are its three ways to purge. `imgproxy + …` is our edge behind the configurations in `deploy/`, purged by one",
        "call to the edge. Open-source nginx has no purge.",
        "",
        f"Measured on {date} by `cd tests && python -m purge_tests --page ../docs/purge-comparison.md`, with the versions",
        "in the head of the table. It runs against any proxy: `python -m purge_tests --help`.",
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
    """A list of proxies, each with its outcomes."""
    found = [
        {
            "name": target.name,
            "version": target.version,
            "outcomes": {title: {"holds": item.holds, "seen": item.note} for title, item in outcomes.items()},
        }
        for target, outcomes in results
    ]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
