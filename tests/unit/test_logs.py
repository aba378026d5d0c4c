"""Log lines for machines and for people."""

import json
import logging
import os
import sys

import pytest

from imgproxy import logs
from imgproxy.logs import JsonFormatter, LineHandler, TextFormatter


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


HITS = [
    ("/a.jpg?w=50", 200, 46_000, "127.0.0.1"),
    ("/a.jpg", 304, 0, None),
    ('/ü"\\b\n\x7f\u2028', 200, 5, "::1"),
    ("/bytes-that-are-not-utf-8-\udcff", 200, 5, "::1"),
]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize(("target", "status", "sent_bytes", "client"), HITS)
def test_the_line_of_a_hit_is_that_of_a_record_with_its_facts(
    formatter: JsonFormatter | TextFormatter, target: str, status: int, sent_bytes: int, client: str | None
) -> None:
    """It is made in a cheaper way, from the same fields in the same order."""
    facts = {
        "method": "GET",
        "target": target,
        "status": status,
        "outcome": "hit",
        "bytes": sent_bytes,
        "client": client,
    }
    usual = record(f"GET {target} {status}", facts=facts)

    line = formatter.hit(usual.created, usual.name, target, status, sent_bytes, client)

    assert line == formatter.format(usual) + "\n"


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


def test_an_access_line_is_a_record_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """With its message and facts, and subject to the logger's level."""
    logger = logging.getLogger("imgproxy.test.access")
    caplog.set_level("WARNING", logger.name)
    logs.access(logger, logging.INFO, "%s %d", ("GET", 200), {"bytes": 5})
    logs.access(logger, logging.WARNING, "%s %d", ("GET", 502), {"bytes": 6})
    caplog.set_level("INFO", logger.name)
    logs.access(logger, logging.INFO, "%s %d", ("GET", 404), {"bytes": 7})

    assert [(found.levelname, found.getMessage(), vars(found)["facts"]) for found in caplog.records] == [
        ("WARNING", "GET 502", {"bytes": 6}),
        ("INFO", "GET 404", {"bytes": 7}),
    ]
