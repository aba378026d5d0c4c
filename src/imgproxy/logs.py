"""Logs on standard error: JSON lines on a pipe, readable lines on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import lru_cache, partial
from json.encoder import encode_basestring as _quote
from typing import Literal

from imgproxy.log_writer import LogWriter, queued_stream

# `extra={"facts": {…}}` of a log call: the facts become fields of the JSON object.
FACTS = "facts"
# At the end of the process, lines may take this long to be written.
FLUSH_S = 1.0
# So many seconds are kept as text. Threads log at the same time, and a batch of hits may be a second old.
SECONDS_KEPT = 4


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def __init__(self) -> None:
        super().__init__()
        # A new encoder for each line would take longer than the rest of the line.
        self._encode = json.JSONEncoder(ensure_ascii=False, default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message, the facts of the record, and its traceback if it has one."""
        fields = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FACTS, {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self._encode(fields)

    def hit(  # noqa: PLR0917 - the facts of a hit; the call is on the fast path
        self, created_s: float, logger: str, target: str, status: int, sent_bytes: int, client: str | None
    ) -> str:
        """Return the line of a hit with its end, as `format` makes it, in a third of the time."""
        quoted, quoted_client = _quote(target), "null" if client is None else _quote(client)
        return (
            f'{{"time": "{_utc(created_s)}", "level": "info", "logger": "{logger}", '
            f'"message": "GET {quoted[1:-1]} {status}", "method": "GET", "target": {quoted}, "status": {status}, '
            f'"outcome": "hit", "bytes": {sent_bytes}, "client": {quoted_client}}}\n'
        )


class TextFormatter(logging.Formatter):
    """A line for people: local time, level unless it is INFO, message, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `12:00:00 message  name=value …`."""
        stamp = _local(int(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        facts = "".join(f"  {name}={value}" for name, value in getattr(record, FACTS, {}).items())
        line = f"{stamp} {level}{record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def hit(  # noqa: PLR0917 - the facts of a hit; the call is on the fast path
        self, created_s: float, logger: str, target: str, status: int, sent_bytes: int, client: str | None
    ) -> str:
        """Return the line of a hit with its end, as `format` makes it. It does not have the logger's name."""
        del logger
        return (
            f"{_local(int(created_s))} GET {target} {status}  method=GET  target={target}  status={status}  "
            f"outcome=hit  bytes={sent_bytes}  client={client}\n"
        )


class AccessRecord(logging.LogRecord):
    """A record of a request. In an overload there are thousands of them a second, so none of them is urgent."""


class LineHandler(logging.Handler):
    """Formats records where they are logged, because their arguments may change, and queues the lines for a writer."""

    def __init__(self, descriptor: int, formatter: JsonFormatter | TextFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = LogWriter(descriptor, self._lines_lost)
        self._hit_line = formatter.hit

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

    def hit(self, logger_name: str, target: str, status: int, sent_bytes: int, client: str | None) -> None:
        """
        Log a hit. The line is that of a record of the level INFO with the same facts.

        A line costs less than a fifth of its answer: it needs no record, and the writer's thread formats it.
        """
        line = partial(self._hit_line, time.time(), logger_name, target, status, sent_bytes, client)
        self.writer.put(line, len(target))

    def flush(self) -> None:
        """Wait until the lines so far are written, at most `FLUSH_S`. The interpreter calls this at its end."""
        self.writer.flush(FLUSH_S)

    def _lines_lost(self, count: int) -> str:
        text = "%d log lines were dropped: standard error did not take them in time"
        return f"{self.format(logging.LogRecord(__name__, logging.WARNING, '', 0, text, (count,), None))}\n"


def access(
    logger: logging.Logger, level: int, message: str, arguments: tuple[object, ...], facts: dict[str, object]
) -> None:
    """Log a request as `logger.log` does, but without the search for the caller, which takes longer than the line."""
    if logger.isEnabledFor(level):
        record = AccessRecord(logger.name, level, "", 0, message, arguments, None)
        setattr(record, FACTS, facts)
        logger.handle(record)


def configure(level: str, form: Literal["auto", "json", "text"] = "auto") -> LineHandler:
    """
    Send the logs of the program to standard error, and whatever else is written to `sys.stderr`.

    `auto` is text on a terminal, else JSON.
    """
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = LineHandler(sys.stderr.fileno(), TextFormatter() if is_text else JsonFormatter())
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


def _utc(created_s: float) -> str:
    second = int(created_s)
    return f"{_utc_second(second)}.{int((created_s - second) * 1000):03d}Z"


@lru_cache(SECONDS_KEPT)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(SECONDS_KEPT)
def _local(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
