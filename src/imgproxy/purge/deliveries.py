"""Webhook deliveries: each is handled once, by this service or by one node of its cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from imgproxy.cluster.facts import Claim
from imgproxy.cluster.log import LogUnavailable
from imgproxy.errors import DeliveryUnderWay

if TYPE_CHECKING:
    from imgproxy.cache.journal import Journal
    from imgproxy.purge.shared import Shared

log = logging.getLogger(__name__)

# While another node handles a delivery: it is asked for so often, with growing waits.
LOOK_FIRST_S = 0.05
LOOK_MAX_S = 1.0


class Deliveries(Protocol):
    """Which deliveries were handled."""

    async def claim(self, delivery: str) -> bool:
        """
        Return whether this delivery is to be handled here. False: it was handled before.

        Raises:
            DeliveryUnderWay: another node has been handling it for too long. Livingdocs has to deliver it again.
            CacheUnavailable: the journal cannot be read.
        """

    async def finish(self, delivery: str) -> None:
        """Note that it was handled. Raises CacheUnavailable."""

    async def release(self, delivery: str) -> None:
        """Note that it could not be handled."""


class LocalDeliveries:
    """The deliveries that this service has handled."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def claim(self, delivery: str) -> bool:
        """Return whether it was not handled yet."""
        return not await self._journal.has_delivery(delivery)

    async def finish(self, delivery: str) -> None:
        """Write it into the journal."""
        await self._journal.remember_delivery(delivery)

    async def release(self, delivery: str) -> None:
        """Do nothing: a delivery that was not finished is handled again."""


class SharedDeliveries:
    """
    The deliveries that the cluster has handled.

    If its database cannot be reached, those of this node count. A repeated delivery may then be handled twice, which
    does no harm.
    """

    def __init__(self, shared: Shared, local: LocalDeliveries, *, wait_s: float) -> None:
        """A node waits at most `wait_s` for another one that handles the same delivery."""
        self._shared = shared
        self._local = local
        self._wait_s = wait_s

    async def claim(self, delivery: str) -> bool:
        """Claim it for this node. Wait for the end of another node that handles it."""
        if not await self._local.claim(delivery):
            return False
        until_s, look_s = time.monotonic() + self._wait_s, LOOK_FIRST_S
        try:
            while (claim := await self._claim(delivery)) is Claim.BUSY:
                if time.monotonic() >= until_s:
                    raise DeliveryUnderWay
                await asyncio.sleep(look_s)
                look_s = min(look_s * 2, LOOK_MAX_S)
        except LogUnavailable as error:
            log.warning("whether another node has handled a delivery is not known: %s", error)
            return True
        return claim is Claim.FIRST

    async def _claim(self, delivery: str) -> Claim:
        return await self._shared.facts.claim_delivery(delivery, gone=self._shared.gone_runs())

    async def finish(self, delivery: str) -> None:
        """Note it for all nodes; for this one, if that fails."""
        try:
            await self._shared.facts.finish_delivery(delivery)
        except LogUnavailable:
            await self._local.finish(delivery)

    async def release(self, delivery: str) -> None:
        """Let another node handle it."""
        try:
            await self._shared.facts.release_delivery(delivery)
        except LogUnavailable:
            log.info("the claim of a delivery stays; this node may still handle it again")
