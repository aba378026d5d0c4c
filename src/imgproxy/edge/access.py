"""The access log: one line for each request that `[log] access` selects."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from imgproxy import logs
from imgproxy.delivery.request import Outcome
from imgproxy.errors import Overloaded

if TYPE_CHECKING:
    from aiohttp import web

    from imgproxy.config.sections import LogSettings
    from imgproxy.edge.exchange import Served
    from imgproxy.logs import LineHandler

log = logging.getLogger("imgproxy.access")

# A client's address as the transport gives it: host, port and more, or the path of a local socket.
Peer: TypeAlias = "tuple[str, int] | tuple[str, int, int, int] | str | None"


class AccessLog:
    """
    Writes the lines. `wants_hits` and `wants_errors` tell the fast path whether its answers get a line.

    With `lines`, the line of a hit goes there directly. That is cheaper than its logger.
    """

    def __init__(self, settings: LogSettings, lines: LineHandler | None) -> None:
        self._lines = lines if log.isEnabledFor(logging.INFO) else None
        self._wants_all = settings.access in ("all", "misses")
        self.wants_hits = settings.access == "all"
        self.wants_errors = settings.access != "none"

    def write(self, request: web.BaseRequest, target: str, started_s: float, served: Served) -> None:
        """Write the line of a request. `started_s` is of the performance counter."""
        status = served.response.status
        if not self._wants_all and not (self.wants_errors and status >= 400):
            return
        facts: dict[str, object] = {
            "method": request.method,
            "target": target,
            "status": status,
            "outcome": str(served.outcome),
            "ms": round((time.perf_counter() - started_s) * 1000, 2),
            "bytes": served.sent_bytes,
            "client": request.remote,
        }
        if served.code is not None:
            facts["code"] = served.code
        if served.cause is not None:
            facts["cause"] = served.cause
        logs.access(log, _level(status), "%s %s %d", (request.method, target, status), facts)

    def write_fast(self, peer: Peer, target: str, status: int, sent_bytes: int) -> None:
        """Write the line of an answer of the fast path: a hit, or a refusal in an overload."""
        is_refused = status == Overloaded.status
        if not (self.wants_errors if is_refused else self.wants_hits):
            return
        client = peer[0] if peer else None
        if self._lines is not None and not is_refused:
            self._lines.hit(log.name, target, status, sent_bytes, client)
            return
        facts: dict[str, object] = {
            "method": "GET",
            "target": target,
            "status": status,
            "outcome": str(Outcome.ERROR if is_refused else Outcome.HIT),
            "bytes": 0 if is_refused else sent_bytes,
            "client": client,
        }
        if is_refused:
            facts["code"] = Overloaded.code
        logs.access(log, _level(status), "GET %s %d", (target, status), facts)


def _level(status: int) -> int:
    """Return the level of a line: a warning if the fault is on this side."""
    return logging.WARNING if status >= 500 else logging.INFO
