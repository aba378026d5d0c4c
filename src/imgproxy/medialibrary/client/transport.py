"""
Sends calls to the Media Library: tokens, tries, pauses, one deadline for each call.

A read is tried again after a lost connection, a broken body, 429 and 502 to 504. The pause is what Retry-After says,
else random ("full jitter", AWS Architecture Blog). A PATCH is sent once. Redirects of reads are followed where
`redirects.py` allows it, and the token goes to the library's own host only. Every error of aiohttp becomes one of
`imgproxy.medialibrary.errors`.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from imgproxy.medialibrary.client.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.client.causes import cause_of
from imgproxy.medialibrary.client.connections import PART_BYTES, Connections
from imgproxy.medialibrary.client.decoder import EncodingError
from imgproxy.medialibrary.client.redirects import RedirectRule
from imgproxy.medialibrary.errors import (
    MediaLibraryError,
    OriginTimeout,
    OriginUnavailable,
    UnexpectedAnswer,
)
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from imgproxy.medialibrary.client.connections import Response
    from imgproxy.medialibrary.client.tokens import TokenSource

T = TypeVar("T")

BACKOFF_BASE_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
REDIRECTS_MAX: Final = 5
JSON_MAX_BYTES: Final = 32 * 1024 * 1024
ERROR_BODY_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One call: what to send, and which statuses are an answer."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    accepted: frozenset[int] = frozenset({200})

    @property
    def is_idempotent(self) -> bool:
        """Whether sending it twice is the same as sending it once (RFC 9110 section 9.2.2)."""
        return self.method in {"GET", "HEAD"}

    @property
    def where(self) -> str:
        """Method and path, for messages."""
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        """Path and query, as they are sent."""
        return f"{self.path}?{urlencode(self.params)}" if self.params else self.path


class Transport:
    """Sends calls to one server, as one API version. Connections are kept open and used again."""

    def __init__(
        self,
        url: str,
        *,
        api_version: str,
        token: TokenSource,
        timeout_s: float,
        max_attempts: int,
        max_connections: int,
        ssl_context: ssl.SSLContext | None,
        proxy: str | None,
        headers: Mapping[str, str],
        redirect_hosts: frozenset[str],
    ) -> None:
        home = URL(url).with_user(None)
        self._base = str(home).rstrip("/")
        self._redirects = RedirectRule(home, redirect_hosts)
        self._api_version = api_version
        self._token = token
        self._timeout_s = timeout_s
        self._max_attempts = max(1, max_attempts)
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._headers = headers
        self._connections = self.connections(max_connections)

    def connections(self, max_connections: int, part_bytes: int = PART_BYTES) -> Connections:
        """Return connections to this server. The arguments are those of `Connections`."""
        # The deadline bounds the call; a connect that hangs must leave time for another try.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=max(0.25, self._timeout_s / 2))
        return Connections(
            max_connections=max_connections,
            ssl_context=self._ssl_context,
            timeout=timeout,
            part_bytes=part_bytes,
            proxy=self._proxy,
        )

    async def aclose(self) -> None:
        """Close every connection of `read`."""
        await self._connections.aclose()

    async def read(self, call: Call) -> bytes:
        """Send the call and return the body of its answer. Raises as `send`."""
        return await self.send(call, self._connections, _body)

    async def send(self, call: Call, connections: Connections, take: Callable[[Response], Awaitable[T]]) -> T:
        """
        Send the call until one try succeeds, and return what `take` makes of its answer.

        Raises:
            MediaLibraryError: the last try's error, or OriginTimeout once the deadline has passed.
        """
        number = 1
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                while True:
                    try:
                        return await self._send_once(call, connections, take)
                    except OriginUnavailable as failure:
                        await self._pause(call, number, failure, deadline)
                    number += 1
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self._timeout_s, where=call.where) from exc

    async def _pause(self, call: Call, number: int, failure: OriginUnavailable, deadline: asyncio.Timeout) -> None:
        """Wait before the next try. Raise the failure of try `number` if it was the last one, or no time is left."""
        tries = self._max_attempts if call.is_idempotent else 1
        wait_s = pause_s(number, failure.wait_s)
        end_at = deadline.when()
        assert end_at is not None
        if number == tries or asyncio.get_running_loop().time() + wait_s >= end_at:
            raise failure
        await asyncio.sleep(wait_s)

    async def _send_once(self, call: Call, connections: Connections, take: Callable[[Response], Awaitable[T]]) -> T:
        """Try once, with each token in turn until one is not answered by 401."""
        url = URL(self._base + call.target, encoded=True)
        headers = call.headers if call.body is None else {**call.headers, "Content-Type": "application/json"}
        redirects_max = REDIRECTS_MAX if call.is_idempotent else 0
        tokens = self._token.tokens() or (None,)
        try:
            body = _json(call.body)
            for position, token in enumerate(tokens, start=1):
                async with connections.request(
                    call.method,
                    url,
                    headers=headers,
                    body=body,
                    redirects_max=redirects_max,
                    prepare=self._prepare(token, call.where),
                ) as response:
                    if response.status == 401 and position < len(tokens):
                        continue
                    if position > 1:
                        self._token.prefer(token)
                    if response.status in call.accepted:
                        return await take(response)
                    raise self._refusal(call, response, await response.beginning(ERROR_BODY_MAX_BYTES))
        except (aiohttp.ClientError, EncodingError, UnicodeError, RuntimeError) as exc:
            error = _meaning(exc, call.where, is_closed=connections.is_closed)
            if error is None:
                raise
            raise error from exc
        raise AssertionError  # the last token's answer was returned or raised

    def _prepare(self, token: str | None, where: str) -> Callable[[aiohttp.ClientRequest], None]:
        """Return what checks each redirect of a call. Token and own headers go to the library's own host only."""
        before: URL | None = None

        def prepare(request: aiohttp.ClientRequest) -> None:
            nonlocal before
            is_home = before is None or self._redirects.check(before, request.url, where)
            before = request.url
            if not is_home:
                return
            request.headers.update(traces.outgoing())
            request.headers.update(self._headers)
            if token:
                request.headers["Authorization"] = f"Bearer {token}"

        return prepare

    def _refusal(self, call: Call, response: Response, body: bytes) -> MediaLibraryError:
        """Return the error that an answer means; `body` is its beginning."""
        status = response.status
        wait = response.headers.get("Retry-After") if status in TRANSIENT_STATUSES else None
        wait_s = retry_after_s(wait, now=datetime.now(UTC))
        return error_for(status, body, where=call.where, api_version=self._api_version, wait_s=wait_s)


