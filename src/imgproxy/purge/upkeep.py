"""
What one node of a cluster does for all, every few seconds.

- Entries whose keys could not be listed are taken over from nodes that have died.
- What could not be written to the database is written.
- Once an hour, old facts are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from imgproxy.background import Background
from imgproxy.cluster.log import LogUnavailable
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.service import PurgeService
    from imgproxy.purge.shared import Shared
    from imgproxy.purge.shared_keys import SharedKeys

log = logging.getLogger(__name__)

TIDY_EVERY_S: Final = 3600.0


class Upkeep:
    """Looks every `every_s` seconds, with jitter, so that the nodes do not all look at once."""

    def __init__(
        self, shared: Shared, keys: SharedKeys, purges: PurgeService, downstream: Downstreams, *, every_s: float
    ) -> None:
        self._shared = shared
        self._keys = keys
        self._purges = purges
        self._downstream = downstream
        self._every_s = every_s
        self._tidied_at_s = time.monotonic()
        self._said = ""  # why it has to wait, as logged last
        self._background = Background("upkeep of the cluster")

    def start(self) -> None:
        """Begin."""
        self._background.begin(self._run)

    async def close(self) -> None:
        """Stop."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                self._said = ""
            except (LogUnavailable, CacheUnavailable) as error:
                if str(error) != self._said:
                    self._said = str(error)
                    log.info("the upkeep of the cluster has to wait: %s", error)
            except Exception:
                log.exception("the upkeep of the cluster failed; it goes on")
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.0))

    async def _look(self) -> None:
        await self._keys.catch_up()
        for entry in await self._shared.facts.take_pending(gone=self._shared.gone_runs()):
            self._purges.expand(entry)
        now_s = time.monotonic()
        if now_s >= self._tidied_at_s + TIDY_EVERY_S:
            self._tidied_at_s = now_s
            await self._shared.facts.tidy()
            await self._downstream.drop_unknown()
