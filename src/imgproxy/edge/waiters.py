"""
Waiters: plain requests that wait for the same answer. They are answered together, as soon as it is made.

To build an answer takes a third of a millisecond. So three hundred requests that wait for one render would be answered
over a tenth of a second. Instead, the first request that has the answer writes it to all. Each of the others then
finds its answer written, and counts and logs it. Row `stampede`: the median waiter 4 ms after the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from aiohttp import HttpVersion11, hdrs, web

from imgproxy.edge.exchange import Served
from imgproxy.edge.request_ids import REQUEST_ID, head_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter

    from imgproxy.delivery.request import Delivered
    from imgproxy.edge.connections import Connection
    from imgproxy.params.negotiate import AcceptClass
    from imgproxy.purge.answers import Sending

# Answers that are written in one turn of the loop. Each takes 30 microseconds, in which other requests wait.
WRITTEN_AT_ONCE_MAX: Final = 1000


class Written(web.StreamResponse):
    """An answer whose bytes the transport has already. aiohttp has nothing to write."""

    @property
    def keep_alive(self) -> bool:
        """True: only connections that stay open have waiters."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Do nothing."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""
        del data


class Waiter:
    """A request that is answered by the first request of its target and Accept class that has the answer."""

    __slots__ = ("_request", "_sending", "delivered", "is_sent", "name", "sent_bytes")

    def __init__(self, request: web.BaseRequest, accept: AcceptClass) -> None:
        self._request = request
        self.name = (request.raw_path, accept)
        self.delivered: Delivered | None = None  # None until the answer is written
        self.sent_bytes = 0
        self._sending: Sending | None = None
        self.is_sent = False  # whether the kernel had the whole answer as soon as it was written

    def write(
        self,
        head: bytes,
        body: bytes,
        delivered: Delivered,
        sending: Callable[[Callable[[], None]], Sending],
    ) -> bool:
        """
        Give a whole answer to the transport; False if the client has left. Nothing is awaited.

        `head` is without the empty line at its end: the id of this request comes there.

        `sending` takes a function that cuts the connection, and counts the answer as under way until the kernel has all
        bytes: bytes that are still in this process could leave after a purge.
        """
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return False
        self.delivered, self.sent_bytes = delivered, len(body)
        transport.writelines((head, head_line(self._request[REQUEST_ID]), b"\r\n", body))
        self.is_sent = transport.get_write_buffer_size() == 0
        if not self.is_sent:
            self._sending = sending(cast("Connection", self._request.protocol).cut)
            self._sending.begin()
        return True

    async def served(self) -> Served:
        """
        Return the answer that was written, as soon as the kernel has it.

        Raises:
            ConnectionError: the client left before.
        """
        assert self.delivered is not None, "the answer is written"
        if not self.is_sent:
            await self._request.writer.drain()
        return Served(Written(), self.delivered.outcome, self.sent_bytes, delivered=self.delivered)

    def end(self) -> None:
        """Stop counting the answer as under way."""
        if self._sending is not None:
            self._sending.end()


class Waiters:
    """The requests that wait now, by target and Accept class, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, AcceptClass], dict[Waiter, None]] = {}

    def enter(self, request: web.BaseRequest, accept: AcceptClass) -> Waiter | None:
        """Return a waiter for a request; None if the request needs an answer of its own."""
        is_conditional = hdrs.IF_NONE_MATCH in request.headers or hdrs.IF_MATCH in request.headers
        if request.method != "GET" or is_conditional or request.version != HttpVersion11 or not request.keep_alive:
            return None
        waiter = Waiter(request, accept)
        self._waiting.setdefault(waiter.name, {})[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Forget a waiter: its request is over."""
        waiter.end()
        waiting = self._waiting.get(waiter.name)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self._waiting[waiter.name]

    def unanswered(self, name: tuple[str, AcceptClass]) -> list[Waiter]:
        """Return the first waiters under this name that have no answer yet."""
        return [waiter for waiter in self._waiting.get(name, ()) if waiter.delivered is None][:WRITTEN_AT_ONCE_MAX]

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
