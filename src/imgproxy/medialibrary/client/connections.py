"""
Connections to HTTP servers, with aiohttp's client. Every call that the service makes goes through them.

They are kept open and used again, carry no cookie, and take nothing for an answer that nobody asked for. A caller
counts its tries itself: a request is sent once.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Final, cast

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from imgproxy.medialibrary.client.decoder import Decoder, EncodingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from yarl import URL

# Below the 5 s after which servers on Node, Varnish and others close an idle connection.
KEEPALIVE_EXPIRY_S: Final = 4.0
# The longest line of a head. aiohttp's own limit is 8 KiB, and some servers send longer ones (Content-Security-Policy).
LINE_MAX_BYTES: Final = 64 * 1024
PART_BYTES: Final = 64 * 1024
_HEADERS: Final = {"User-Agent": "imgproxy", "Accept": "*/*", "Accept-Encoding": "identity"}


class Connections:
    """
    Connections for one purpose, at most `max_connections` at a time (0: any number). More requests wait.

    Args:
        max_connections: see above.
        ssl_context: for https. None: trust the authorities of the system.
        timeout: of a connect and of a read. By default there is none: the callers have a deadline.
        part_bytes: twice as much of a body is received before someone reads it.
        proxy: URL of a proxy for every request, with its user and password if it needs them. None: no proxy.
        trust_env: take a proxy from the environment. It would let variables decide where tokens go.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        ssl_context: ssl.SSLContext | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
        part_bytes: int = PART_BYTES,
        proxy: str | None = None,
        trust_env: bool = False,
    ) -> None:
        self._max_connections = max_connections
        self._ssl_context = ssl_context or system_trust()
        self._timeout = timeout or aiohttp.ClientTimeout(total=None)
        self._part_bytes = part_bytes
        self._proxy = proxy
        self._trust_env = trust_env
        self._session: aiohttp.ClientSession | None = None  # made in the event loop, as it belongs to one
        self._responses: set[Response] = set()
        self.is_closed = False

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        redirects_max: int = 0,
        prepare: Callable[[aiohttp.ClientRequest], None] | None = None,
    ) -> AsyncIterator[Response]:
        """
        Send a request. The block has its response, with the body still to be read.

        `prepare` is called with the request, and with each one that a redirect leads to. It may raise, and set headers.

        Raises:
            aiohttp.ClientConnectorError: there is no connection.
            aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.TooManyRedirects: the URL, or a redirect, is odd.
            aiohttp.ClientError: the connection broke off, or what came is no HTTP.
            ValueError: a header holds a line break or a NUL.
        """
        async with self._opened().request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=redirects_max > 0,
            max_redirects=redirects_max + 1,  # aiohttp counts the request itself
            middlewares=(partial(_send, prepare),),
        ) as answer:
            response = cast("Response", answer)
            self._responses.add(response)
            try:
                yield response
            finally:
                self._responses.discard(response)

    async def aclose(self) -> None:
        """Close every connection, for good. Who waits for an answer or a body gets an error."""
        self.is_closed = True
        for response in tuple(self._responses):
            response.close()  # the session would close the connection, and leave the reader of the body waiting
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self.is_closed:
            raise aiohttp.ClientConnectionError("Closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=KEEPALIVE_EXPIRY_S, ssl=self._ssl_context
                ),
                request_class=_Request,
                response_class=Response,
                headers=_HEADERS,
                skip_auto_headers=("Content-Type",),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                read_bufsize=self._part_bytes,
                max_line_size=LINE_MAX_BYTES,
                max_field_size=LINE_MAX_BYTES,
                proxy=self._proxy,
                trust_env=self._trust_env,
            )
        return self._session


class Response(aiohttp.ClientResponse):
    """A response that checks the end of its body more strictly than aiohttp does."""

    _handler: ResponseHandler | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head."""
        self._handler = connection.protocol  # `connection` is None as soon as the body is here
        return await super().start(connection)

    async def beginning(self, max_bytes: int, *, must_be_whole: bool = False) -> bytes:
        """
        Return the decoded body, or a little more than `max_bytes` of a longer one.

        A body in an unknown encoding comes as it is. `must_be_whole`: the end of one that is not longer is checked.

        Raises:
            EncodingError: the body is not what its Content-Encoding says.
            aiohttp.ClientPayloadError: it is not the one that the head announced.
        """
        try:
            decoder = Decoder(self.headers.get("Content-Encoding"))
        except EncodingError:
            decoder = Decoder(None)
        body, received_bytes = bytearray(), 0
        async for data in self.content.iter_any():
            received_bytes += len(data)
            for piece in decoder.feed(data):
                body += piece
                if len(body) > max_bytes:
                    return bytes(body)
        if must_be_whole:
            decoder.end()
            self.check_end(received_bytes)
        return bytes(body)

    def check_end(self, received_bytes: int) -> None:
        """
        Raise ClientPayloadError if the body is not the one that the head announced.

        It must have the announced length (aiohttp reads a length of 2**64 - 1 as none). Nothing may follow it. If it
        ends with the connection, the connection must be closed, not reset.
        """
        assert self._handler is not None
        error = self._handler.exception()
        has_surplus = len(self._handler) > 0 or isinstance(error, HttpProcessingError)
        has_end = self.content_length is not None or "Transfer-Encoding" in self.headers
        is_torn = not has_end and isinstance(error, aiohttp.ClientOSError)
        if self.content_length not in {None, received_bytes} or has_surplus or is_torn:
            raise aiohttp.ClientPayloadError("the body is not the one that was announced")


@cache
def system_trust() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities. It is made once: that takes longer than a call."""
    return ssl.create_default_context()


class _StaleConnection(aiohttp.ClientConnectionError):
    """A kept connection on which something came that answers no request."""


class _Request(aiohttp.ClientRequest):
    """A request that is not sent on a stale connection: aiohttp would read an answer there (its issue 13656)."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send it. Raises _StaleConnection; aiohttp then closes the connection."""
        if conn.protocol is None or conn.protocol.should_close:
            raise _StaleConnection
        return await super().send(conn)


async def _send(
    prepare: Callable[[aiohttp.ClientRequest], None] | None,
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Send one request, the first or where a redirect leads."""
    if prepare is not None:
        prepare(request)
    while True:
        try:
            return await handler(request)
        except _StaleConnection:
            continue  # with another connection: that one is closed
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            # The session would send it again after these two errors.
            raise aiohttp.ClientConnectionError from exc
