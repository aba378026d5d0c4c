"""
The fast path: hits and overload refusals, answered between aiohttp's parser and its request handling.

Such a request needs no request object, no task and no response object: aiohttp's own parser reads its bytes, and the
prepared answer is written to the transport. aiohttp handles every other request, also one with If-Match. Of the
request's headers only Accept and If-None-Match matter here: an answer that depends on another header is never prepared.
A Range has an effect on originals alone, and they are not prepared either. Dates in conditions are ignored.

This uses internals of one minor version of aiohttp. `is_supported` checks for them; without them aiohttp handles every
request. Row `hot`: 0.72 of nginx by CPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from imgproxy.cache.entry import Tier
from imgproxy.edge.connections import Connection, LimitedServer
from imgproxy.edge.request_ids import head_line
from imgproxy.params.negotiate import accept_class

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp.http_parser import RawRequestMessage

    from imgproxy.cluster.lease import Lease
    from imgproxy.edge.access import AccessLog
    from imgproxy.edge.connections import Limits
    from imgproxy.edge.fast.memo import AnswerMemo, Found
    from imgproxy.edge.fast.refusals import FastRefusals
    from imgproxy.purge.answers import Answers
    from imgproxy.telemetry.metrics import Tally

_NONE: Final = ()
_NEEDED = (
    "_waiter",
    "_messages",
    "_payload_parser",
    "_upgraded",
    "_force_close",
    "_close",
    "_parser",
    "_keepalive_timeout",
    "_keepalive_handle",
    "_next_keepalive_close_time",
    "_process_keepalive",
    "_request_count",
    "_request_in_progress",
    "_buffer_paused",
    "_max_msg_queue_size",
    "_pause_reading_for_buffer",
)


def is_supported() -> bool:
    """Whether this aiohttp has what the fast path needs."""
    names = {name for cls in RequestHandler.__mro__ for name in (*getattr(cls, "__slots__", ()), *vars(cls))}
    return names.issuperset(_NEEDED)


@dataclass(frozen=True, slots=True)
class FastPath:
    """
    The parts that every connection uses.

    `access` gets each answer. A hit has a request id only if it has a line there: else it could not be found by it.
    `on_bad_request` answers bytes that are not a request, and is given the parser's error. `is_host` says whether a
    Host is valid. `lease`: that of this node, if it is in a cluster and proves pictures when it is fenced; `now_s` is
    its clock.
    """

    memo: AnswerMemo
    refusals: FastRefusals
    answers: Answers
    tally: Tally
    access: AccessLog
    on_bad_request: Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]
    is_host: Callable[[str], object]
    lease: Lease | None = None
    now_s: Callable[[], float] = time.monotonic


class FastServer(LimitedServer):
    """A server whose connections have the fast path."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Any], limits: Limits, path: FastPath, **options: Any
    ) -> None:
        super().__init__(handler, limits, **options)
        self._path = path
        self.is_draining = False

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return FastHandler(self, self._path, loop=self._loop, **self._kwargs)


