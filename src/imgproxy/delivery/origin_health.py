"""
The health of the origin: whether the Media Library answers, and whether it accepts our token.

A 403 for one picture is a revocation. A 401, or a 403 for every picture, means that the token is refused. Then no
picture counts as revoked. Cached pictures are served within `stale_if_error_s`; `/-/status`, a metric and the log say
so.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from imgproxy.errors import (
    ImgproxyError,
    NotFound,
    OriginDenied,
    OriginStatus,
    OriginTimeout,
    OriginUnreachable,
    Revoked,
)
from imgproxy.medialibrary.errors import LibraryNotFound
from imgproxy.telemetry.outages import Outage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

REFUSED = "the token is refused (401, or 403 for a call that needs only the scope public-api:read)"
CONSEQUENCE = "cached pictures are served within stale_if_error_s"
# This many refusals in a row are more likely one fault than so many revocations.
SUSPICIOUS_RUN = 3


class OriginHealth:
    """Learns from the origin's answers. `probe` makes an API call that needs the token and names no picture."""

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._probing = asyncio.Lock()
        self._probes_begun = 0
        self._refused_in_a_row = 0
        self._refusal = Outage("access to the Media Library")
        self._outage = Outage("the Media Library")

    @property
    def is_token_dead(self) -> bool:
        """Whether the origin refuses the token."""
        return self._refusal.cause is not None

    @property
    def is_down(self) -> bool:
        """Whether the origin could not be reached when it was last asked."""
        return self._outage.cause is not None

    @property
    def cause(self) -> str | None:
        """Why the origin is down or refuses us, in words; None if it works."""
        return self._refusal.cause or self._outage.cause

    @property
    def down_s(self) -> float:
        """For how long it has not worked."""
        return max(self._refusal.age_s, self._outage.age_s)

    def served(self) -> None:
        """Note that the origin answered about a picture: the token works."""
        if self.cause is not None:
            self._refusal.worked()
            self._outage.worked()
        self._refused_in_a_row = 0

    def denied(self) -> None:
        """Note that the origin refused the token."""
        self._outage.worked()
        self._refusal.failed(REFUSED, consequence=CONSEQUENCE)

    def failed(self, error: ImgproxyError) -> None:
        """Note that the origin could not be reached, and the error that says why."""
        self._outage.failed(cause_of(error), consequence=CONSEQUENCE)

    async def meaning(self, error: ImgproxyError) -> ImgproxyError:
        """
        Return what an error means: for its key, or for all keys (the token is refused, the server is missing).

        The error is noted.
        """
        if isinstance(error, LibraryNotFound) and not error.is_api_answer:
            return OriginStatus(404)
        if isinstance(error, Revoked) and await self.is_refusing_everything():
            return OriginDenied()
        if isinstance(error, OriginDenied):
            self.denied()
        elif isinstance(error, OriginUnreachable | OriginTimeout):
            self.failed(error)
        elif isinstance(error, NotFound):
            self.served()
        return error

    async def is_refusing_everything(self) -> bool:
        """
        Whether the token is the cause of the 403 that just came: try it on an API call that names no picture.

        The token is tried after every 403, because a 403 that counts purges a picture. 403s that come at the same time
        share a try that began after all of them. If the try fails (a 503, a timeout), a single 403 counts: a takedown
        must not wait for the API. Several in a row do not: they would purge the cache picture by picture.
        """
        self._refused_in_a_row += 1
        begun = self._probes_begun
        async with self._probing:
            if self._probes_begun == begun:
                self._probes_begun += 1
                await self.check()
        if self.is_token_dead or self._refused_in_a_row < SUSPICIOUS_RUN:
            return self.is_token_dead
        log.error("%d refusals in a row are not believed: the token cannot be tried", self._refused_in_a_row)
        return True

    async def check(self) -> ImgproxyError | None:
        """Try the token on an API call, note the result, and return the error if there is one."""
        try:
            await self._probe()
        except (OriginDenied, Revoked) as error:
            self.denied()
            return error
        except ImgproxyError as error:
            self.failed(error)
            return error
        self.served()
        return None


def cause_of(error: ImgproxyError) -> str:
    """Return why the origin could not be used: its status, what the client found out, or the error's own words."""
    status = getattr(error, "origin_status", None)
    if status is not None:
        return f"it answered {status}"
    return getattr(error, "message", "") or error.public
