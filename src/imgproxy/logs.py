"""Logs on standard error: one JSON object a line on a pipe, one readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.config import LogSettings

# Facts of a log record that are passed as `extra={"facts": …}` and become fields of the JSON object.
FACTS = "facts"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time (UTC), level, logger, message, the record's facts, and a traceback where there is one."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FACTS, {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


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


def configure(settings: LogSettings) -> None:
    """Send the program's logs to standard error in the configured form."""
    is_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # It logs what it cannot parse, header lines with tokens among them; such requests have an access line of ours.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    for chatty in ("httpx", "httpcore", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
