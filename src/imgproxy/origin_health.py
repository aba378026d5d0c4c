"""
Whether the Media Library, and our token for it, are all right.

A 403 for one picture is a revocation. A 401, or a 403 for everything, is a dead token: then nothing may be taken for
revoked, the cache goes on serving within its bound, and `/-/ready` and a metric say so.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from imgproxy.errors import ImgproxyError, OriginDenied, Revoked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

# This many different keys refused in a row, with no success between, are suspicious: then the token is tried on
# something that cannot be revoked.
SUSPICIOUS_REFUSALS = 3
# The outcome of such a try is good for this long.
PROBE_EVERY_S = 5.0


class OriginHealth:
    """Counts what the origin says. `probe` makes one API call that needs the token and names no picture."""

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._refused: set[str] = set()
        self._probed_at_s = float("-inf")
        self.is_token_dead = False
        self.is_down = False

    def served(self) -> None:
        """The origin answered for a picture: the token works."""
        if self.is_token_dead:
            log.warning("the Media Library accepts the token again")
        self.is_token_dead = False
        self.is_down = False
        self._refused.clear()

    def denied(self) -> None:
        """The origin refused the token."""
        if not self.is_token_dead:
            log.error("the Media Library refuses the token; cached pictures are served within stale_if_error_s")
        self.is_token_dead = True
        self.is_down = False

    def failed(self) -> None:
        """The origin could not be reached."""
        self.is_down = True

    async def is_refusing_everything(self, key: str) -> bool:
        """Whether a 403 for this key is one of a run of 403s that comes from the token."""
        self._refused.add(key)
        if len(self._refused) < SUSPICIOUS_REFUSALS and not self.is_token_dead:
            return False
        if time.monotonic() - self._probed_at_s >= PROBE_EVERY_S:
            self._probed_at_s = time.monotonic()
            await self.check()
        return self.is_token_dead

    async def check(self) -> ImgproxyError | None:
        """Try the token on an API call; what came of it is returned, and noted."""
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
