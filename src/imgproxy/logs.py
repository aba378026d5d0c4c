"""Logs on standard error: one JSON object a line on a pipe, one readable line on a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from imgproxy.config.sections import LogSettings

# Facts of a log record that are passed as `extra={"facts": …}` and become fields of the JSON object.
FACTS = "facts"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self) -> None:
        super().__init__()
        # Both are made once: an encoder a line, and a date a line, take longer than the rest of it.
        self._encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """Write time (UTC), level, logger, message, the record's facts, and a traceback where there is one."""
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
    """One line for a person: time, level where it matters, message, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Write `12:00:00 message  name=value …`."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        facts = "".join(f"  {name}={value}" for name, value in getattr(record, FACTS, {}).items())
        line = f"{stamp} {level}{record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class TurnHandler(logging.StreamHandler[TextIO]):
    """
    Writes the lines of one turn of the event loop together, at its end: a call of the system each would cost a hit.

    A warning, and what is logged outside a loop, is written at once, with all that came before it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record, and write it now or at the end of the turn."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # as every handler does: a line that cannot be made harms nobody else
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
        """Write what there is."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            # Where nobody reads any more, nobody can be told.
            with suppress(OSError, ValueError):
                if lines:
                    self.stream.write("".join(lines))
                self.stream.flush()


def access(logger: logging.Logger, message: str, arguments: tuple[object, ...], facts: dict[str, object]) -> None:
    """Log a request, as `logger.info` would: without a look at who calls, which takes longer than to make the line."""
    if logger.isEnabledFor(logging.INFO):
        record = logging.LogRecord(logger.name, logging.INFO, "", 0, message, arguments, None)
        setattr(record, FACTS, facts)
        logger.handle(record)


def configure(settings: LogSettings) -> None:
    """Send the program's logs to standard error in the configured form."""
    is_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = TurnHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    # No line says any of these, and each costs every line something.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # It logs what it cannot parse, header lines with tokens among them; such requests have an access line of ours.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
