"""
Fetches originals from serve-image into files, with aiohttp's client.

The event loop sends and receives; threads decode, hash and write, so that a slow disk does not stop the loop.

CPU of the bare loop over ours, row `cold`, JPEG (`python -m benchmarks --only cold --rounds 5`): 0.98-1.01 for 6 MP and
0.96 for 24 MP. A client of our own with shared memory had 0.86 and 0.90-0.96, in turns on the same busy machine.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from imgproxy.medialibrary.client.image_file import PART_BYTES, Decoder, EncodingError, ImageFile
from imgproxy.medialibrary.client.transport import ERROR_BODY_MAX_BYTES, KEEPALIVE_EXPIRY_S, REDIRECTS_MAX
from imgproxy.medialibrary.errors import OriginTimeout, OriginUnavailable, TooLarge, UnexpectedAnswer
from imgproxy.medialibrary.models import ServedImage

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    from imgproxy.medialibrary.client.image_file import StrPath
    from imgproxy.medialibrary.client.transport import Call, Transport

_HEADERS: Final = {"User-Agent": "imgproxy", "Accept": "*/*", "Accept-Encoding": "identity"}


class ImageFetcher:
    """Fetches the images of one library. Connections are kept open and used again."""

    def __init__(self, transport: Transport, *, max_connections: int, ssl_context: ssl.SSLContext) -> None:
        self._home = transport.redirects.home
        self._transport = transport
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None  # made in the event loop, as it belongs to one
        self._responses: set[aiohttp.ClientResponse] = set()
        # A disk that hangs holds a thread for each file, also of fetches that were cancelled.
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="original")
        self._is_closed = False

    async def fetch(self, call: Call, destination: StrPath, max_bytes: int | None) -> ServedImage:
        """
        Fetch an image into its file, in as many tries as the transport allows.

        Cancelling ends the connection at once. On failure no file is left. If a thread is still writing to it, it is
        removed when the thread has finished.

        Raises:
            MediaLibraryError: what the answer means, or that none came in time.
            OSError: from the disk.
            ValueError: a validator holds a line break or a NUL.
        """
        number = 1
        try:
            async with asyncio.timeout(self._transport.timeout_s) as deadline:
                while True:
                    try:
                        return await self._fetch_once(call, destination, max_bytes)
                    except OriginUnavailable as failure:
                        await self._transport.pause(call, number, failure, deadline)
                    number += 1
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self._transport.timeout_s, where=call.where) from exc

    async def _fetch_once(self, call: Call, destination: StrPath, max_bytes: int | None) -> ServedImage:
        """Try once, with each token in turn until one is not answered by 401."""
        url = URL(str(self._home).rstrip("/") + call.path, encoded=True)
        tokens = self._transport.token.tokens() or (None,)
        with self._converted(call):
            for position, token in enumerate(tokens, start=1):
                hops: list[URL] = []
                async with self._opened().get(
                    url,
                    headers=call.headers,
                    max_redirects=REDIRECTS_MAX + 1,  # aiohttp counts the request itself
                    middlewares=(partial(self._send, token, hops, call),),
                ) as response:
                    if response.status == 401 and position < len(tokens):
                        continue
                    if position > 1:
                        self._transport.token.prefer(token)
                    self._responses.add(response)
                    try:
                        return await self._image(call, response, destination, max_bytes)
                    finally:
                        self._responses.discard(response)
        raise AssertionError  # the last token's answer was returned or raised

    async def aclose(self) -> None:
        """Close every connection, for good. A fetch that waits for its answer or body fails."""
        self._is_closed = True
        for response in tuple(self._responses):
            response.close()  # the session would close the connection, and leave the reader of the body waiting
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False)

    def _opened(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise aiohttp.ClientConnectionError("Closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=KEEPALIVE_EXPIRY_S, ssl=self._ssl_context
                ),
                request_class=_Request,
                response_class=_Response,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._transport.connect_timeout_s),
                auto_decompress=False,
                read_bufsize=PART_BYTES,
            )
        return self._session

    async def _send(
        self,
        token: str | None,
        hops: list[URL],
        call: Call,
        request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
    ) -> aiohttp.ClientResponse:
        """Send one request, the first or where a redirect leads. Only the library's own host gets the token."""
        is_home = not hops or self._transport.redirects.check(hops[-1], request.url, call.where)
        hops.append(request.url)
        if token and is_home:
            request.headers["Authorization"] = f"Bearer {token}"
        while True:
            try:
                return await handler(request)
            except _StaleConnection:
                continue  # with another connection: that one is closed
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
                # The session would send it again after these two errors. `fetch` counts the tries.
                raise aiohttp.ClientConnectionError from exc

    async def _image(
        self, call: Call, response: aiohttp.ClientResponse, destination: StrPath, max_bytes: int | None
    ) -> ServedImage:
        if response.status not in call.accepted:
            wait = response.headers.get("Retry-After")
            raise self._transport.refusal(call, response.status, wait, await _beginning(response))
        size_bytes, digest, head = 0, None, b""
        if response.status != 304:
            announced = response.content_length
            if max_bytes is not None and announced is not None and announced > max_bytes:
                raise TooLarge(limit_bytes=max_bytes, size_bytes=announced, where=call.where)
            encoding = response.headers.get("Content-Encoding")
            file = ImageFile(destination, encoding, self._threads, max_bytes=max_bytes, call=call)
            try:
                # A task of its own: each part of the body wakes this task alone, not the whole chain of its callers.
                digest = await asyncio.create_task(file.receive(response.content.iter_any()))
                assert isinstance(response, _Response)
                response.check_end(file.received_bytes)
            except BaseException:
                file.discard()
                raise
            size_bytes, head = file.size_bytes, file.head
        return ServedImage(
            is_modified=response.status != 304,
            content_type=_text(response, "Content-Type"),
            etag=_text(response, "ETag"),
            last_modified=_text(response, "Last-Modified"),
            size_bytes=size_bytes,
            digest=digest,
            head=head,
        )

    @contextmanager
    def _converted(self, call: Call) -> Iterator[None]:
        """Turn the errors of aiohttp into those of `imgproxy.medialibrary.errors`."""
        try:
            yield
        except aiohttp.TooManyRedirects as exc:
            raise UnexpectedAnswer(message="too many redirects", where=call.where) from exc
        except EncodingError as exc:
            raise UnexpectedAnswer(message=str(exc), where=call.where) from exc
        except (aiohttp.RedirectClientError, UnicodeError) as exc:  # the latter: a host that is no name
            raise UnexpectedAnswer(message=type(exc).__name__, where=call.where) from exc
        except aiohttp.ClientError as exc:
            raise OriginUnavailable(message=type(exc.__cause__ or exc).__name__, where=call.where) from exc
        except RuntimeError as exc:  # aiohttp raises it where a connection was closed just before its body is read
            if not self._is_closed:
                raise
            raise OriginUnavailable(message="Closed", where=call.where) from exc


