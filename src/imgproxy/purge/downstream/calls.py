"""
One purge call to a cache in front: the request, the answer, and the verdict on it.

This is the only module of the package that sends. Every error of aiohttp becomes a Verdict here. URLs and bodies never
get into a verdict's detail, because they may hold a secret.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import aiohttp
from yarl import URL

from imgproxy.medialibrary.client.answers import retry_after_s
from imgproxy.medialibrary.client.causes import cause_of
from imgproxy.medialibrary.client.connections import Connections
from imgproxy.medialibrary.client.decoder import EncodingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from imgproxy.cache.outbox import Subject

ANSWER_MAX_BYTES = 64 * 1024
# A longer Retry-After is not obeyed: a revoked picture would stay up too long without another try.
RETRY_AFTER_MAX_S = 600.0
DETAIL_MAX_CHARS = 200
# Statuses that blame the request, not the target. A smaller part of the request may succeed.
_REJECTED = frozenset({400, 413, 414, 422, 431})


class CallResult(StrEnum):
    """The result of a call; also the label in the metrics."""

    DONE = "done"
    LIMITED = "limited"
    FAILED = "failed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class PurgeCall:
    """A request to send."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class PurgeAnswer:
    """An answer. Of its body at most ANSWER_MAX_BYTES are kept."""

    status: int
    body: bytes = b""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means. `wait_s`: how long the target asked us to wait, if it did."""

    result: CallResult
    detail: str | None = None
    wait_s: float | None = None


DONE = Verdict(CallResult.DONE)


class Coverage(Protocol):
    """What a target can purge, and how much at a time."""

    @property
    def subjects_max(self) -> int:
        """Most subjects in one call."""

    @property
    def concurrency(self) -> int:
        """Most calls at the same time."""

    def covers(self, subject: Subject) -> bool:
        """Whether this target can purge the subject."""


class Send(Protocol):
    """Purges subjects in a target. A failure of the target is a Verdict, not an exception."""

    def __call__(self, subjects: Sequence[Subject], *, timeout_s: float) -> Awaitable[Verdict]:
        """Purge these subjects."""


class Adapter(Coverage, Protocol):
    """One kind of cache in front. Pure: it turns subjects into a call, and an answer into a verdict."""

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """Make the request that purges these subjects."""

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """Say what the answer means."""


def judge_status(answer: PurgeAnswer, accepted: frozenset[int]) -> Verdict:
    """Judge an answer by its status alone, as far as all APIs agree."""
    if answer.status in accepted:
        return DONE
    detail = f"HTTP {answer.status}"
    if answer.status == 429 or (answer.status == 503 and answer.retry_after_s is not None):
        wait_s = None if answer.retry_after_s is None else min(answer.retry_after_s, RETRY_AFTER_MAX_S)
        return Verdict(CallResult.LIMITED, detail, wait_s)
    return Verdict(CallResult.REJECTED if answer.status in _REJECTED else CallResult.FAILED, detail)


class PurgeHttp:
    """Sends purge calls. Close it with `aclose`."""

    def __init__(self) -> None:
        # Tokens must not go elsewhere: no redirect is followed, and no proxy taken from the environment.
        self._connections = Connections(max_connections=0)

    async def send(self, adapter: Adapter, subjects: Sequence[Subject], *, timeout_s: float) -> Verdict:
        """Send one call and judge its answer. A failure of the target is a Verdict, not an exception."""
        try:
            call = adapter.call(subjects)
            async with asyncio.timeout(timeout_s):
                return adapter.judge(await self._answer(call))
        except TimeoutError:
            return Verdict(CallResult.FAILED, f"no answer within {timeout_s:g} s")
        except aiohttp.ClientConnectorError as exc:
            return Verdict(CallResult.FAILED, f"no connection: {cause_of(exc)}")
        except (aiohttp.NonHttpUrlClientError, ValueError) as exc:
            return Verdict(CallResult.REJECTED, f"the call cannot be made: {type(exc).__name__}")
        except EncodingError:
            return Verdict(CallResult.FAILED, "the answer cannot be decoded")
        except aiohttp.ClientError as exc:
            return Verdict(CallResult.FAILED, f"no answer: {cause_of(exc)}")

    async def _answer(self, call: PurgeCall) -> PurgeAnswer:
        try:
            return await self._exchange(call)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise
        except aiohttp.ClientError:
            # The server may have closed an idle connection just as we used it. A second purge is harmless.
            return await self._exchange(call)

    async def _exchange(self, call: PurgeCall) -> PurgeAnswer:
        # What the templates filled in is escaped. Only a configured URL that is not is escaped here.
        url = URL(call.url, encoded=all("!" <= char <= "~" for char in call.url))
        headers = dict(call.headers)
        if url.user is not None:  # aiohttp sends it as Basic credentials, and refuses two
            headers.pop("Authorization", None)
        async with self._connections.request(call.method, url, headers=headers, body=call.body) as response:
            body = await response.beginning(ANSWER_MAX_BYTES)
            wait_s = retry_after_s(response.headers.get("Retry-After"), now=datetime.now(UTC))
            return PurgeAnswer(response.status, body[:ANSWER_MAX_BYTES], wait_s)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()


def one_line(text: str) -> str:
    """Make a detail of a foreign text: printable, short, on one line."""
    return "".join(char if char.isprintable() else " " for char in text)[:DETAIL_MAX_CHARS].strip()
