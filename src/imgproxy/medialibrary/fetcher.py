"""
How an original gets from serve-image to a file: blocking calls in threads of their own, so that the loop stays free.

Measured with 0.8 MB from nginx, four at once, CPU a fetch with hash and file, and how much of it on the event loop:
httpx 10.1 ms, 7.2 on the loop; aiohttp's client 4.5 ms, 2.5 on the loop; urllib3 in a thread 3.4 ms, 0.2 on the loop.
The rest is the kernel's copy and the digest, which both run without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urljoin

import urllib3
from urllib3.util import Timeout, Url, parse_url

from imgproxy.digest import ContentHasher
from imgproxy.medialibrary.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.errors import OriginUnavailable, TooLarge, UnexpectedAnswer
from imgproxy.medialibrary.models import ServedImage
from imgproxy.medialibrary.wire import THREAD, Lifeline, connections

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from imgproxy.medialibrary.errors import MediaLibraryError

# Read, hashed and written at once. A tenth less CPU a fetch than with 256 kB, which falls out of the processor's cache.
READ_BYTES: Final = 120 * 1024
REDIRECTS_MAX: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
ERROR_BODY_MAX_BYTES: Final = 64 * 1024
# Threads that do not end by then, as they wait for a name or a connection, end by their own timeouts.
CLOSE_WAIT_S: Final = 1.0
# Behind the event loop, which hands a fetch on in less time than it takes, and before the render processes.
NICENESS: Final = 5
_HEADERS: Final = {"user-agent": "imgproxy", "accept": "*/*", "accept-encoding": "identity"}
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Order:
    """One try at one image: with each of `tokens` in turn, until one is not answered by 401."""

    url: str
    where: str
    headers: Mapping[str, str]
    accepted: frozenset[int]
    tokens: tuple[str | None, ...]
    destination: Path
    max_bytes: int | None
    api_version: str


class ImageFetcher:
    """Fetches images into files, each in a thread from a bounded pool. Connections are kept open between them."""

    def __init__(
        self,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_connections: int,
        ssl_context: ssl.SSLContext,
        on_token: Callable[[str | None], None],
    ) -> None:
        self._connections = connections(max_idle=max_connections, ssl_context=ssl_context)
        # The caller's deadline bounds a fetch; these end a thread that nobody can reach any more.
        self._timeout = Timeout(connect=connect_timeout_s, read=timeout_s)
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="fetch", initializer=_step_back)
        self._under_way: dict[Future[ServedImage], Lifeline] = {}
        self._on_token = on_token

    async def fetch(self, order: Order) -> ServedImage:
        """
        Fetch the image into its file. Cancelling ends the connection at once and removes the file.

        Raises:
            MediaLibraryError: what the answer means, or that none came; OSError from the disk. No file is left.
        """
        lifeline = Lifeline()
        work = self._threads.submit(self._work, order, lifeline)
        self._under_way[work] = lifeline
        work.add_done_callback(self._under_way.pop)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            lifeline.cut()
            if lifeline.has_file:
                order.destination.unlink(missing_ok=True)
            raise

    async def aclose(self) -> None:
        """Give up what is under way and close every connection."""
        under_way = dict(self._under_way)
        for lifeline in under_way.values():
            lifeline.cut()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await asyncio.gather(*map(asyncio.wrap_future, under_way), return_exceptions=True)
        self._connections.clear()

    # --- in a thread -------------------------------------------------------------------------------------------

    def _work(self, order: Order, lifeline: Lifeline) -> ServedImage:
        THREAD.lifeline = lifeline
        try:
            return self._with_tokens(order, lifeline)
        finally:
            THREAD.lifeline = None
            lifeline.let_go()

    def _with_tokens(self, order: Order, lifeline: Lifeline) -> ServedImage:
        for position, token in enumerate(order.tokens, start=1):
            response = self._answer(order, token)
            try:
                if response.status == 401 and position < len(order.tokens):
                    continue
                if response.status != 401:
                    self._on_token(token)
                if response.status not in order.accepted:
                    raise _error(response, order)
                return _image(response, order, lifeline)
            finally:
                # A connection whose answer was read to its end is back in its pool already.
                response.close()
        raise AssertionError  # the last token's answer was returned or raised

    def _answer(self, order: Order, token: str | None) -> urllib3.BaseHTTPResponse:
        """Send the request and follow where it leads; the token goes to the library's own host alone."""
        headers = {**_HEADERS, **{name: _sendable(value) for name, value in order.headers.items()}}
        if token:
            headers["authorization"] = f"Bearer {token}"
        url = order.url
        for _ in range(REDIRECTS_MAX + 1):
            response = self._send(url, headers, order.where)
            location = response.headers.get("location") if response.status in REDIRECTS else None
            if not location:
                return response
            response.close()
            target = urljoin(url, location)
            with _converted(order.where):
                if not _keeps_token(parse_url(url), parse_url(target)):
                    headers.pop("authorization", None)
            url = target
        raise UnexpectedAnswer(message="too many redirects", where=order.where)

    def _send(self, url: str, headers: Mapping[str, str], where: str) -> urllib3.BaseHTTPResponse:
        with _converted(where):
            parts = parse_url(url)
            if parts.scheme not in _PORTS or not parts.host:
                raise UnexpectedAnswer(message="a redirect to no web server", where=where)
            pool = self._connections.connection_from_host(parts.host, parts.port, parts.scheme)
            return pool.urlopen(
                "GET",
                parts.request_uri,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=self._timeout,
                preload_content=False,
            )