async def _body(response: Response) -> bytes:
    """Return the body, or a little more than JSON_MAX_BYTES of a longer one, which is then no valid JSON."""
    return await response.beginning(JSON_MAX_BYTES, must_be_whole=True)


def _json(value: Any) -> bytes | None:
    """Return the body of a call as JSON (RFC 8259 section 8.1: UTF-8). Raises ValueError for NaN and infinity."""
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def pause_s(attempt: int, wait_s: float | None) -> float:
    """Return how long to wait after try number `attempt` (from 1): what the server asked for, or a jittered backoff."""
    if wait_s is not None:
        return wait_s
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**attempt))


def _meaning(error: Exception, where: str, *, is_closed: bool) -> MediaLibraryError | None:
    """Return what an error of a request means. None: it is a bug. `is_closed`: the connections are closed for good."""
    if isinstance(error, aiohttp.TooManyRedirects):
        return UnexpectedAnswer(message="too many redirects", where=where)
    if isinstance(error, EncodingError):
        return UnexpectedAnswer(message=str(error), where=where)
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | UnicodeError):  # the last: a host's name
        return UnexpectedAnswer(message=type(error).__name__, where=where)
    if isinstance(error, aiohttp.ClientError):
        return OriginUnavailable(message=cause_of(error), where=where)
    # aiohttp raises a RuntimeError if a connection was closed just before its body is read.
    return OriginUnavailable(message="Closed", where=where) if is_closed else None
