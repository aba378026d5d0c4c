"""
Writes what the Helm chart says about its values: the table in its README.md, and the settings in values.schema.json.

`python -m tools.chart_texts` writes both. A test fails where one is stale. The comment above a key of values.yaml is
its line in the table. The schema of `config` is that of the settings, without those that the chart sets itself, and
without secrets: what is in `config` becomes a ConfigMap.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from imgproxy.config.settings import Settings
from imgproxy.config.wording import is_secret, section_class
from tools.pages import replace_between

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART: Final = Path(__file__).parents[1] / "deploy" / "helm" / "imgproxy"
README: Final = CHART / "README.md"
VALUES: Final = CHART / "values.yaml"
SCHEMA: Final = CHART / "values.schema.json"
BEGIN: Final = "<!-- values: written by `python -m tools.chart_texts` -->"
END: Final = "<!-- end of values -->"
# The chart knows these: its volumes and its ports depend on them.
_SET_BY_THE_CHART: Final = {("server", "port"), ("cache", "dir"), ("cluster", "node")}


def with_values(page: str) -> str:
    """Return the README with a new table of the values."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in values()]
    return replace_between(page, BEGIN, END, "\n".join(lines))


def values() -> Iterator[tuple[str, str, str]]:
    """
    Give each value that has a comment: its name with dots, its default, the comment.

    Raises:
        ValueError: neither a value nor anything around it has a comment.
    """
    text = VALUES.read_text("utf-8")
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _values(root, text.splitlines(), "", "")


def _values(node: yaml.MappingNode, lines: list[str], prefix: str, around: str) -> Iterator[tuple[str, str, str]]:
    """Give the values of a mapping. `around` is the comment of what they are in."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _comment_above(lines, key.start_mark.line)
        if not comment and not around and not _has_comments(value, lines):
            raise ValueError(f"values.yaml: {name} has no comment")
        if comment:
            yield name, _default(value, lines), _cell(comment)
        if _has_comments(value, lines):
            assert isinstance(value, yaml.MappingNode)
            yield from _values(value, lines, f"{name}.", comment or around)


def _has_comments(node: yaml.Node, lines: list[str]) -> bool:
    """Whether a key somewhere in this value has a comment."""
    return isinstance(node, yaml.MappingNode) and any(
        _comment_above(lines, key.start_mark.line) or _has_comments(value, lines) for key, value in node.value
    )


def _comment_above(lines: list[str], line: int) -> str:
    """Return the line of comment above this line. Further lines above it are for readers of the file."""
    above = lines[line - 1].strip() if line else ""
    return above.removeprefix("#").strip() if above.startswith("#") else ""


def _default(node: yaml.Node, lines: list[str]) -> str:
    """Return a default as JSON. What has rows of its own has none here."""
    if _has_comments(node, lines):
        return ""
    found = yaml.safe_load(yaml.serialize(node))
    return f"`{json.dumps(found)}`" if found not in ("", {}, []) else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the values with a new schema of `config`."""
    found = Settings.model_json_schema()
    for name, info in Settings.model_fields.items():
        section = section_class(info)
        if section is None:
            continue
        properties = found["$defs"][section.__name__]["properties"]
        for key, setting in section.model_fields.items():
            if is_secret(setting) or (name, key) in _SET_BY_THE_CHART:
                del properties[key]
    sections = {name: _plain(value) for name, value in found["properties"].items()}
    config = {"type": "object", "additionalProperties": False, "properties": sections}
    return {
        **schema,
        "properties": schema["properties"] | {"config": config},
        "$defs": {name: value for name, value in schema["$defs"].items() if not name.endswith("Settings")}
        | _plain(found["$defs"]),
    }


def _plain(schema: Any) -> Any:
    """Return a schema without what only repeats the names, and without defaults, which the chart does not set."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        for key, value in schema.items()
        if key not in ("title", "default") or (isinstance(value, dict) and "type" in value)
    }
    return {key: _plain(value) for key, value in kept.items()}


def schema_text() -> str:
    """Return the text of values.schema.json. Its own part, all but `config`, is what the file has."""
    return json.dumps(with_settings(json.loads(SCHEMA.read_text("utf-8"))), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    README.write_text(with_values(README.read_text("utf-8")), "utf-8")
    SCHEMA.write_text(schema_text(), "utf-8")
