"""Logs on standard error: JSON lines on a pipe, readable lines on a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

from imgproxy.telemetry import traces
from imgproxy.telemetry.log_writer import LogWriter, queued_stream

if TYPE_CHECKING:
    from collections.abc import Callable

# `extra={"facts": {…}}` of a log call: the facts become fields of the JSON object.
FACTS = "facts"
# At the end of the process, lines may take this long to be written.
FLUSH_S = 1.0
# So many seconds are kept as text. Threads log at the same time, and a batch of hits may be a second old.
SECONDS_KEPT = 4
# A batch has many hits of the same millisecond.
MILLISECONDS_KEPT = 16


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def __init__(self) -> None:
        super().__init__()
        # A new encoder for each line would take longer than the rest of the line.
        self._encode = json.JSONEncoder(ensure_ascii=False, default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message, the facts of the record, and its traceback if it has one."""
        fields = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FACTS, {}),
        }
        # A line of a request has its ids among its facts: the thread that writes it is in no span.
        if (ids := traces.ids()) is not None and "trace_id" not in fields:
            fields["trace_id"], fields["span_id"] = ids
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self._encode(fields)


class TextFormatter(logging.Formatter):
    """
    A line for people: local time, level unless it is INFO, message, facts.

    `width` returns the columns of the terminal; None if it is none. Lines of requests fit into it.
    """

    def __init__(self, width: Callable[[], int | None] = lambda: None) -> None:
        super().__init__()
        self._width = width

    def format(self, record: logging.LogRecord) -> str:
        """Return `12:00:00 message  name=value …`."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        start = f"{_local(int(record.created))} {level}"
        if isinstance(record, AccessRecord):
            width = self._width()
            return start + record.text(width - len(start) if width is not None else None)
        facts = "".join(f"  {name}={value}" for name, value in getattr(record, FACTS, {}).items())
        line = f"{start}{record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class AccessRecord(logging.LogRecord):
    """
    A record of a request. In an overload there are thousands of them a second, so none of them is urgent.

    `text` returns the line for people, at most this many characters long.
    """

    def __init__(
        self, name: str, level: int, message: str, facts: dict[str, object], text: Callable[[int | None], str]
    ) -> None:
        # A search for the caller would take longer than the line.
        super().__init__(name, level, "", 0, message, (), None)
        self.facts = facts
        self.text = text


class LineHandler(logging.Handler):
    """Formats records where they are logged, because their arguments may change, and queues the lines for a writer."""

    def __init__(self, descriptor: int, formatter: JsonFormatter | TextFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = LogWriter(descriptor, self._lines_lost)
        self.is_json = isinstance(formatter, JsonFormatter)

    @property
    def dropped(self) -> int:
        """How many lines were dropped since the start."""
        return self.writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record."""
        try:
            line = f"{self.format(record)}\n"
        except Exception:  # as in every handler of the library: the caller must not fail because of its log line
            self.handleError(record)
            return
        is_urgent = record.levelno >= logging.WARNING and not isinstance(record, AccessRecord)
        self.writer.put(line, len(line), is_urgent=is_urgent)

    def put_later(self, make: Callable[[], logging.LogRecord], chars: int) -> None:
        """Queue a record that the writer's thread makes and formats. It takes about this many characters meanwhile."""
        self.writer.put(lambda: f"{self.format(make())}\n", chars)

    def flush(self) -> None:
        """Wait until the lines so far are written, at most `FLUSH_S`. The interpreter calls this at its end."""
        self.writer.flush(FLUSH_S)

    def _lines_lost(self, count: int) -> str:
        text = "%d log lines were dropped: standard error did not take them in time"
        return f"{self.format(logging.LogRecord(__name__, logging.WARNING, '', 0, text, (count,), None))}\n"


def configure(level: str, form: Literal["auto", "json", "text"] = "auto") -> LineHandler:
    """
    Send the logs of the program to standard error, and whatever else is written to `sys.stderr`.

    `auto` is text on a terminal, else JSON.
    """
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    descriptor = sys.stderr.fileno()
    handler = LineHandler(descriptor, TextFormatter(partial(_columns, descriptor)) if is_text else JsonFormatter())
    # The formatters do not use these, and they take time for each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.stderr = queued_stream(handler.writer)
    # It logs requests that it cannot parse, with their headers and so with tokens. They have an access line anyway.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return handler


def _columns(descriptor: int) -> int | None:
    """Return the width of a terminal; None if the descriptor is none, or does not know its width."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def utc(created_s: float) -> str:
    """Return a Unix time in UTC: ISO 8601, with milliseconds."""
    return _utc_millisecond(int(created_s * 1000))


@lru_cache(MILLISECONDS_KEPT)
def _utc_millisecond(millisecond: int) -> str:
    return f"{_utc_second(millisecond // 1000)}.{millisecond % 1000:03d}Z"


@lru_cache(SECONDS_KEPT)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(SECONDS_KEPT)
def _local(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
