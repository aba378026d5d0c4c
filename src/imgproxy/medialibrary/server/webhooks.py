"""
Delivers the outbox: at least once, in order per entry, with retries, signed.

A call that is not answered by 2xx is made again, after a pause that doubles with each attempt; a later event of the
same entry waits for it. The body and its deliveryId are the same on each attempt. Redirects are not followed: the
receiver is the one that was configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from imgproxy.medialibrary.server.events import SIGNATURE_HEADER, signature

if TYPE_CHECKING:
    from imgproxy.medialibrary.server.state import Delivery
    from imgproxy.medialibrary.server.store import LibraryStore

BATCH: Final = 8
TIMEOUT_S: Final = 10.0
LEASE_S: Final = 15.0  # longer than a call may take: another process never makes the same call meanwhile
POLL_S: Final = 0.5  # how soon a change made by another process is seen
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 60.0
HEARTBEAT_S: Final = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events go, and the secret that signs them; its repr does not show the secret."""

    url: str
    secret: str | None = None

    def __repr__(self) -> str:
        return f"Webhook(url={self.url!r}, is_signed={self.secret is not None})"


class WebhookSender:
    """Delivers what a store has in its outbox, until cancelled."""

    def __init__(self, store: LibraryStore, webhook: Webhook) -> None:
        self._store = store
        self._webhook = webhook
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Say that there may be something to deliver; called from the event loop."""
        self._news.set()

    async def run(self) -> None:
        """Deliver for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time()
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while True:
                if loop.time() >= heartbeat_at:
                    await asyncio.to_thread(self._store.set_webhook, is_on=True)
                    heartbeat_at = loop.time() + HEARTBEAT_S
                self._news.clear()
                due = await self._claim()
                if due:
                    await asyncio.gather(*(self._deliver(session, delivery) for delivery in due))
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), POLL_S)

    async def _claim(self) -> list[Delivery]:
        claim = asyncio.create_task(
            asyncio.to_thread(self._store.claim_deliveries, limit=BATCH, lease_s=LEASE_S), name="claim"
        )
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            for delivery in await claim:
                self._give_back(delivery)
            raise

    def _give_back(self, delivery: Delivery) -> None:
        # Called as the library stops: the next start need not wait for the lease to end.
        self._store.failed(delivery.id, retry_in_s=0)

    async def _deliver(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        headers = {"Content-Type": "application/json"}
        if self._webhook.secret is not None:
            headers[SIGNATURE_HEADER] = signature(delivery.body, self._webhook.secret)
        try:
            async with session.post(
                self._webhook.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                outcome = str(response.status)
                is_accepted = 200 <= response.status < 300
        except asyncio.CancelledError:
            self._give_back(delivery)
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            outcome, is_accepted = type(exc).__name__, False
        if is_accepted:
            await asyncio.to_thread(self._store.delivered, delivery.id)
            return
        pause_s = backoff_s(delivery.attempts)
        log.warning("webhook %s of entry %s: %s, again in %.1f s", delivery.event, delivery.entry_id, outcome, pause_s)
        await asyncio.to_thread(self._store.failed, delivery.id, retry_in_s=pause_s)


def backoff_s(attempts: int) -> float:
    """Return the pause after `attempts` failed ones before: doubling, at most a minute, half of it by chance."""
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(attempts, 20))
    return random.uniform(longest / 2, longest)
