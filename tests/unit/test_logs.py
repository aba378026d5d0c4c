"""Log lines for machines and for people."""

import json
import logging
import sys

from imgproxy.logs import JsonFormatter, TextFormatter


def record(message: str, *, facts: dict[str, object] | None = None, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("imgproxy.test", level, __file__, 1, message, (), None)
    if facts is not None:
        made.facts = facts
    return made


def test_json_is_one_object_a_line_with_the_facts_as_fields() -> None:
    """Time, level, logger, message, and whatever the record adds."""
    line = JsonFormatter().format(record("line\nbreak", facts={"status": 200, "target": "/ü"}))

    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("info", "imgproxy.test", "line\nbreak")
    assert (fields["status"], fields["target"]) == (200, "/ü")
    assert fields["time"].endswith("Z")


def test_a_traceback_is_a_field_and_not_more_lines() -> None:
    """An exception stays with its record."""
    try:
        int("boom")
    except ValueError:
        failed = record("failed", level=logging.ERROR)
        failed.exc_info = sys.exc_info()

    fields = json.loads(JsonFormatter().format(failed))

    assert "ValueError: invalid literal" in fields["traceback"]


def test_text_is_short_and_names_the_level_where_it_matters() -> None:
    """A person reads time, message and facts; the level only when something is wrong."""
    assert TextFormatter().format(record("served", facts={"ms": 3})).endswith(" served  ms=3")
    assert "WARNING careful" in TextFormatter().format(record("careful", level=logging.WARNING))
