"""The outcomes as a table in Markdown, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scenarios import Outcome
    from .targets import Target

    Results = Sequence[tuple[Target, dict[str, Outcome]]]


def markdown(results: Results) -> str:
    """Make the table: a row for each scenario, a column for each proxy. A cell that does not hold says what was seen."""
    titles = list(dict.fromkeys(title for _, outcomes in results for title in outcomes))
    names = [f"{target.name} {target.version}".strip() for target, _ in results]
    rows = [["the purge meets", *names], ["---", *("---" for _ in names)]]
    rows += [[title, *(_cell(outcomes.get(title)) for _, outcomes in results)] for title in titles]
    held = [sum(item.holds is True for item in outcomes.values()) for _, outcomes in results]
    asked = [sum(item.holds is not None for item in outcomes.values()) for _, outcomes in results]
    rows.append(["**holds**", *(f"**{count} of {of}**" for count, of in zip(held, asked, strict=True))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def several(results: Results) -> str:
    """Make the table of services with several doors: a column for each, a cell for all of its pairs of doors together."""
    services = list(dict.fromkeys(target.service for target, _ in results))
    titles = list(dict.fromkeys(title for _, outcomes in results for title in outcomes))
    rows = [["the purge meets", *services], ["---", *("---" for _ in services)]]
    counts = dict.fromkeys(services, (0, 0))
    for title in titles:
        row = [title]
        for service in services:
            found = [outcomes[title] for target, outcomes in results if target.service == service and title in outcomes]
            asked = [item.holds for item in found if item.holds is not None]
            held, of = counts[service]
            counts[service] = (held + sum(asked), of + len(asked))
            failed = asked.count(False)
            row.append(f"**fails** at {failed} of {len(asked)}" if failed else "holds" if asked else "")
        rows.append(row)
    rows.append(["**holds**", *(f"**{held} of {asked}**" for held, asked in counts.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def page(results: Results, *, scenarios: dict[str, str], of_doors: dict[str, str], date: str, command: str) -> str:
    """Make the page of the documentation: the tables, and what was measured, how and when."""
    alone = [item for item in results if not item[0].service]
    together = [item for item in results if item[0].service]
    lines = [
        "# What a purge means: imgproxy, Varnish, nginx",
        "",
        "Each row is a scenario: a picture is cached, or being fetched, when it is replaced or revoked at the origin and",
        "purged. **kept** means: a request that came after the confirmed purge still got the old picture. The suite is also",
        "the origin. It holds its answers, so that the order of events is the same in each run.",
        "",
        markdown(alone).strip(),
        "",
        "Varnish and nginx alone are configured as in their manuals (`tests/purge_tests/configs/`). Varnish has three",
        "columns, one for each way to purge it. Open-source nginx has no purge. `imgproxy + …` is our edge behind the",
        "configurations in `deploy/`. It is purged by one call to the edge.",
        "",
        f"Measured on {date} by `cd tests && {command}`.",
        "The head of the table has the versions. The suite can test any proxy: `python -m purge_tests --help`.",
        "",
        "| scenario | what is expected |",
        "| --- | --- |",
        *(f"| {title} | {text} |" for title, text in scenarios.items()),
    ]
    if together:
        lines += [
            "",
            "## Several nodes",
            "",
            "The same scenarios with several nodes. Each node answers in turn, and the *next* one is purged. So the node that",
            "serves hears of the purge only through the cluster. The last rows are for all nodes together. The cluster is",
            "three nodes of imgproxy over one PostgreSQL, all of them current. Two nodes *without* a cluster are the control:",
            "they must fail, or the rows would prove nothing. The numbers at the bottom count each pair of nodes.",
            "",
            several(together).strip(),
            "",
            "| scenario | what is expected |",
            "| --- | --- |",
            *(f"| {title} | {text} |" for title, text in of_doors.items()),
            "",
            "How to run it against your own cluster: [Many nodes](cluster.md#prove-it-from-outside).",
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


def as_json(results: Results) -> str:
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