class _StaleConnection(aiohttp.ClientConnectionError):
    """A kept connection on which something came that answers no request."""


class _Request(aiohttp.ClientRequest):
    """A request that is not sent on a stale connection: aiohttp would read an answer there (its issue 13656)."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send it. Raises _StaleConnection; aiohttp then closes the connection."""
        if conn.protocol is None or conn.protocol.should_close:
            raise _StaleConnection
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    """A response that checks the end of its body more strictly than aiohttp does."""

    _handler: ResponseHandler | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head."""
        self._handler = connection.protocol  # `connection` is None as soon as the body is here
        return await super().start(connection)

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
            raise aiohttp.ClientPayloadError


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Return as much of a body as the message of an error needs."""
    decoder, body = Decoder(response.headers.get("Content-Encoding")), b""
    async for data in response.content.iter_any():
        for piece in decoder.feed(data):
            body += piece
            if len(body) > ERROR_BODY_MAX_BYTES:
                return body
    return body


def _text(response: aiohttp.ClientResponse, name: str) -> str | None:
    """Return a header as one line of valid Unicode; aiohttp keeps bytes that are not UTF-8 as surrogates."""
    value = response.headers.get(name)
    return None if value is None else " ".join(value.encode(errors="surrogateescape").decode(errors="replace").split())
