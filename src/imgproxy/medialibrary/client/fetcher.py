"""
How an original gets from serve-image to a file: asked for and received on the event loop, written in threads.

CPU a fetch of 0.8 MB from nginx with digest and file, beside renders, measured in turns on one machine: received by
http.client in a thread 1.25 ms there; on the loop 0.55 in threads, half of it the digest and half the way to the disk,
and 0.25 more on the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin, urlsplit

from imgproxy.medialibrary.client.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.client.connections import Connections
from imgproxy.medialibrary.client.encodings import Decoder, EncodingError
from imgproxy.medialibrary.client.intake import image, room
from imgproxy.medialibrary.client.wire import PORTS, Server, WireError
from imgproxy.medialibrary.errors import OriginUnavailable, UnexpectedAnswer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from imgproxy.medialibrary.client.intake import StrPath
    from imgproxy.medialibrary.client.wire import Answer
    from imgproxy.medialibrary.errors import MediaLibraryError
    from imgproxy.medialibrary.models import Landing, ServedImage

REDIRECTS_MAX: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
ERROR_BODY_MAX_BYTES: Final = 64 * 1024
# Behind the event loop, which hands a fetch on in less time than it takes to write it, and before the renders.
NICENESS: Final = 5
_HEADERS: Final = {"user-agent": "imgproxy", "accept": "*/*", "accept-encoding": "identity"}
# What of a URL is sent as it is (RFC 3986 section 2), a "%" among it: what is encoded is not encoded again.
_SAFE: Final = "%/?:@!$&'()*+,;=-._~[]"


@dataclass(frozen=True, slots=True)
class Order:
    """One try at the image with this path: with each of `tokens` in turn, until one is not answered by 401."""

    path: str
    where: str
    headers: Mapping[str, str]
    accepted: frozenset[int]
    tokens: tuple[str | None, ...]
    destination: StrPath
    max_bytes: int | None
    landing: Landing | None
    api_version: str


@dataclass(frozen=True, slots=True)
class _Place:
    """What a URL leads to."""

    server: Server
    target: str

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://{self.server.authority}{self.target}"


class ImageFetcher:
    """Fetches images of one library into files, so many at a time; connections are kept open."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        max_connections: int,
        ssl_context: ssl.SSLContext,
        on_token: Callable[[str | None], None],
    ) -> None:
        self._home = _place(url, where="the library's URL")
        self._turns = asyncio.Semaphore(max_connections)
        self._connections = Connections(
            max_idle=max_connections, connect_timeout_s=connect_timeout_s, ssl_context=ssl_context
        )
        # A disk that hangs holds a thread for each file, also of fetches that were given up.
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="original", initializer=_step_back)
        self._on_token = on_token

    async def fetch(self, order: Order) -> ServedImage:
        """
        Fetch the image into its file. Cancelling ends the connection at once and removes the file.

        Raises:
            MediaLibraryError: what the answer means, or that none came; OSError from the disk. No file is left.
        """
        async with self._turns:
            try:
                return await self._with_tokens(order)
            except WireError as exc:
                raise OriginUnavailable(message=str(exc), where=order.where) from exc

    async def aclose(self) -> None:
        """Close every connection, for good: who waits for an answer gets an error; a body that is here is written."""
        self._connections.close()
        self._threads.shutdown(wait=False)

    async def _with_tokens(self, order: Order) -> ServedImage:
        for position, token in enumerate(order.tokens, start=1):
            answer = await self._answer(order, token)
            try:
                if answer.status == 401 and position < len(order.tokens):
                    continue
                if answer.status != 401:
                    self._on_token(token)
                if answer.status not in order.accepted:
                    raise await _error(answer, order)
                return await image(
                    answer,
                    where=order.where,
                    destination=order.destination,
                    landing=order.landing,
                    max_bytes=order.max_bytes,
                    threads=self._threads,
                )
            finally:
                self._connections.put_back(answer)
        raise AssertionError  # the last token's answer was returned or raised

    async def _answer(self, order: Order, token: str | None) -> Answer:
        """Send the request and follow where it leads; the token goes to the library's own host alone."""
        headers = {**_HEADERS, **{name: _sendable(value) for name, value in order.headers.items()}}
        if token:
            headers["authorization"] = f"Bearer {token}"
        room_for = partial(room, landing=order.landing)
        place = _Place(self._home.server, self._home.target.rstrip("/") + order.path)
        for _ in range(REDIRECTS_MAX + 1):
            answer = await self._connections.ask(place.server, place.target, headers, room_for)
            location = answer.header("location") if answer.status in REDIRECTS else None
            if not location:
                return answer
            self._connections.put_back(answer)
            there = _place(location, seen_from=place.url, where=order.where)
            if not _keeps_token(place.server, there.server):
                headers.pop("authorization", None)
            place = there
        raise UnexpectedAnswer(message="too many redirects", where=order.where)


def _step_back() -> None:
    """Let the event loop go first. On Linux a thread has a niceness of its own; elsewhere there is no such thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _place(url: str, *, seen_from: str = "", where: str) -> _Place:
    """Read a URL, which may be relative. Raises UnexpectedAnswer for one that leads to no web server."""
    try:
        parts = urlsplit(urljoin(seen_from, url))
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as the search for its address does
    except ValueError as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    if parts.scheme not in PORTS or not host:
        raise UnexpectedAnswer(message="no web server", where=where)
    target = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return _Place(Server(parts.scheme, host, PORTS[parts.scheme] if port is None else port), target)


async def _error(answer: Answer, order: Order) -> MediaLibraryError:
    try:
        body = await _begin_of(answer)
    except EncodingError as exc:
        raise UnexpectedAnswer(message=str(exc), where=order.where) from exc
    wait_s = None
    if answer.status in TRANSIENT_STATUSES:
        wait_s = retry_after_s(answer.header("retry-after"), now=datetime.now(UTC))
    return error_for(answer.status, body, where=order.where, api_version=order.api_version, wait_s=wait_s)


async def _begin_of(answer: Answer) -> bytes:
    """A body of which a little more than ERROR_BODY_MAX_BYTES is enough."""
    decoder, body = Decoder(answer.header("content-encoding")), b""
    async for piece in answer.pieces():
        for part in decoder.feed(piece):
            body += part[: ERROR_BODY_MAX_BYTES + 1]
            if len(body) > ERROR_BODY_MAX_BYTES:
                return body
    return body


def _sendable(value: str) -> str:
    """A validator as a header takes it; one with other letters than Latin-1 matches nothing, and the image comes."""
    return value.encode("latin-1", "replace").decode("latin-1")


def _keeps_token(here: Server, there: Server) -> bool:
    """Whether a redirect stays at the same server, or leads from http to https of the same host."""
    is_upgrade = (here.scheme, here.port, there.scheme, there.port) == ("http", 80, "https", 443)
    return here == there or (here.host == there.host and is_upgrade)
