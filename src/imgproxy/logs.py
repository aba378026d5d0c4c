"""Logs on standard error: JSON lines on a pipe, readable lines on a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from contextlib import nullcontext, suppress
from typing import Literal, TextIO

# `extra={"facts": {…}}` of a log call: the facts become fields of the JSON object.
FACTS = "facts"


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def __init__(self) -> None:
        super().__init__()
        # A new encoder and a new date for each line would take longer than the rest of the line.
        self._encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message, the facts of the record, and its traceback if it has one."""
        second = int(record.created)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fields = {
            "time": f"{self._stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FACTS, {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self._encode(fields)


class TextFormatter(logging.Formatter):
    """A line for people: local time, level unless it is INFO, message, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `12:00:00 message  name=value …`."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        facts = "".join(f"  {name}={value}" for name, value in getattr(record, FACTS, {}).items())
        line = f"{stamp} {level}{record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class TurnHandler(logging.StreamHandler[TextIO]):
    """
    Writes the lines of one turn of the event loop together: a system call for each line would slow down memory hits.

    Warnings, and lines that are logged outside an event loop, are written at once, after the lines that wait.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record. Write it now, or at the end of the turn."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # as in every handler of the library: the caller must not fail because of its log line
            self.handleError(record)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._lines) == 1:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            # The reader of standard error may be gone; there is no other place to report it.
            with suppress(OSError, ValueError):
                if lines:
                    self.stream.write("".join(lines))
                self.stream.flush()


def access(logger: logging.Logger, message: str, arguments: tuple[object, ...], facts: dict[str, object]) -> None:
    """Log a request as `logger.info` does, but without the search for the caller, which takes longer than the line."""
    if logger.isEnabledFor(logging.INFO):
        record = logging.LogRecord(logger.name, logging.INFO, "", 0, message, arguments, None)
        setattr(record, FACTS, facts)
        logger.handle(record)


def configure(level: str, form: Literal["auto", "json", "text"] = "auto") -> None:
    """Send the logs of the program to standard error. `auto` is text on a terminal, else JSON."""
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = TurnHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    # The formatters do not use these, and they take time for each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It logs requests that it cannot parse, with their headers and so with tokens. They have an access line anyway.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
