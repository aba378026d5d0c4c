"""
How a call gets to the Media Library and back: tokens, tries, pauses, one deadline over all of it.

Everything that httpx raises becomes one of our errors here. Reads are tried again after a lost connection, a broken
body, 429 and 502 to 504, with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog) or as
Retry-After says; a PATCH is sent once. Redirects are followed for reads; httpx drops the token at another host.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from imgproxy.medialibrary.client.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.client.fetcher import ERROR_BODY_MAX_BYTES, REDIRECTS_MAX
from imgproxy.medialibrary.client.wire import KEEPALIVE_EXPIRY_S
from imgproxy.medialibrary.errors import (
    MediaLibraryError,
    OriginTimeout,
    OriginUnavailable,
    UnexpectedAnswer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from imgproxy.medialibrary.client.tokens import TokenSource

BACKOFF_BASE_S = 0.1
BACKOFF_MAX_S = 2.0

T = TypeVar("T")


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


class Transport:
    """Sends calls to one server, as one API version."""

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
    ) -> None:
        self._api_version = api_version
        self._token = token
        self._accepted_token: str | None = None
        self.timeout_s = timeout_s
        # The deadline bounds the call; a connect that hangs must leave time for another try.
        self.connect_timeout_s = max(0.25, timeout_s / 2)
        self._max_attempts = max(1, max_attempts)
        # trust_env would let .netrc and proxy variables decide where the token goes.
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            verify=ssl_context or system_trust(),
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_EXPIRY_S,
            ),
            timeout=httpx.Timeout(timeout_s, connect=self.connect_timeout_s),
            max_redirects=REDIRECTS_MAX,
            headers={"user-agent": "imgproxy", "accept-encoding": "identity"},
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def run(self, call: Call, consume: Callable[[httpx.Response], Awaitable[T]]) -> T:
        """
        Send the call and give each accepted answer, its body unread, to `consume`, until one try succeeds.

        Raises:
            MediaLibraryError: the last try's error, or OriginTimeout once the deadline has passed.
        """

        async def attempt() -> T:
            async with self._answer(call) as response:
                with converted(call.where):
                    return await consume(response)

        return await self.repeat(call, attempt)

    async def repeat(self, call: Call, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until one attempt succeeds, within the call's deadline. Raises as `run` does."""
        # Not by `deadline`: each fetch comes by here, and a generator as a context takes 20 us more than the timeout.
        loop = asyncio.get_running_loop()
        end = loop.time() + self.timeout_s
        try:
            async with asyncio.timeout_at(end):
                return await self._until_it_works(call, attempt, lambda: end - loop.time())
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self.timeout_s, where=call.where) from exc

    @asynccontextmanager
    async def opened(self, call: Call) -> AsyncIterator[httpx.Response]:
        """
        Give an accepted answer with its body unread; only what happens before the body is tried again.

        The deadline covers the whole context. Raises as `run` does.
        """
        async with self.deadline(call) as remaining_s:

            async def attempt() -> tuple[Any, httpx.Response]:
                context = self._answer(call)
                return context, await context.__aenter__()

            context, response = await self._until_it_works(call, attempt, remaining_s)
            try:
                with converted(call.where):
                    yield response
            finally:
                await context.__aexit__(None, None, None)

    @asynccontextmanager
    async def deadline(self, call: Call) -> AsyncIterator[Callable[[], float]]:
        """Bound what happens inside by the timeout of a call; gives a function that returns the seconds left."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.timeout_s
        try:
            async with asyncio.timeout_at(end):
                yield lambda: end - loop.time()
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self.timeout_s, where=call.where) from exc

    async def _until_it_works(
        self, call: Call, attempt: Callable[[], Awaitable[T]], remaining_s: Callable[[], float]
    ) -> T:
        tries = self._max_attempts if call.is_idempotent else 1
        for number in range(1, tries + 1):
            try:
                return await attempt()
            except OriginUnavailable as failure:
                pause = pause_s(number, failure.wait_s)
                if number == tries or pause >= remaining_s():
                    raise
                await asyncio.sleep(pause)
        raise AssertionError  # the last try returned or raised

    @asynccontextmanager
    async def _answer(self, call: Call) -> AsyncIterator[httpx.Response]:
        """One try: the tokens in turn, until one is not answered by 401; then an accepted answer, or its error."""
        tokens = self.tokens_in_order()
        for position, token in enumerate(tokens, start=1):
            with converted(call.where):
                request = self._http.build_request(
                    call.method,
                    call.path,
                    params=call.params or None,
                    headers={**call.headers, **({"authorization": f"Bearer {token}"} if token else {})},
                    json=call.body,
                )
                response = await self._http.send(request, stream=True, follow_redirects=call.is_idempotent)
            try:
                if response.status_code == 401 and position < len(tokens):
                    continue
                if response.status_code != 401:
                    self.accept(token)
                if response.status_code not in call.accepted:
                    raise await self._error(call, response)
                yield response
                return
            finally:
                await response.aclose()

    def accept(self, token: str | None) -> None:
        """This token was not answered by 401: during a rotation it goes first, so that a call costs one round trip."""
        self._accepted_token = token

    def tokens_in_order(self) -> tuple[str | None, ...]:
        """Return the tokens to try, at least one; None means no Authorization header."""
        tokens = self._token.tokens()
        if self._accepted_token in tokens[1:]:
            tokens = tuple(sorted(tokens, key=lambda token: token != self._accepted_token))
        return tokens or (None,)

    async def _error(self, call: Call, response: httpx.Response) -> MediaLibraryError:
        body = b""
        with converted(call.where):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ERROR_BODY_MAX_BYTES:
                    break
        wait_s = None
        if response.status_code in TRANSIENT_STATUSES:
            wait_s = retry_after_s(response.headers.get("retry-after"), now=datetime.now(UTC))
        return error_for(response.status_code, body, where=call.where, api_version=self._api_version, wait_s=wait_s)


@cache
def system_trust() -> ssl.SSLContext:
    """Return trust in the system's authorities; made once, as reading them takes longer than a call."""
    return ssl.create_default_context()


def pause_s(attempt: int, wait_s: float | None) -> float:
    """Return how long to wait after try number `attempt` (from 1): what the server asked for, or a jittered backoff."""
    if wait_s is not None:
        return wait_s
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**attempt))


@contextmanager
def converted(where: str) -> Iterator[None]:
    """Turn whatever httpx raises inside into an error of ours."""
    try:
        yield
    except httpx.TooManyRedirects as exc:
        raise UnexpectedAnswer(message="too many redirects", where=where) from exc
    except (httpx.DecodingError, httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    except httpx.HTTPError as exc:
        # Connect, read, write and protocol errors alike: no connection, or one that broke off.
        raise OriginUnavailable(message=type(exc).__name__, where=where) from exc