def _step_back() -> None:
    """Let the event loop go first. On Linux a thread has a niceness of its own; elsewhere there is no such thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _image(response: urllib3.BaseHTTPResponse, order: Order, lifeline: Lifeline) -> ServedImage:
    """Every byte of the body counted, hashed and written, or an error; never a file that only looks whole."""
    is_modified = response.status != 304
    size_bytes, digest = 0, None
    if is_modified:
        size_bytes, digest = _written(response, order, lifeline)
    else:
        with _converted(order.where):
            response.read()
    return ServedImage(
        is_modified=is_modified,
        content_type=_text(response, "content-type"),
        etag=_text(response, "etag"),
        last_modified=_text(response, "last-modified"),
        size_bytes=size_bytes,
        digest=digest,
    )


def _written(response: urllib3.BaseHTTPResponse, order: Order, lifeline: Lifeline) -> tuple[int, str]:
    """Size and digest of the body, which now lies in the order's file."""
    announced = response.length_remaining
    if order.max_bytes is not None and announced is not None and announced > order.max_bytes:
        raise TooLarge(limit_bytes=order.max_bytes, size_bytes=announced, where=order.where)
    lifeline.has_file = True
    try:
        # Small chunks are gathered; those of READ_BYTES pass the buffer by.
        with order.destination.open("ab", buffering=READ_BYTES) as file:
            if file.tell():
                file.truncate(0)  # not always: ext4 sends what was emptied to the disk as it is closed (auto_da_alloc)
            lifeline.raise_if_cut()  # whoever cut it may have looked for the file before it was there
            return _copied(response, file, order)
    except BaseException:
        order.destination.unlink(missing_ok=True)
        raise


def _copied(response: urllib3.BaseHTTPResponse, file: BinaryIO, order: Order) -> tuple[int, str]:
    size_bytes, digest = 0, ContentHasher()
    chunks = response.stream(READ_BYTES, decode_content=True)
    while chunk := _next(chunks, order.where):
        size_bytes += len(chunk)
        if order.max_bytes is not None and size_bytes > order.max_bytes:
            raise TooLarge(limit_bytes=order.max_bytes, where=order.where)
        digest.update(chunk)
        file.write(chunk)
    return size_bytes, digest.hexdigest()


def _next(chunks: Iterator[bytes], where: str) -> bytes:
    """The next chunk that is not empty, or nothing at the end."""
    with _converted(where):
        return next((chunk for chunk in chunks if chunk), b"")


def _error(response: urllib3.BaseHTTPResponse, order: Order) -> MediaLibraryError:
    with _converted(order.where):
        body = response.read(ERROR_BODY_MAX_BYTES, decode_content=True)
    wait_s = None
    if response.status in TRANSIENT_STATUSES:
        wait_s = retry_after_s(response.headers.get("retry-after"), now=datetime.now(UTC))
    return error_for(response.status, body, where=order.where, api_version=order.api_version, wait_s=wait_s)


def _text(response: urllib3.BaseHTTPResponse, name: str) -> str | None:
    """A header in one line: http.client leaves the breaks of folded ones in (RFC 9112 section 5.2)."""
    value = response.headers.get(name)
    return None if value is None else " ".join(value.split())


def _sendable(value: str) -> str:
    """A validator as a header takes it; one with other letters than Latin-1 matches nothing, and the image comes."""
    return value.encode("latin-1", "replace").decode("latin-1")


def _keeps_token(here: Url, there: Url) -> bool:
    """Whether a redirect stays at the same origin, or leads from http to https of the same host."""
    if here.host != there.host:
        return False
    ports = [parts.port or _PORTS.get(parts.scheme or "") for parts in (here, there)]
    if (here.scheme, there.scheme) == ("http", "https"):
        return ports == [80, 443]
    return here.scheme == there.scheme and ports[0] == ports[1]


@contextmanager
def _converted(where: str) -> Iterator[None]:
    """Turn whatever urllib3 raises inside into an error of ours."""
    try:
        yield
    except (urllib3.exceptions.DecodeError, urllib3.exceptions.LocationValueError) as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    except urllib3.exceptions.HTTPError as exc:
        # Connect, read, write and protocol errors alike: no connection, or one that broke off.
        raise OriginUnavailable(message=type(exc).__name__, where=where) from exc
