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

from imgproxy.errors import ImgproxyError, OriginDenied, Revoked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

# This many refusals in a row are more likely one fault than so many revocations.
SUSPICIOUS_RUN = 3


class OriginHealth:
    """Learns from the origin's answers. `probe` makes an API call that needs the token and names no picture."""

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._probing = asyncio.Lock()
        self._probes_begun = 0
        self._refused_in_a_row = 0
        self.is_token_dead = False
        self.is_down = False

    def served(self) -> None:
        """Note that the origin answered about a picture: the token works."""
        if self.is_token_dead:
            log.warning("the Media Library accepts the token again")
        self.is_token_dead = False
        self.is_down = False
        self._refused_in_a_row = 0

    def denied(self) -> None:
        """Note that the origin refused the token."""
        if not self.is_token_dead:
            log.error("the Media Library refuses the token; cached pictures are served within stale_if_error_s")
        self.is_token_dead = True
        self.is_down = False

    def failed(self) -> None:
        """Note that the origin could not be reached."""
        self.is_down = True

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
            self.failed()
            return error
        self.served()
        return None
