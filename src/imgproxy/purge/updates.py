"""
Updates: an entry was changed, and perhaps only its title. Its originals are proved, and purged only if they changed.

    order that the keys be proved before anything of them is served  ->  ask the origin for each
    ->  same bytes: the key is kept, here and in the caches in front
    ->  other bytes, refused, or it cannot be proved: the key is purged

Livingdocs sends the same event for a caption and for new bytes, and hundreds of them when many entries are edited at
once. If a step fails, the whole entry is purged instead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from imgproxy.cluster.log import Kind
from imgproxy.errors import CacheUnavailable, ImgproxyError
from imgproxy.purge.one_by_one import OneByOne
from imgproxy.purge.receipts import Receipt
from imgproxy.purge.turns import Turns

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.entry_keys import EntryKeys, ListedKeys
    from imgproxy.purge.known_originals import KnownOriginal, KnownOriginals
    from imgproxy.purge.service import PurgeService
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

REASON = "update"
# Proofs at a time. Hundreds of events at once must not take the origin from the readers.
PROOFS_MAX = 4


class Prover(Protocol):
    """Asks the origin about originals: `delivery.Originals`."""

    async def confirm(self, key: str, known: KnownOriginal) -> bool:
        """
        Ask the origin whether the key still has these bytes. If it is cached with them, it is proved then.

        Raises:
            ImgproxyError: the origin refused, or could not be asked.
        """


@dataclass(frozen=True, slots=True)
class _Proved:
    """Keys that were ordered to be proved, by order `seq`, and those of them whose bytes are the same."""

    keys: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    seq: int = 0


class Updates:
    """Deals with updated entries."""

    def __init__(
        self,
        cache: Cache,
        entries: EntryKeys,
        purges: PurgeService,
        prover: Prover,
        *,
        known: KnownOriginals,
        downstream: Downstreams,
        settings: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
    ) -> None:
        self._cache = cache
        self._entries = entries
        self._purges = purges
        self._prover = prover
        self._known = known
        self._downstream = downstream
        self._patience_s = settings.expand_timeout_s
        self._settle_s = freshness.settle_s
        self._metrics = metrics
        self._updates: OneByOne[Receipt] = OneByOne()
        self._turns = Turns(PROOFS_MAX)

    async def update(self, entry: str) -> Receipt:
        """
        Prove every key of an entry, and purge those that are not as before.

        After it returns, no answer holds bytes of the entry's keys that were fetched before the call, unless the origin
        has confirmed them since. Calls at the same time share one run, which begins after all of them.

        Raises:
            EntryNotFound: neither the Media Library nor the journal knows the entry.
        """
        return await self._updates.run(entry, lambda: self._update(entry))

    async def _update(self, entry: str) -> Receipt:
        with self._purges.spread.under_way(entry):
            return await self._update_now(entry)

    async def _update_now(self, entry: str) -> Receipt:
        started_s = time.monotonic()
        try:
            listed, proved = await self._prove_entry(entry)
        except (ImgproxyError, TimeoutError) as error:
            log.warning("entry %s is purged, because its keys cannot be proved: %s", entry, error)
            receipt = await self._purges.purge_entry(entry, reason=REASON)
        else:
            receipt = await self._finish(entry, listed, proved, started_s)
        self._metrics.updated_keys.labels(result="kept").inc(len(receipt.kept))
        self._metrics.updated_keys.labels(result="purged").inc(len(receipt.keys))
        return receipt

    async def _prove_entry(self, entry: str) -> tuple[ListedKeys, _Proved]:
        """
        Order and prove the keys last seen, and those that the keys API lists, which is asked at the same time.

        Raises ImgproxyError or TimeoutError: the keys cannot be listed, or the order cannot be recorded.
        """
        listing = asyncio.create_task(self._purges.finder.list(entry))
        try:
            last_seen = await self._entries.last_seen(entry)
            seen = await self._prove(entry, last_seen) if last_seen else _Proved()
            elsewhere = await self._purges.finder.seen(entry) or ()
            listed = await listing
        finally:
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)
        new = tuple(key for key in dict.fromkeys((*listed.keys, *elsewhere)) if key not in last_seen)
        more = await self._prove(entry, new) if new else _Proved()
        return listed, _Proved(seen.keys + more.keys, seen.kept + more.kept, max(seen.seq, more.seq))

    async def _prove(self, entry: str, keys: tuple[str, ...]) -> _Proved:
        """Give the order for these keys, and ask the origin. Raises CacheUnavailable."""
        # What is known is looked up before the order: a request may find the change first, and keep the new bytes.
        known = await self._known.find(keys)
        order = await self._cache.prove(
            keys,
            reason=REASON,
            entry=entry,
            is_pending=True,  # a crash before the end is followed by a purge of the entry
            settle_at_s=time.time() + self._settle_s if self._settle_s > 0 else None,
            also=self._purges.spread.recording(keys, reason=REASON, entry=entry, is_pending=True, kind=Kind.PROVE),
        )
        self._purges.spread.wake()
        if order.purged is not None:
            raise CacheUnavailable  # the caches in front have not been purged
        waiting = await self._downstream.waiting(keys, entry=entry)
        asked = [key for key in keys if key in known and key not in waiting]
        same = await asyncio.gather(*(self._is_same(key, known[key]) for key in asked))
        kept = tuple(key for key, is_same in zip(asked, same, strict=True) if is_same)
        return _Proved(keys, kept, order.seq)

    async def _is_same(self, key: str, known: KnownOriginal) -> bool:
        """Whether the origin confirms these bytes in time."""
        try:
            async with self._turns.turn(self._patience_s):
                async with asyncio.timeout(self._patience_s):
                    is_same = await self._prover.confirm(key, known)
                self._turns.answered()
                return is_same
        except (ImgproxyError, TimeoutError) as error:
            log.info("%s cannot be proved: %s", key, error)
            return False

    async def _finish(self, entry: str, listed: ListedKeys, proved: _Proved, started_s: float) -> Receipt:
        """Purge the keys that were not proved. Complete the receipt."""
        lost = tuple(key for key in proved.keys if key not in proved.kept)
        if lost or not proved.kept:
            is_part = bool(proved.kept)
            receipt = await self._purges.purge_keys(
                lost, reason=REASON, entry=entry, malformed=listed.malformed, is_part=is_part
            )
        else:
            receipt = Receipt(entry, (), 0, 0, proved.seq, 0.0, malformed=listed.malformed)
            ordered = await self._purges.spread.order_is_spread(entry, proved.seq)
            receipt = self._purges.spread.with_nodes(receipt, ordered)
        await self._entries.remember(entry, listed.keys, finished_seq=proved.seq)
        receipt = replace(receipt, kept=proved.kept, duration_s=time.monotonic() - started_s)
        if receipt.kept:
            self._purges.receipts.keep(receipt, reason=REASON)
            await self._purges.receipts.publish()
            log.info("kept", extra={"facts": {"reason": REASON, **receipt.as_json()}})
        return receipt
