"""
The Livingdocs webhook: a signed event in, a purge out. An update is a purge only if the bytes have changed.

An event is acknowledged when its purge is complete, and its delivery is noted. A repeated delivery is acknowledged and
does nothing; one that comes while the first is handled waits for its end. A delivery is repeated if its id and its body
are: another event under a used id is handled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from typing import TYPE_CHECKING

from imgproxy.errors import BadPurge, BadWebhookSignature, EntryNotFound, NotFound
from imgproxy.flights import Flights
from imgproxy.purge.entry_keys import is_entry_id
from imgproxy.secret_text import is_blank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.purge.deliveries import Deliveries
    from imgproxy.purge.receipts import Receipt
    from imgproxy.purge.service import PurgeService
    from imgproxy.purge.updates import Updates
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PREFIX = "mediaLibraryEntry."
# The events that purge. `active`: refusals from the time when it was revoked must be forgotten, here and in the CDNs.
PURGING = frozenset({"revoke", "invalid", "delete", "archive", "active"})
CREATE = "create"
# The bytes under a key may have changed, or only a title.
UPDATE = "update"
KINDS = PURGING | {CREATE, UPDATE}
SHA256_HEX = re.compile(rb"[0-9a-f]{64}")


class Webhooks:
    """Receives events. `created(entry, keys)` is called for a new entry."""

    def __init__(
        self,
        secrets: Sequence[str],
        purges: PurgeService,
        updates: Updates,
        deliveries: Deliveries,
        metrics: Metrics,
        *,
        created: Callable[[str, tuple[str, ...]], None] = lambda _entry, _keys: None,
    ) -> None:
        self._secrets = tuple(secrets)
        self._purges = purges
        self._updates = updates
        self._deliveries = deliveries
        self._flights: Flights[Receipt | None] = Flights()
        self._metrics = metrics
        self._created = created

    def expect_signature(self, signature: str | None) -> None:
        """
        Refuse what cannot be signed, before its body is read.

        Raises:
            BadWebhookSignature: no signature of any body looks like this one, or no secret is configured.
        """
        if not self._secrets or not SHA256_HEX.fullmatch(_given(signature)):
            raise BadWebhookSignature

    async def receive(self, raw: bytes, signature: str | None) -> Receipt | None:
        """
        Handle one delivery. Returns the receipt of its purge, if it led to one.

        Raises:
            BadWebhookSignature: the signature of these bytes is not by one of the secrets.
            BadPurge: the body is not an event.
            ImgproxyError: the event could not be handled. Livingdocs has to deliver it again.
        """
        if not is_signed(raw, signature, self._secrets):
            raise BadWebhookSignature
        event, entry, delivery_id = _read(raw)
        kind = event.removeprefix(PREFIX)
        is_ours = event.startswith(PREFIX) and kind in KINDS
        self._metrics.webhooks.labels(event=kind if is_ours else "other").inc()
        if not is_ours:
            return None
        if not is_entry_id(entry):
            raise BadPurge("The event has no mediaId, or one that is no id of an entry.")
        delivery = f"{delivery_id} {hashlib.sha256(raw).hexdigest()}" if delivery_id else None
        if delivery is None:
            return await self._act(kind, entry)
        receipt, _ = await self._flights.join(delivery, lambda: self._act_once(delivery, kind, entry))
        return receipt

    async def _act_once(self, delivery: str, kind: str, entry: str) -> Receipt | None:
        if not await self._deliveries.claim(delivery):
            return None
        try:
            receipt = await self._act(kind, entry)
            await self._deliveries.finish(delivery)
        except BaseException:
            await self._deliveries.release(delivery)
            raise
        return receipt

    async def _act(self, kind: str, entry: str) -> Receipt | None:
        if kind == CREATE:
            try:
                self._created(entry, await self._purges.learn(entry))
            except NotFound:
                log.info("new entry %s has no keys yet", entry)
            return None
        try:
            if kind == UPDATE:
                return await self._updates.update(entry)
            return await self._purges.purge_entry(entry, reason=kind)
        except EntryNotFound:
            # Cached originals of its keys, if there are any, are purged at their next revalidation.
            log.warning("%s: entry %s does not exist and its keys are not known; nothing was purged", kind, entry)
            return None


def is_signed(raw: bytes, signature: str | None, secrets: Sequence[str]) -> bool:
    """Whether a signature is `sha256=<hex HMAC-SHA256 of the raw body>` by one of the secrets, in constant time."""
    given = _given(signature)
    found = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
        found |= hmac.compare_digest(given, expected.encode()) and not is_blank(secret)
    return found


def _given(signature: str | None) -> bytes:
    # A header that is not ASCII holds surrogates, which cannot be encoded.
    return (signature or "").removeprefix("sha256=").strip().lower().encode(errors="replace")


def _read(raw: bytes) -> tuple[str, str, str]:
    """Read event, entry and delivery id from a body. Raises BadPurge."""
    try:
        body = json.loads(raw)
        event, entry, delivery_id = body["event"], body.get("mediaId") or "", body.get("deliveryId") or ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadPurge("The body must be a JSON object with `event`, `mediaId` and `deliveryId`.") from None
    if not all(isinstance(item, str) and item.isprintable() for item in (event, entry, delivery_id)):
        raise BadPurge("`event`, `mediaId` and `deliveryId` must be strings of printable characters.")
    return event, entry, delivery_id
