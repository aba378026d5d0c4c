"""Log lines for machines and for people."""

import asyncio
import io
import json
import logging
import sys

import pytest

from imgproxy import logs
from imgproxy.logs import JsonFormatter, TextFormatter, TurnHandler


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


class Stream(io.StringIO):
    """Counts how often it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


async def test_lines_of_one_turn_of_the_loop_are_written_together() -> None:
    """In their order, and no later than the end of the turn."""
    stream = Stream()
    handler = TurnHandler(stream)
    for number in range(3):
        handler.handle(record(f"line {number}"))
    assert stream.getvalue() == ""

    await asyncio.sleep(0)

    assert stream.getvalue() == "line 0\nline 1\nline 2\n"
    assert stream.writes == 1


async def test_a_warning_is_written_at_once_after_the_lines_before_it() -> None:
    """If the process ends right after it, the reason is in the log."""
    stream = Stream()
    handler = TurnHandler(stream)
    handler.handle(record("before"))
    handler.handle(record("careful", level=logging.WARNING))

    assert stream.getvalue() == "before\ncareful\n"


def test_without_a_loop_every_line_is_written_at_once() -> None:
    """Commands and other threads have no event loop."""
    stream = Stream()
    handler = TurnHandler(stream)
    handler.handle(record("one"))

    assert stream.getvalue() == "one\n"


def test_a_closed_stream_raises_nothing() -> None:
    """A request does not fail because its log line cannot be written."""
    stream = Stream()
    handler = TurnHandler(stream)
    stream.close()
    handler.handle(record("one"))


def test_an_access_line_is_a_record_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """With its message and facts, and subject to the logger's level."""
    logger = logging.getLogger("imgproxy.test.access")
    caplog.set_level("WARNING", logger.name)
    logs.access(logger, "%s %d", ("GET", 200), {"bytes": 5})
    caplog.set_level("INFO", logger.name)
    logs.access(logger, "%s %d", ("GET", 404), {"bytes": 7})

    assert [(found.getMessage(), vars(found)["facts"]) for found in caplog.records] == [("GET 404", {"bytes": 7})]
