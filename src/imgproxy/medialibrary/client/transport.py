"""
Sends API calls to the Media Library, with httpx: tokens, tries, pauses, one deadline for each call.

A read is tried again after a lost connection, a broken body, 429 and 502 to 504. The pause is what Retry-After says,
else random ("full jitter", AWS Architecture Blog). A PATCH is sent once. Redirects of reads are followed where
`redirects.py` allows it; httpx drops the token at another host. Every error of httpx becomes one of
`imgproxy.medialibrary.errors`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import httpx
from yarl import URL

from imgproxy.medialibrary.client.answers import TRANSIENT_STATUSES, error_for, retry_after_s
from imgproxy.medialibrary.client.redirects import RedirectRule
from imgproxy.medialibrary.errors import (
    MediaLibraryError,
    OriginTimeout,
    OriginUnavailable,
    UnexpectedAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproxy.medialibrary.client.tokens import TokenSource

BACKOFF_BASE_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
REDIRECTS_MAX: Final = 5
JSON_MAX_BYTES: Final = 32 * 1024 * 1024
ERROR_BODY_MAX_BYTES: Final = 64 * 1024
KEEPALIVE_EXPIRY_S: Final = 4.0  # below the 5 s after which servers on Node close an idle connection


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
        redirect_hosts: frozenset[str],
    ) -> None:
        self.redirects = RedirectRule(URL(url).with_user(None), redirect_hosts)
        self._api_version = api_version
        self.token = token
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
        number = 1
        try:
            async with asyncio.timeout(self.timeout_s) as deadline:
                while True:
                    try:
                        return await self._read_once(call)
                    except OriginUnavailable as failure:
                        await self.pause(call, number, failure, deadline)
                    number += 1
        except TimeoutError as exc:
            raise OriginTimeout(timeout_s=self.timeout_s, where=call.where) from exc

    async def pause(self, call: Call, number: int, failure: OriginUnavailable, deadline: asyncio.Timeout) -> None:
        """Wait before the next try. Raise the failure of try `number` if it was the last one, or no time is left."""
        tries = self._max_attempts if call.is_idempotent else 1
        wait_s = pause_s(number, failure.wait_s)
        end_at = deadline.when()
        assert end_at is not None
        if number == tries or asyncio.get_running_loop().time() + wait_s >= end_at:
            raise failure
        await asyncio.sleep(wait_s)

    async def _read_once(self, call: Call) -> bytes:
        """Try once, with each token in turn until one is not answered by 401."""
        tokens = self.token.tokens() or (None,)
        with _converted(call.where):
            for position, token in enumerate(tokens, start=1):
                request = self._http.build_request(
                    call.method,
                    call.path,
                    params=call.params or None,
                    headers={**call.headers, **({"authorization": f"Bearer {token}"} if token else {})},
                    json=call.body,
                )
                response = await self._send(call, request)
                try:
                    if response.status_code == 401 and position < len(tokens):
                        continue
                    if position > 1:
                        self.token.prefer(token)
                    if response.status_code in call.accepted:
                        return await _body(response, JSON_MAX_BYTES)
                    body = await _body(response, ERROR_BODY_MAX_BYTES)
                    raise self.refusal(call, response.status_code, response.headers.get("retry-after"), body)
                finally:
                    await response.aclose()
        raise AssertionError  # the last token's answer was returned or raised

    async def _send(self, call: Call, request: httpx.Request) -> httpx.Response:
        """Send a request, and follow the redirects of a read. Raises RedirectRefused."""
        for _ in range(REDIRECTS_MAX + 1):
            response = await self._http.send(request, stream=True)
            if response.next_request is None or not call.is_idempotent:
                return response
            await response.aclose()
            before, request = URL(str(request.url)), response.next_request
            self.redirects.check(before, URL(str(request.url)), call.where)
        raise UnexpectedAnswer(message="too many redirects", where=call.where)

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
    """Return a context that trusts the system's authorities. It is made once: that takes longer than a call."""
    return ssl.create_default_context()


def pause_s(attempt: int, wait_s: float | None) -> float:
    """Return how long to wait after try number `attempt` (from 1): what the server asked for, or a jittered backoff."""
    if wait_s is not None:
        return wait_s
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**attempt))


@contextmanager
def _converted(where: str) -> Iterator[None]:
    """Turn the errors of httpx into those of `imgproxy.medialibrary.errors`."""
    try:
        yield
    except (httpx.DecodingError, httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc
    except httpx.HTTPError as exc:
        raise OriginUnavailable(message=type(exc).__name__, where=where) from exc
