"""
Sends the webhook calls of the outbox: signed, at least once, in order for each entry.

A call that is not answered with 2xx is sent again. The pause doubles with each attempt, and later events of the same
entry wait. Every attempt has the same body and deliveryId. Redirects are not followed: only the configured URL gets
the call.
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
from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from imgproxy.medialibrary.server.state import Delivery
    from imgproxy.medialibrary.server.store import LibraryStore

CALLS_MAX: Final = 8  # sent at the same time
TIMEOUT_S: Final = 10.0
LEASE_S: Final = 15.0  # longer than TIMEOUT_S: no other process sends the same call meanwhile
POLL_S: Final = 0.5  # how soon a change by another process is found
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 60.0
HEARTBEAT_S: Final = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """The URL for events, and the secret that signs them. The repr does not show it. A blank one: ConfigError."""

    url: str
    secret: str | None = None

    def __post_init__(self) -> None:
        if self.secret is not None:
            check_secret(self.secret, "the webhook secret")

    def __repr__(self) -> str:
        return f"Webhook(url={self.url!r}, is_signed={self.secret is not None})"


class WebhookSender:
    """Sends the webhook calls of a store until it is cancelled."""

    def __init__(self, store: LibraryStore, webhook: Webhook) -> None:
        self._store = store
        self._webhook = webhook
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for calls now. To be called in the event loop."""
        self._woken.set()

    async def run(self) -> None:
        """Send calls until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time()
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while True:
                if loop.time() >= heartbeat_at:
                    await asyncio.to_thread(self._store.set_webhook, is_on=True)
                    heartbeat_at = loop.time() + HEARTBEAT_S
                self._woken.clear()
                due = await self._claim()
                if due:
                    await asyncio.gather(*(self._deliver(session, delivery) for delivery in due))
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_S)

    async def _claim(self) -> list[Delivery]:
        claim = asyncio.create_task(
            asyncio.to_thread(self._store.claim_deliveries, limit=CALLS_MAX, lease_s=LEASE_S), name="claim"
        )
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            for delivery in await claim:
                self._give_back(delivery)
            raise

    def _give_back(self, delivery: Delivery) -> None:
        # The library stops. Without this, the next start would wait for the lease to end.
        self._store.postpone_delivery(delivery.id, retry_in_s=0)

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
            await asyncio.to_thread(self._store.confirm_delivery, delivery.id)
            return
        pause_s = backoff_s(delivery.attempts)
        log.warning(
            "webhook %s of entry %s failed (%s), next attempt in %.1f s",
            delivery.event,
            delivery.entry_id,
            outcome,
            pause_s,
        )
        await asyncio.to_thread(self._store.postpone_delivery, delivery.id, retry_in_s=pause_s)


def backoff_s(attempts: int) -> float:
    """Return the pause in seconds after `attempts` earlier failures: doubling, at most a minute, half of it random."""
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(attempts, 20))
    return random.uniform(longest / 2, longest)
