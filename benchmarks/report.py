"""Writes the results of a run: JSON, a table and plots. Runs of the same day are merged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks import plots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write(folder: Path, day: str, machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """
    Write `<day>.json`, `<day>.md` and the plots, and return the path of the table.

    Rows of an earlier run of the day stay if this run does not have them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{day}.json"
    kept: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    names = [row["name"] for row in rows]
    merged = [row for row in kept if row["name"] not in names] + list(rows)
    file.write_text(json.dumps({"machine": machine, "rows": merged}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / f"{day}-goals.svg").write_text(plots.goals(merged), encoding="utf-8")
    (folder / f"{day}-rounds.svg").write_text(plots.rounds(merged), encoding="utf-8")
    for row in merged:
        for name, found in row["facts"].get("series", {}).items():
            drawn = plots.series(found["title"], found["points"], across=found["across"], up=found["up"])
            (folder / f"{day}-{row['name']}-{name}.svg").write_text(drawn, encoding="utf-8")
    table = folder / f"{day}.md"
    table.write_text(_table(day, machine, merged), encoding="utf-8")
    return table


def _table(day: str, machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    goals = [goal for row in rows for goal in row["goals"]]
    met = sum(goal["is_met"] for goal in goals)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"# Benchmark of {day}",
        "",
        (
            f"{met} of {len(goals)} goals met. {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
            f"Python {machine['python']}, {versions}, {machine['nginx']}, {machine['wrk']}, node {machine['node']}."
        ),
        "",
        f"![goals]({day}-goals.svg)",
        "",
        "| row | goal | measured | bound | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for goal in row["goals"]:
            value = "not measured" if goal["value"] is None else f"{goal['value']:.3g} {goal['unit']}"
            sign = "≥" if goal["is_at_least"] else "≤"
            verdict = "met" if goal["is_met"] else "**missed**"
            lines.append(f"| {row['name']} | {_cell(goal['name'])} | {value} | {sign} {goal['bound']:g} | {verdict} |")
    for row in rows:
        lines += ["", f"## {row['name']}: {row['title']}", "", f"Run {row['run']}.", ""]
        lines += [f"- {note}" for note in row["notes"]]
        if row["figures"]:
            lines += ["", "| figure | median | MAD | least | most | rounds |", "|---|---|---|---|---|---|"]
        for item in row["figures"]:
            numbers = " | ".join(_number(item[name]) for name in ("median", "mad", "least", "most"))
            lines.append(f"| {_cell(item['name'])} ({item['unit']}) | {numbers} | {item['count']} |")
        lines += [f"\n![{name}]({day}-{row['name']}-{name}.svg)" for name in row["facts"].get("series", {})]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return text for a cell of a table: a peer's name may be any."""
    return text.replace("|", r"\|").replace("\n", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
