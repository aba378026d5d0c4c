"""
Sends API calls to the Media Library, with httpx: tokens, tries, pauses, one deadline for each call.

Reads are tried again after a lost connection, a broken body, 429 and 502 to 504: with full jitter ("Exponential
Backoff And Jitter", AWS Architecture Blog), or when Retry-After says. A PATCH is sent once. Redirects of reads are
followed; httpx drops the token at another host. What httpx raises becomes an error of ours.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from imgproxy.medialibrary.client.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.errors import (
    MediaLibraryError,
    OriginTimeout,
    OriginUnavailable,
    UnexpectedAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from imgproxy.medialibrary.client.tokens import TokenSource

BACKOFF_BASE_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
REDIRECTS_MAX: Final = 5
JSON_MAX_BYTES: Final = 32 * 1024 * 1024
ERROR_BODY_MAX_BYTES: Final = 64 * 1024
KEEPALIVE_EXPIRY_S: Final = 4.0  # below the 5 s of Node's servers: they would close a connection as we use it

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
        ssl_context: ssl.SSLContext,
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
            verify=ssl_context,
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

    async def read(self, call: Call) -> bytes:
        """
        Send the call until one try succeeds, and return the body of its answer.

        Raises:
            MediaLibraryError: the last try's error, or OriginTimeout once the deadline has passed.
        """
        return await self.repeat(call, lambda: self._read_once(call))

    async def repeat(self, call: Call, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until one attempt succeeds, within the call's deadline. Raises as `read` does."""
        loop = asyncio.get_running_loop()
        end_at = loop.time() + self.timeout_s
        tries = self._max_attempts if call.is_idempotent else 1
        number = 1
        try:
            async with asyncio.timeout_at(end_at):
                while True:
                    try:
                        return await attempt()
                    except OriginUnavailable as failure:
                        pause = pause_s(number, failure.wait_s)
                        if number == tries or loop.time() + pause >= end_at:
                            raise
                        number += 1
                        await asyncio.sleep(pause)
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self.timeout_s, where=call.where) from exc

    async def _read_once(self, call: Call) -> bytes:
        """One try, with each token in turn until one is not answered by 401."""
        tokens = self.tokens_in_order()
        with _converted(call.where):
            for position, token in enumerate(tokens, start=1):
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
                    if response.status_code in call.accepted:
                        return await _body(response, JSON_MAX_BYTES)
                    body = await _body(response, ERROR_BODY_MAX_BYTES)
                    raise self.refusal(call, response.status_code, response.headers.get("retry-after"), body)
                finally:
                    await response.aclose()
        raise AssertionError  # the last token's answer was returned or raised

    def accept(self, token: str | None) -> None:
        """Try this token first from now on, as it was not answered by 401: a rotation then costs no second request."""
        self._accepted_token = token

    def tokens_in_order(self) -> tuple[str | None, ...]:
        """Return the tokens to try, at least one; None means no Authorization header."""
        tokens = self._token.tokens()
        if self._accepted_token in tokens[1:]:
            tokens = tuple(sorted(tokens, key=lambda token: token != self._accepted_token))
        return tokens or (None,)

    def refusal(self, call: Call, status: int, retry_after: str | None, body: bytes) -> MediaLibraryError:
        """Return the error that an answer means; `retry_after` is that header, `body` its beginning."""
        wait_s = retry_after_s(retry_after, now=datetime.now(UTC)) if status in TRANSIENT_STATUSES else None
        return error_for(status, body, where=call.where, api_version=self._api_version, wait_s=wait_s)


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    """Return the body, or a little more than `max_bytes` of a longer one, which is then no valid JSON."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            break
    return bytes(body)


@cache
def system_trust() -> ssl.SSLContext:
    """Return trust in the system's authorities. Made once, as reading them takes longer than a call."""
    return ssl.create_default_context()


def pause_s(attempt: int, wait_s: float | None) -> float:
    """Return how long to wait after try number `attempt` (from 1): what the server asked for, or a jittered backoff."""
    if wait_s is not None:
        return wait_s
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**attempt))


@contextmanager
def _converted(where: str) -> Iterator[None]:
    """Turn what httpx raises into an error of ours."""
    try:
        yield
    except httpx.TooManyRedirects as exc:
        raise UnexpectedAnswer(message="too many redirects", where=where) from exc
    except (httpx.DecodingError, httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    except httpx.HTTPError as exc:
        raise OriginUnavailable(message=type(exc).__name__, where=where) from exc
