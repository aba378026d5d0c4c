"""Log lines for machines and for people."""

import json
import logging
import os
import sys
import threading

from imgproxy.telemetry.logs import JsonFormatter, LineHandler, TextFormatter


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


def test_a_record_is_formatted_where_it_is_logged() -> None:
    """An argument that changes later does not change the line."""
    reader, descriptor = os.pipe()
    handler = LineHandler(descriptor, TextFormatter())
    argument = ["as it was"]
    handler.handle(logging.LogRecord("imgproxy.test", logging.INFO, "", 0, "%s", (argument,), None))
    argument[0] = "as it is"
    handler.flush()

    assert os.read(reader, 4096).endswith(b" ['as it was']\n")
    os.close(reader)
    os.close(descriptor)


def test_a_record_can_be_made_by_the_thread_that_writes() -> None:
    """So the one who logs only notes the facts."""
    reader, descriptor = os.pipe()
    handler = LineHandler(descriptor, TextFormatter())
    made_by: list[str] = []

    def make() -> logging.LogRecord:
        made_by.append(threading.current_thread().name)
        return record("served")

    handler.put_later(make, 10)
    handler.flush()

    assert os.read(reader, 4096).endswith(b" served\n")
    assert made_by == ["log"]
    os.close(reader)
    os.close(descriptor)
