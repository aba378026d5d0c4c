"""
The access log: one line for each request that `[log] access` selects.

The loop only notes what it knows of a request. The thread that writes the log makes the line of it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.delivery.request import Outcome, Timings
from imgproxy.edge.access_line import AccessLine
from imgproxy.edge.client_address import ClientAddresses
from imgproxy.edge.request_ids import REQUEST_ID, RequestIds, trace_id_of
from imgproxy.errors import Overloaded
from imgproxy.telemetry import logs, traces
from imgproxy.telemetry.redaction import redacted

if TYPE_CHECKING:
    from aiohttp import web
    from multidict import CIMultiDictProxy

    from imgproxy.config.settings import Settings
    from imgproxy.edge.exchange import Served
    from imgproxy.telemetry.logs import LineHandler

log = logging.getLogger("imgproxy.access")

USER_AGENT_MAX_CHARS: Final = 256
REFERER_MAX_CHARS: Final = 512
HOST_MAX_CHARS: Final = 255
# Pieces of lines that are remembered: the pictures that are asked for most, and the pages that ask for them.
REMEMBERED_MAX: Final = 1024

# A client's address as the transport gives it: host, port and more, or the path of a local socket.
Peer: TypeAlias = "tuple[str, int] | tuple[str, int, int, int] | str | None"


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of a request when it is answered. `at_s` is the Unix time; `ms` is None on the fast path."""

    at_s: float
    method: str
    target: str
    headers: CIMultiDictProxy[str]
    request_id: str
    peer: str | None
    status: int
    outcome: Outcome
    sent_bytes: int
    tier: str | None = None
    content_type: str | None = None
    ms: float | None = None
    timings: Timings | None = None
    is_collapsed: bool = False
    code: str | None = None
    cause: str | None = None
    span: traces.Ids | None = None


class AccessLog:
    """
    Writes the lines. `wants_hits` and `wants_errors` tell the fast path whether its answers get a line.

    `ids` makes the ids of requests. With `lines` a thread makes them. Else they are records of the logger.
    """

    def __init__(self, settings: Settings, lines: LineHandler | None) -> None:
        self._lines = lines
        self._addresses = ClientAddresses(settings.server.trusted_proxies, settings.server.client_address_header)
        self.ids = RequestIds()
        access = settings.log.access
        self._wants_all = access in ("all", "misses")
        is_informed = log.isEnabledFor(logging.INFO) or lines is None
        self.wants_hits = access == "all" and is_informed
        self.wants_errors = access != "none"
        self._makes_json_hits = lines is not None and lines.is_json
        self._hit_part = lru_cache(REMEMBERED_MAX)(_hit_part)
        self._page_part = lru_cache(REMEMBERED_MAX)(_page_part)

    def write(self, request: web.BaseRequest, target: str, started_s: float, served: Served) -> None:
        """Write the line of a request. `started_s` is of the performance counter."""
        status = served.response.status
        if not self._wants_all and not (self.wants_errors and status >= 400):
            return
        delivered = served.delivered
        answered = Answered(
            at_s=time.time(),
            method=request.method,
            target=target,
            headers=request.headers,
            request_id=request[REQUEST_ID],
            peer=request.remote,
            status=status,
            outcome=served.outcome,
            sent_bytes=served.sent_bytes,
            tier=str(delivered.tier) if delivered is not None else None,
            content_type=served.content_type or None,
            ms=(time.perf_counter() - started_s) * 1000,
            timings=delivered.timings if delivered is not None else None,
            is_collapsed=delivered is not None and delivered.is_collapsed,
            code=served.code,
            cause=served.cause,
            # The span of a hit is not exported.
            span=traces.ids() if served.outcome is not Outcome.HIT else None,
        )
        self._log(answered, sum(len(name) + len(value) for name, value in request.raw_headers))

    def write_refused(
        self, peer: Peer, target: str, headers: CIMultiDictProxy[str], request_id: str, head_bytes: int
    ) -> None:
        """Write the line of a request that the fast path has refused in an overload."""
        answered = Answered(
            at_s=time.time(),
            method="GET",
            target=target,
            headers=headers,
            request_id=request_id,
            peer=_host_of(peer),
            status=Overloaded.status,
            outcome=Outcome.ERROR,
            sent_bytes=0,
            code=Overloaded.code,
        )
        self._log(answered, head_bytes)

    def write_hit(  # noqa: PLR0917 the call is on the fast path
        self,
        peer: Peer,
        target: str,
        status: int,
        sent_bytes: int,
        headers: CIMultiDictProxy[str],
        request_id: str,
        tier: str,
        content_type: str,
        head_bytes: int,
    ) -> None:
        """
        Write the line of a hit of the fast path. `head_bytes`: what the head of the request takes in memory.

        It costs less than a fifth of its answer: it needs no record, and JSON is written piece by piece.
        """
        at_s = time.time()
        if self._makes_json_hits and self._lines is not None:
            make = partial(
                self._json_hit, at_s, peer, target, status, sent_bytes, headers, request_id, tier, content_type
            )
            self._lines.writer.put(make, head_bytes)
            return
        answered = Answered(
            at_s,
            "GET",
            target,
            headers,
            request_id,
            _host_of(peer),
            status,
            Outcome.HIT,
            sent_bytes,
            tier,
            content_type,
        )
        self._log(answered, head_bytes)

    def _log(self, answered: Answered, head_bytes: int) -> None:
        level = _level(answered.status)
        if not log.isEnabledFor(level):
            return
        if self._lines is not None:
            self._lines.put_later(partial(self._record, level, answered), head_bytes)
        else:
            log.handle(self._record(level, answered))

    # --- in the thread that writes the log ---

    def _record(self, level: int, answered: Answered) -> logging.LogRecord:
        line = self._line(answered)
        record = logs.AccessRecord(log.name, level, line.message, line.facts(), line.text)
        record.created = answered.at_s
        return record

    def _line(self, answered: Answered) -> AccessLine:
        get, timings = answered.headers.get, answered.timings or Timings()
        referer = get("Referer")
        return AccessLine(
            method=answered.method,
            target=redacted(answered.target),
            status=answered.status,
            outcome=str(answered.outcome),
            tier=answered.tier,
            ms=round(answered.ms, 2) if answered.ms is not None else None,
            fetch_ms=_ms(timings.fetch_s),
            store_ms=_ms(timings.store_s),
            queue_ms=_ms(timings.queue_s),
            render_ms=_ms(timings.render_s),
            collapsed=answered.is_collapsed or None,
            bytes=answered.sent_bytes,
            format=_format(answered.content_type),
            host=_cut(get("Host"), HOST_MAX_CHARS),
            client=self._addresses.of(answered.peer, answered.headers),
            user_agent=_cut(get("User-Agent"), USER_AGENT_MAX_CHARS),
            referer=_cut(redacted(referer), REFERER_MAX_CHARS) if referer is not None else None,
            request_id=answered.request_id,
            trace_id=answered.span[0] if answered.span is not None else trace_id_of(answered.headers),
            span_id=answered.span[1] if answered.span is not None else None,
            code=answered.code,
            cause=answered.cause,
        )

    def _json_hit(  # noqa: PLR0917 the call is on the fast path
        self,
        at_s: float,
        peer: Peer,
        target: str,
        status: int,
        sent_bytes: int,
        headers: CIMultiDictProxy[str],
        request_id: str,
        tier: str,
        content_type: str,
    ) -> str:
        """Return the line of a hit, as `_record` and the formatter make it, in a third of the time."""
        get = headers.get
        page = self._page_part(
            _cut(get("Host"), HOST_MAX_CHARS),
            self._addresses.of(_host_of(peer), headers),
            _cut(get("User-Agent"), USER_AGENT_MAX_CHARS),
            get("Referer"),
        )
        trace_id = trace_id_of(headers)
        trace = f', "trace_id": "{trace_id}"' if trace_id is not None else ""
        start, end = self._hit_part(target, status, tier, content_type)
        return (
            f'{{"time": "{logs.utc(at_s)}", "level": "info", "logger": "imgproxy.access", {start}, '
            f'"bytes": {sent_bytes}{end}{page}, "request_id": "{request_id}"{trace}}}\n'
        )