class FastHandler(Connection):
    """A connection with the fast path."""

    __slots__ = ("_head_bytes", "_host", "_is_head_due", "_path", "last_key_hash")

    def __init__(self, manager: FastServer, path: FastPath, **options: Any) -> None:
        super().__init__(manager, **options)
        self._path = path
        self._is_head_due = False  # no head has come yet, or a part of one
        self._head_bytes = 0  # of a head that has come in part
        self._host: str | None = None  # the last one that was valid
        self.last_key_hash = ""  # of the last hit; a purge of this key waits until its bytes are sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection, and wait for its first head."""
        super().connection_made(transport)
        self._path.answers.connections.add(self)
        if self._is_draining():
            self.cut()  # it was accepted while the port was being closed
            return
        self._begin_head()

    def close(self) -> None:
        """
        Take no more requests, and end when the current one is answered.

        A connection that does not wait for its first request yet would notice this only at the deadline. So it is
        closed here.
        """
        super().close()
        if self._waiter is None and not self._request_in_progress and not self._messages:
            self.cut()

    def _is_draining(self) -> bool:
        return isinstance(self._manager, FastServer) and self._manager.is_draining

    def _is_leaving(self) -> bool:
        return isinstance(self._manager, FastServer) and self._manager.is_leaving

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._path.answers.connections.discard(self)
        super().connection_lost(exc)

    def _begin_head(self) -> None:
        if not self._is_head_due:
            self._is_head_due = True
            self._limits.begin_head(self, self._loop.time())

    def _end_head(self) -> None:
        self._is_head_due = False
        self._limits.end_head(self)

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle: no head has begun, and the client has every byte of its last answer."""
        if self._is_head_due or not self.is_flushed():
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def idle_since_s(self) -> float | None:
        """When the last answer ended, or the connection came. None: a request is being answered."""
        is_idle = self._waiter is not None and not self._waiter.done() and self.is_flushed()
        return self._next_keepalive_close_time - self._keepalive_timeout if is_idle else None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are not a request. The answer does not repeat them: they may hold a token."""
        del status, message
        return self._path.on_bad_request(request, exc)

    def data_received(self, data: bytes) -> None:
        """Answer on the fast path, or give the request to aiohttp, as its own handler does."""
        waiter, transport, parser = self._waiter, self.transport, self._parser
        # Idle: the connection waits for a request, or is so new that it does not wait yet.
        is_idle = self._is_untouched() if waiter is None else not waiter.done()
        if (
            not is_idle
            or transport is None
            or parser is None
            or self._force_close
            or self._upgraded
            or transport.get_write_buffer_size() > 0
        ):
            self._end_head()
            self._head_bytes += len(data)
            super().data_received(data)
            return
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except HttpProcessingError as error:
            # As in aiohttp's own handler: the error is queued in place of a request, and is answered.
            refusal = _ErrInfo(status=400, exc=error, message=error.message)
            messages, upgraded, tail = [(refusal, EMPTY_PAYLOAD)], False, b""
        if messages and self._is_head_due:
            self._end_head()
        if len(messages) == 1 and not upgraded:
            message, payload = messages[0]
            if payload is EMPTY_PAYLOAD and self._answer_fast(transport, message, len(data)):
                parser.message_consumed()
                return
        if not messages and waiter is not None:  # without a waiter it may be a body that nobody reads
            self._begin_head()
        self._head_bytes = self._head_bytes + len(data) if not messages else 0
        self._request_count += len(messages)
        self._messages.extend(messages)
        if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()
        self._upgraded = upgraded
        if upgraded and tail:
            self._message_tail = tail
        if messages and waiter is not None:
            waiter.set_result(None)

    def _is_untouched(self) -> bool:
        """Whether no request has come over this connection yet."""
        return not (
            self._request_in_progress
            or self._messages
            or self._payload_parser is not None
            or self._force_close
            or self._close
        )

    def _answer_fast(
        self, transport: asyncio.Transport, message: RawRequestMessage | _ErrInfo, received_bytes: int
    ) -> bool:
        """
        Answer a plain GET from the memo, or refuse it in an overload. Return whether it was answered.

        `received_bytes`: the length of the last piece of its head.
        """
        if isinstance(message, _ErrInfo) or message.method != "GET":
            return False
        if message.version != HttpVersion11 or message.should_close or self._is_leaving():
            return False
        headers = message.headers
        if hdrs.IF_MATCH in headers:
            return False
        host = headers.get(hdrs.HOST)
        if host != self._host:
            if not self._path.is_host(host or ""):
                return False
            self._host = host
        # Several lines of a header are one list (RFC 9110 5.3).
        accept = accept_class(", ".join(headers.getall(hdrs.ACCEPT, _NONE)))
        if_none_match = ", ".join(headers.getall(hdrs.IF_NONE_MATCH)) if hdrs.IF_NONE_MATCH in headers else None
        found = self._path.memo.find(message.path, accept, if_none_match)
        if found is not None:
            # As late as possible: a process that is stopped here for a while must not answer afterwards.
            lease = self._path.lease
            if lease is not None and self._path.now_s() >= lease.current_until_s:
                return False
            self._write(transport, message, found, received_bytes)
            return True
        refusal = self._path.refusals.answer(message, time.time())
        if refusal is None:
            return False
        head, body = refusal
        access = self._path.access
        request_id = access.ids.of(headers)
        transport.writelines((head, head_line(request_id), b"\r\n", body))
        self._path.tally.refused += 1
        self._end()
        if access.wants_errors:
            access.write_refused(self.peername, message.path, headers, request_id, received_bytes + self._head_bytes)
        self._head_bytes = 0
        return True

    def _write(
        self, transport: asyncio.Transport, message: RawRequestMessage, found: Found, received_bytes: int
    ) -> None:
        entry, tier, head, end, body = found
        self.last_key_hash = entry.key_hash
        access = self._path.access
        request_id = access.ids.of(message.headers) if access.wants_hits else ""
        if request_id:
            end = head_line(request_id) + end
        if body:
            transport.writelines((head, end, body))
            sent = entry.sent
            sent.sent_bytes += len(body)
            if tier is Tier.MEMORY:
                sent.memory += 1
            else:
                sent.disk += 1
        else:
            transport.write(head + end)
            self._path.tally.not_modified += 1
        self._end()
        if request_id:
            access.write_hit(
                self.peername,
                message.path,
                200 if body else 304,
                len(body),
                message.headers,
                request_id,
                "memory" if tier is Tier.MEMORY else "disk",  # a word: to format the enumeration takes longer
                entry.variant_facts.content_type,
                received_bytes + self._head_bytes,
            )
        self._head_bytes = 0

    def _end(self) -> None:
        """After an answer is written: wait for the next request."""
        self._request_count += 1
        loop = self._loop
        self._next_keepalive_close_time = close_at = loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = loop.call_at(close_at, self._process_keepalive)
