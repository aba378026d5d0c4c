"""
How an original gets from serve-image to a file: blocking calls in threads of their own, so that the loop stays free.

CPU a fetch of 0.8 MB from nginx with digest and file, four at once, measured in turns on one machine: by urllib3 with
BLAKE2b 3.5 to 4.5 ms; by http.client into one piece of memory, with BLAKE3, 1.8 ms. That is the kernel's copies (0.7),
the digest (0.3), http.client (0.3), and the way to a thread and back. Next to none of it is the event loop's.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import urllib3
from urllib3.util import parse_url

from imgproxy.medialibrary.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.errors import OriginUnavailable, UnexpectedAnswer
from imgproxy.medialibrary.intake import image, pieces, remove
from imgproxy.medialibrary.wire import READ_BYTES, Connections, Lifeline, Server, WireError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from imgproxy.medialibrary.errors import MediaLibraryError
    from imgproxy.medialibrary.intake import StrPath
    from imgproxy.medialibrary.models import Landing, ServedImage
    from imgproxy.medialibrary.wire import Answer

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
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"{self.server.scheme}://{host}:{self.server.port}{self.target}"


class _Thread(threading.local):
    """What each thread has: the memory that bytes pass through on their way to the file."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


class ImageFetcher:
    """Fetches images of one library into files, each in a thread from a bounded pool; connections are kept open."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_connections: int,
        ssl_context: ssl.SSLContext,
        on_token: Callable[[str | None], None],
    ) -> None:
        self._home = _place(url, where="the library's URL")
        self._connections = Connections(
            max_idle=max_connections,
            # The caller's deadline bounds a fetch; these end a thread that nobody can reach any more.
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=timeout_s,
            ssl_context=ssl_context,
        )
        self._thread = _Thread()
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="fetch", initializer=_step_back)
        self._under_way: dict[Future[ServedImage], Lifeline] = {}
        self._on_token = on_token

    async def fetch(self, order: Order) -> ServedImage:
        """
        Fetch the image into its file. Cancelling ends the connection at once and removes the file.

        Raises:
            MediaLibraryError: what the answer means, or that none came; OSError from the disk. No file is left.
        """
        lifeline, loop = Lifeline(), asyncio.get_running_loop()
        work = self._threads.submit(self._work, order, lifeline)
        self._under_way[work] = lifeline
        work.add_done_callback(self._under_way.pop)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if order.landing is not None:
                _lend_until(work, order.landing, loop)
            lifeline.cut()
            if lifeline.has_file:
                remove(order.destination)
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
        self._connections.close()

    # --- in a thread -------------------------------------------------------------------------------------------

    def _work(self, order: Order, lifeline: Lifeline) -> ServedImage:
        try:
            return self._with_tokens(order, lifeline)
        except WireError as exc:
            raise OriginUnavailable(message=str(exc), where=order.where) from exc
        finally:
            lifeline.let_go()

    def _with_tokens(self, order: Order, lifeline: Lifeline) -> ServedImage:
        for position, token in enumerate(order.tokens, start=1):
            answer = self._answer(order, token, lifeline)
            try:
                if answer.status == 401 and position < len(order.tokens):
                    continue
                if answer.status != 401:
                    self._on_token(token)
                if answer.status not in order.accepted:
                    raise _error(answer, order, self._thread.view)
                return image(
                    answer,
                    lifeline,
                    where=order.where,
                    destination=order.destination,
                    landing=order.landing,
                    max_bytes=order.max_bytes,
                    view=self._thread.view,
                )
            finally:
                self._connections.put_back(answer)
        raise AssertionError  # the last token's answer was returned or raised

    def _answer(self, order: Order, token: str | None, lifeline: Lifeline) -> Answer:
        """Send the request and follow where it leads; the token goes to the library's own host alone."""
        headers = {**_HEADERS, **{name: _sendable(value) for name, value in order.headers.items()}}
        if token:
            headers["authorization"] = f"Bearer {token}"
        place = _Place(self._home.server, self._home.target.rstrip("/") + order.path)
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._connections.ask(place.server, place.target, headers, lifeline)
            location = answer.headers.get("location") if answer.status in REDIRECTS else None
            if not location:
                return answer
            self._connections.put_back(answer)
            there = _place(location, seen_from=place.url, where=order.where)
            if not _keeps_token(place.server, there.server):
                headers.pop("authorization", None)
            place = there
        raise UnexpectedAnswer(message="too many redirects", where=order.where)


def _lend_until(work: Future[ServedImage], landing: Landing, loop: asyncio.AbstractEventLoop) -> None:
    """Keep the memory that a thread may still write to from anybody else, until the thread is through."""

    def give_back(_: Future[ServedImage]) -> None:
        with suppress(RuntimeError):  # the loop is closed: then nobody is left to use it
            loop.call_soon_threadsafe(landing.give_back)

    landing.borrow()
    work.add_done_callback(give_back)


def _step_back() -> None:
    """Let the event loop go first. On Linux a thread has a niceness of its own; elsewhere there is no such thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _place(url: str, *, seen_from: str = "", where: str) -> _Place:
    """Read a URL, which may be relative. Raises UnexpectedAnswer for one that leads to no web server."""
    try:
        parts = parse_url(urljoin(seen_from, url))
        host = (parts.host or "").strip("[]")
        host.encode("idna")  # as the search for its address does
    except (urllib3.exceptions.LocationValueError, ValueError) as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    if parts.scheme not in _PORTS or not host:
        raise UnexpectedAnswer(message="no web server", where=where)
    return _Place(Server(parts.scheme, host, parts.port or _PORTS[parts.scheme]), parts.request_uri)


def _error(answer: Answer, order: Order, view: memoryview) -> MediaLibraryError:
    body = b""
    for piece in pieces(answer, view[: ERROR_BODY_MAX_BYTES + 1], order.where):
        body += piece
        if len(body) > ERROR_BODY_MAX_BYTES:
            break
    wait_s = None
    if answer.status in TRANSIENT_STATUSES:
        wait_s = retry_after_s(answer.headers.get("retry-after"), now=datetime.now(UTC))
    return error_for(answer.status, body, where=order.where, api_version=order.api_version, wait_s=wait_s)


def _sendable(value: str) -> str:
    """A validator as a header takes it; one with other letters than Latin-1 matches nothing, and the image comes."""
    return value.encode("latin-1", "replace").decode("latin-1")


def _keeps_token(here: Server, there: Server) -> bool:
    """Whether a redirect stays at the same server, or leads from http to https of the same host."""
    is_upgrade = (here.scheme, here.port, there.scheme, there.port) == ("http", 80, "https", 443)
    return here == there or (here.host == there.host and is_upgrade)
