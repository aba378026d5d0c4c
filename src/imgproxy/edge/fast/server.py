"""
Hits answered where their bytes arrive, between aiohttp's parser and its request handling; and what is shed.

For a request that the memo can answer, or that is turned away in an overload, there is no request object, no task and
no response object; its bytes are parsed by aiohttp's own parser and the prepared answer is written to the transport.
Everything else goes the usual way.
Of the request's headers only Accept and conditions matter here: a variant that depends on another is never prepared,
and a part (Range) is given of originals alone, which are not prepared either.

This leans on the inside of one minor version of aiohttp; `is_supported` looks for what it needs, and without it every
request goes the usual way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from imgproxy.cache.entry import Tier
from imgproxy.errors import HeadersTooLarge, ImgproxyError, NotHttp
from imgproxy.params.negotiate import accept_class
from imgproxy.purge.answers import Late

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp.http_parser import RawRequestMessage
    from multidict import CIMultiDictProxy

    from imgproxy.edge.fast.memo import AnswerMemo, Found
    from imgproxy.edge.fast.refusals import TurningAway
    from imgproxy.metrics import Tally

# A client that has not sent its first head by then is gone, or means no good.
FIRST_HEAD_S = 30.0
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
    """Whether this aiohttp has the inside that the fast path needs."""
    names = {name for cls in RequestHandler.__mro__ for name in (*getattr(cls, "__slots__", ()), *vars(cls))}
    return names.issuperset(_NEEDED)


class FastServer(web.Server):
    """
    A server whose connections answer hits from the memo.

    `tally` counts them; `on_answer(connection, target, status, sent_bytes)`, where there is one, is told of each.
    """

    def __init__(  # noqa: PLR0917 - what every connection is given
        self,
        handler: Callable[[web.BaseRequest], Any],
        memo: AnswerMemo,
        turning_away: TurningAway,
        tally: Tally,
        on_answer: Callable[[FastHandler, str, int, int], None] | None,
        on_bad_request: Callable[[web.BaseRequest, ImgproxyError], web.StreamResponse],
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self._memo = memo
        self._turning_away = turning_away
        self._tally = tally
        self._on_answer = on_answer
        self._on_bad_request = on_bad_request
        self.is_draining = False

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        parts = (self._memo, self._turning_away, self._tally, self._on_answer, self._on_bad_request)
        return FastHandler(self, *parts, loop=self._loop, **self._kwargs)

    def unfinished(self, hashes: set[str]) -> list[Late]:
        """Connections whose last hit was of one of these keys and is not wholly handed to the kernel yet."""
        return [
            Late(connection.is_flushed, connection.cut)
            for connection in self.connections
            if isinstance(connection, FastHandler)
            and connection.last_key_hash in hashes
            and not connection.is_flushed()
        ]


class FastHandler(RequestHandler):
    """A connection of the fast path."""

    __slots__ = (
        "_first_head_timer",
        "_memo",
        "_on_answer",
        "_on_bad_request",
        "_tally",
        "_turning_away",
        "last_key_hash",
    )

    def __init__(  # noqa: PLR0917 - as the server has them
        self,
        manager: FastServer,
        memo: AnswerMemo,
        turning_away: TurningAway,
        tally: Tally,
        on_answer: Callable[[FastHandler, str, int, int], None] | None,
        on_bad_request: Callable[[web.BaseRequest, ImgproxyError], web.StreamResponse],
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._memo = memo
        self._turning_away = turning_away
        self._tally = tally
        self._on_answer = on_answer
        self._on_bad_request = on_bad_request
        self._first_head_timer: asyncio.TimerHandle | None = None
        self.last_key_hash = ""

    def is_flushed(self) -> bool:
        """Whether the kernel has everything that was written."""
        transport = self.transport
        return transport is None or transport.is_closing() or transport.get_write_buffer_size() == 0

    def cut(self) -> None:
        """Close the connection in the middle of what it is sending."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have `drain` wait until the kernel has everything, so that an answer counts as sent no earlier."""
        super().connection_made(transport)
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=0)
        if self._is_draining():
            self.cut()  # accepted in the moment in which the port was closed
            return
        self._first_head_timer = self._loop.call_later(FIRST_HEAD_S, self._give_up_waiting)

    def close(self) -> None:
        """
        Take no more requests, and end as soon as the one in hand is answered.

        A connection so new that it does not wait for its first request yet would hear nothing of this, and neither be
        answered nor ended until the deadline: it is ended here.
        """
        super().close()
        if self._waiter is None and not self._request_in_progress and not self._messages:
            self.cut()

    def _is_draining(self) -> bool:
        return isinstance(self._manager, FastServer) and self._manager.is_draining

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._first_head_timer is not None:
            self._first_head_timer.cancel()
            self._first_head_timer = None

    def _give_up_waiting(self) -> None:
        self._first_head_timer = None
        if not self._request_count:
            self.cut()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, in our form and without its bytes: they may hold a token."""
        del status, message
        response = self._on_bad_request(request, HeadersTooLarge() if isinstance(exc, LineTooLong) else NotHttp())
        response.force_close()
        return response

    def data_received(self, data: bytes) -> None:
        """Answer a hit here and now; hand everything else on as aiohttp's own handler does."""
        waiter, transport, parser = self._waiter, self.transport, self._parser
        # Idle: waiting for a request, or so new that it does not wait yet. Nothing waits while messages are there.
        is_idle = self._is_untouched() if waiter is None else not waiter.done()
        if (
            not is_idle
            or transport is None
            or parser is None
            or self._force_close
            or self._upgraded
            or transport.get_write_buffer_size() > 0
        ):
            super().data_received(data)
            return
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except HttpProcessingError as error:
            # As aiohttp's own handler does: the error takes a request's place in the queue, and is answered 400.
            refusal = _ErrInfo(status=400, exc=error, message=error.message)
            messages, upgraded, tail = [(refusal, EMPTY_PAYLOAD)], False, b""
        if len(messages) == 1 and not upgraded:
            message, payload = messages[0]
            if payload is EMPTY_PAYLOAD and self._answers(transport, message):
                parser.message_consumed()
                return
        if messages:
            self._stop_waiting()
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
        """Whether nothing has come over this connection yet."""
        return not (
            self._request_in_progress
            or self._messages
            or self._payload_parser is not None
            or self._force_close
            or self._close
        )

    def _answers(self, transport: asyncio.Transport, message: RawRequestMessage | _ErrInfo) -> bool:
        """Answer a plain GET that needs no more than bytes; whether that was done."""
        if isinstance(message, _ErrInfo) or message.method != "GET":
            return False
        if message.version != HttpVersion11 or message.should_close:
            return False
        found = self._find(message.path, message.headers)
        if found is not None:
            self._write(transport, message.path, found)
            return True
        refusal = self._turning_away.answer(message, time.time())
        if refusal is None:
            return False
        answer, body_bytes = refusal
        transport.write(answer)
        self._tally.turned_away += 1
        self._end(message.path, 503, body_bytes)
        return True

    def _find(self, target: str, headers: CIMultiDictProxy[str]) -> Found | None:
        return self._memo.find(target, accept_class(headers.get(hdrs.ACCEPT)), headers.get(hdrs.IF_NONE_MATCH))

    def _write(self, transport: asyncio.Transport, target: str, found: Found) -> None:
        entry, tier, head, body = found
        self.last_key_hash = entry.key_hash
        tally = self._tally
        if body:
            transport.writelines((head, body))
            tally.sent_bytes += len(body)
            if tier is Tier.MEMORY:
                tally.memory += 1
            else:
                tally.disk += 1
        else:
            transport.write(head)
            tally.not_modified += 1
        self._end(target, 200 if body else 304, len(body))

    def _end(self, target: str, status: int, body_bytes: int) -> None:
        """An answer is written: wait for the next request, for a while."""
        if self._first_head_timer is not None:
            self._stop_waiting()
        self._request_count += 1
        loop = self._loop
        self._next_keepalive_close_time = close_at = loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = loop.call_at(close_at, self._process_keepalive)
        if self._on_answer is not None:
            self._on_answer(self, target, status, body_bytes)
