"""
The Livingdocs webhook: a signed event in, a purge out.

An event is acknowledged when what it asks for is durable: a purge in the journal, the delivery's id after it. A
delivery that comes again is acknowledged and does nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from typing import TYPE_CHECKING

from imgproxy.errors import BadPurge, BadWebhookSignature, EntryNotFound, NotFound
from imgproxy.purge.entry_keys import is_entry_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.journal import Journal
    from imgproxy.metrics import Metrics
    from imgproxy.purge.entry_keys import EntryKeys
    from imgproxy.purge.receipt import Receipt
    from imgproxy.purge.service import PurgeService

log = logging.getLogger(__name__)

PREFIX = "mediaLibraryEntry."
# What each event asks for. `update` purges, as bytes under a key may have changed; `active` purges, as that forgets
# the refusals of the time it was revoked, here and in the CDNs.
PURGING = frozenset({"revoke", "invalid", "delete", "archive", "update", "active"})
CREATE = "create"


class Webhooks:
    """Receives events."""

    def __init__(
        self,
        secrets: Sequence[str],
        purges: PurgeService,
        entries: EntryKeys,
        journal: Journal,
        metrics: Metrics,
        *,
        created: Callable[[str, tuple[str, ...]], None] = lambda _entry, _keys: None,
    ) -> None:
        self._secrets = tuple(secrets)
        self._purges = purges
        self._entries = entries
        self._journal = journal
        self._metrics = metrics
        self._created = created

    async def receive(self, raw: bytes, signature: str | None) -> Receipt | None:
        """
        Handle one delivery; the receipt of the purge it led to, if any.

        Raises:
            BadWebhookSignature: none of the secrets made this signature over these bytes.
            BadPurge: the body is no event.
            ImgproxyError: what the event asks for is not done, and the delivery has to come again.
        """
        if not is_signed(raw, signature, self._secrets):
            raise BadWebhookSignature
        event, entry, delivery_id = _read(raw)
        kind = event.removeprefix(PREFIX)
        is_ours = event.startswith(PREFIX) and (kind in PURGING or kind == CREATE)
        self._metrics.webhooks.labels(event=kind if is_ours else "other").inc()
        if not is_ours:
            return None
        if not is_entry_id(entry):
            raise BadPurge("The event has no mediaId, or one that is no id of an entry.")
        if delivery_id and await self._journal.has_delivery(delivery_id):
            return None
        receipt = await self._act(kind, entry)
        if delivery_id:
            await self._journal.remember_delivery(delivery_id)
        return receipt

    async def _act(self, kind: str, entry: str) -> Receipt | None:
        if kind == CREATE:
            try:
                self._created(entry, await self._entries.learn(entry))
            except NotFound:
                log.info("new entry %s has no keys yet", entry)
            return None
        try:
            return await self._purges.purge_entry(entry, reason=kind)
        except EntryNotFound:
            # Its keys were never seen here, and cannot be asked for there. What is cached of them ends when it is next
            # asked for at the origin.
            log.warning("%s: entry %s is gone and its keys are not known; nothing was purged", kind, entry)
            return None


def is_signed(raw: bytes, signature: str | None, secrets: Sequence[str]) -> bool:
    """Whether one of the secrets made `sha256=<hex HMAC-SHA256 of the raw body>`; compared in constant time."""
    # What is not ASCII came as surrogates, and is no signature anyway.
    given = (signature or "").removeprefix("sha256=").strip().lower().encode(errors="replace")
    found = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
        found |= hmac.compare_digest(given, expected.encode())
    return found


def _read(raw: bytes) -> tuple[str, str, str]:
    """Event, entry and delivery id of a body. Raises BadPurge."""
    try:
        body = json.loads(raw)
        event, entry, delivery_id = body["event"], body.get("mediaId") or "", body.get("deliveryId") or ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadPurge("The body must be a JSON object with `event`, `mediaId` and `deliveryId`.") from None
    if not all(isinstance(item, str) and item.isprintable() for item in (event, entry, delivery_id)):
        raise BadPurge("`event`, `mediaId` and `deliveryId` must be strings of printable characters.")
    return event, entry, delivery_id