def span_facts(request: web.BaseRequest, target: str, served: Served) -> dict[str, traces.Fact]:
    """Return what the span of a request has: by OpenTelemetry's conventions for HTTP servers, and our own words."""
    path, _, query = redacted(target).partition("?")
    delivered, variant = served.delivered, served.delivered.variant if served.delivered is not None else None
    return {
        "http.request.method": request.method,
        "http.response.status_code": served.response.status,
        "url.path": path,
        "url.query": query or None,
        "host": request.headers.get("Host"),
        "user_agent.original": _cut(request.headers.get("User-Agent"), USER_AGENT_MAX_CHARS),
        "error.type": served.code,
        "outcome": str(served.outcome),
        "tier": str(delivered.tier) if delivered is not None else None,
        "is_collapsed": delivered.is_collapsed if delivered is not None else None,
        "format": _format(served.content_type or None),
        "key": variant.facts.key if variant is not None else None,
        "sent_bytes": served.sent_bytes,
        "request_id": request[REQUEST_ID],
        "cause": served.cause,
    }


def _hit_part(target: str, status: int, tier: str, content_type: str) -> tuple[str, str]:
    """Return what is the same in all lines of a picture: before and after the bytes."""
    line = AccessLine(
        method="GET",
        target=redacted(target),
        status=status,
        outcome=str(Outcome.HIT),
        bytes=0,
        format=_format(content_type),
        request_id="",
    )
    before = (
        f'"message": {quote(line.message)}, "method": "GET", "target": {quote(line.target)}, "status": {status}, '
        f'"outcome": "hit", "tier": "{tier}"'
    )
    return before, f', "format": "{line.format}"'


def _page_part(host: str | None, client: str | None, user_agent: str | None, referer: str | None) -> str:
    """Return what is the same in all lines of a visit to a page."""
    if referer is not None:
        referer = _cut(redacted(referer), REFERER_MAX_CHARS)
    parts = (("host", host), ("client", client), ("user_agent", user_agent), ("referer", referer))
    return "".join(f', "{name}": {quote(value)}' for name, value in parts if value is not None)


def _level(status: int) -> int:
    """Return the level of a line: a warning if the fault is on this side."""
    return logging.WARNING if status >= 500 else logging.INFO


def _host_of(peer: Peer) -> str | None:
    return peer[0] if peer else None


def _cut(text: str | None, most: int) -> str | None:
    return text if text is None or len(text) <= most else text[:most]


def _format(content_type: str | None) -> str | None:
    """Return `webp` of `image/webp`."""
    return content_type.rpartition("/")[2].partition("+")[0] if content_type is not None else None


def _ms(seconds: float) -> float | None:
    """Return milliseconds, or None for a stage that was not needed."""
    return round(seconds * 1000, 2) if seconds else None
