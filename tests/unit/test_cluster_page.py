"""docs/cluster.md: what it says of metrics, log lines, messages, settings and answers is in the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from imgproxy.config.cluster import ClusterSettings

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL))
LINES_MAX = 340


@cache
def texts() -> str:
    """All texts in the code of the rooms that write these lines. What is put in when they are shown is `…`."""
    found = []
    code = REPOSITORY / "src" / "imgproxy"
    for path in (*code.glob("cluster/*.py"), *code.glob("cache/*.py"), code / "telemetry" / "outages.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
    return "\n".join(re.sub(r"%(?:\.1f|[sdg])|\{\w+\}", "…", text) for text in found)


def column(section: str, number: int) -> list[str]:
    """The code in a column of a section's first table."""
    rows = re.findall(r"^\|(.+)\|$", SECTIONS[section].split("\n###")[0], re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row.split("|")[number])]


def is_written(shown: str) -> bool:
    """
    Whether the code can write this line.

    Names of nodes and figures are parts that differ. What follows a colon, ` again`, or a name is a text of its own.
    """
    parts = re.split(r"…|: |(?= again,| is down| is back)|\b(?:edge-\d+|\d[\d.]*)\b", shown)
    return all(part.strip() in texts() for part in parts if len(part.strip()) > 2)


@pytest.mark.parametrize("line", column("What each failure looks like", 2))
def test_a_log_line_is_really_written(line: str) -> None:
    """Each part of it is a text of the code."""
    assert is_written(line)


@pytest.mark.parametrize("message", column("Messages of the database", 0))
def test_a_message_of_the_database_is_really_written(message: str) -> None:
    """As for log lines."""
    assert is_written(message)


def test_a_line_that_nobody_writes_is_found() -> None:
    """Otherwise the tests above would prove nothing."""
    assert not is_written("this node is fenced: the moon is full")
    assert not is_written("node edge-2 was not seen for 600 s and is banned")


def test_every_metric_is_one() -> None:
    """The page names all metrics of the cluster, and no other."""
    code = (REPOSITORY / "src" / "imgproxy" / "telemetry" / "metric_table.py").read_text("utf-8")
    assert set(re.findall(r"imgproxy_cluster_\w+", PAGE)) == set(re.findall(r'"(imgproxy_cluster_\w+)"', code))


def test_the_ten_lines_are_settings_with_their_defaults() -> None:
    """A default that changes in the code changes on the page."""
    (lines,) = re.findall(r"^```toml\n(.*?)^```$", SECTIONS["Ten lines of configuration"], re.MULTILINE | re.DOTALL)
    values = dict(re.findall(r"^(\w+) = (\S+)", lines, re.MULTILINE))
    fields = ClusterSettings.model_fields
    assert len(lines.splitlines()) <= 10
    assert set(values) <= set(fields)
    for name in set(values) - {"database_url", "node"}:
        default = fields[name].default
        assert values[name] == (f'"{default}"' if isinstance(default, str) else f"{default:g}"), name


def test_it_can_be_read_at_night() -> None:
    """What is not for an operator in a hurry belongs on another page."""
    assert len(PAGE.splitlines()) <= LINES_MAX
