"""
One purge call to a cache in front: what is sent, what came back, what that means.

The only place that sends; everything httpx raises becomes a Verdict here. Neither URLs nor bodies get into a verdict's
detail, for either may hold a secret.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import httpx

from imgproxy.medialibrary.client.answers import retry_after_s
from imgproxy.medialibrary.client.transport import system_trust

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproxy.cache.outbox import Subject

ANSWER_MAX_BYTES = 64 * 1024
# Nobody's Retry-After keeps a revoked picture up for longer without another try.
RETRY_AFTER_MAX_S = 600.0
DETAIL_MAX_CHARS = 200
# Below the 5 s after which Varnish, and others, close a connection that nobody uses.
KEEPALIVE_EXPIRY_S = 4.0
# It lies in what was sent, not in the target: trying another part of it makes sense.
_REJECTED = frozenset({400, 413, 414, 422, 431})


class Result(StrEnum):
    """What became of a call; also the label in the metrics."""

    DONE = "done"
    LIMITED = "limited"
    FAILED = "failed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class PurgeCall:
    """A request to be sent."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class PurgeAnswer:
    """An answer; of its body at most ANSWER_MAX_BYTES."""

    status: int
    body: bytes = b""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a call came to. `wait_s`: how long the target wants to be left alone, where it said so."""

    result: Result
    detail: str | None = None
    wait_s: float | None = None


DONE = Verdict(Result.DONE)


class Adapter(Protocol):
    """One kind of cache in front: pure, from subjects to a call and from an answer to a verdict."""

    @property
    def batch_max(self) -> int:
        """Most subjects in one call."""

    @property
    def concurrency(self) -> int:
        """Most calls at the same time."""

    def covers(self, subject: Subject) -> bool:
        """Whether this kind can be told to purge that."""

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """The request that purges these."""

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """What the answer means."""


def judge_status(answer: PurgeAnswer, accepted: frozenset[int]) -> Verdict:
    """The meaning of a status, as far as all APIs agree on it."""
    if answer.status in accepted:
        return DONE
    detail = f"HTTP {answer.status}"
    if answer.status == 429 or (answer.status == 503 and answer.retry_after_s is not None):
        wait_s = None if answer.retry_after_s is None else min(answer.retry_after_s, RETRY_AFTER_MAX_S)
        return Verdict(Result.LIMITED, detail, wait_s)
    return Verdict(Result.REJECTED if answer.status in _REJECTED else Result.FAILED, detail)


class PurgeHttp:
    """Sends purge calls; close it with `aclose`."""

    def __init__(self) -> None:
        # trust_env would let .netrc and proxy variables decide where tokens go; a redirect is never followed with one.
        self._http = httpx.AsyncClient(
            verify=system_trust(),
            headers={"user-agent": "imgproxy"},
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S),
            trust_env=False,
            follow_redirects=False,
        )

    async def send(self, adapter: Adapter, subjects: Sequence[Subject], *, timeout_s: float) -> Verdict:
        """Send one call and judge its answer; never raises for what the target does."""
        try:
            call = adapter.call(subjects)
            async with asyncio.timeout(timeout_s):
                try:
                    answer = await self._exchange(call, timeout_s)
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    # Closed by the other side just as it was used again: a purge may be sent twice.
                    answer = await self._exchange(call, timeout_s)
                return adapter.judge(answer)
        except TimeoutError:
            return Verdict(Result.FAILED, f"no answer within {timeout_s:g} s")
        except httpx.TimeoutException:
            return Verdict(Result.FAILED, f"no answer within {timeout_s:g} s")
        except httpx.ConnectError:
            return Verdict(Result.FAILED, "no connection")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError, ValueError) as exc:
            return Verdict(Result.REJECTED, f"the call cannot be made: {type(exc).__name__}")
        except httpx.HTTPError as exc:
            return Verdict(Result.FAILED, f"the connection broke off: {type(exc).__name__}")

    async def _exchange(self, call: PurgeCall, timeout_s: float) -> PurgeAnswer:
        request = self._http.build_request(
            call.method, call.url, headers=dict(call.headers), content=call.body, timeout=timeout_s
        )
        response = await self._http.send(request, stream=True)
        try:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    break
            wait_s = retry_after_s(response.headers.get("retry-after"), now=datetime.now(UTC))
            return PurgeAnswer(response.status_code, body[:ANSWER_MAX_BYTES], wait_s)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()


def one_line(text: str) -> str:
    """A foreign text as a short detail: printable, on one line."""
    return "".join(char if char.isprintable() else " " for char in text)[:DETAIL_MAX_CHARS].strip()
