"""
Purges, from the request to the receipt.

    record and invalidate the keys last seen  ->  expand by the keys API  ->  invalidate the new ones  ->  drain answers
    ->  downstream  ->  acknowledge        and later, by itself:  settle,  expand what is pending

A purge of an entry that cannot be expanded now is acknowledged as pending, and is expanded with growing waits until
the keys API answers, or says that there is no such entry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from imgproxy.background import Background
from imgproxy.cache.entry import key_hash
from imgproxy.errors import (
    CacheUnavailable,
    EntryNotFound,
    ImgproxyError,
    NotAnImage,
    NotFound,
    Revoked,
    SourceTooLarge,
)
from imgproxy.flights import Flights
from imgproxy.purge.receipt import DownstreamState, Receipt
from imgproxy.purge.receipts import PurgeRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.journal import PendingPurge
    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.delivery.originals import Originals
    from imgproxy.metrics import Metrics
    from imgproxy.purge.answers import Answers
    from imgproxy.purge.entry_keys import EntryKeys

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
# Reasons after which not one more answer may show the picture, so that a soft purge would be a contradiction.
TAKEDOWNS = frozenset({"revoke", "invalid", "delete"})
# The reasons that are told apart in the metric: events, routes, and findings of our own. Any other word is a caller's,
# and each label value is kept for ever.
COUNTED_REASONS = (
    TAKEDOWNS
    | {"archive", "update", "active", "manual", "imgix", "expanded", "learnt", "changed"}
    | {error.code for error in (NotFound, Revoked, NotAnImage, SourceTooLarge)}
)


class Downstream(Protocol):
    """The caches in front, none or many: `Downstreams`."""

    def lines(self, keys: Sequence[str], *, entry: str | None) -> Sequence[OutboxLine]:
        """What has to be recorded together with a purge of these keys, so that no crash loses it."""

    async def purge(self, keys: Sequence[str], *, entry: str | None, seq: int) -> tuple[DownstreamState, ...]:
        """Purge what was recorded up to `seq`; what does not succeed now is tried again by itself."""


class PurgeService:
    """Purges keys and entries, and finishes later what could not be finished at once."""

    def __init__(
        self,
        cache: Cache,
        entries: EntryKeys,
        originals: Originals,
        answers: Answers,
        *,
        settings: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
        downstream: Downstream,
    ) -> None:
        self._cache = cache
        self._entries = entries
        self._originals = originals
        self._answers = answers
        self._settings = settings
        self._freshness = freshness
        self._metrics = metrics
        self._downstream = downstream
        self._queued: Flights[Receipt] = Flights()
        # A lock lives as long as a purge of its entry holds it or waits for it.
        self._running: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._later = Background("purge")
        self.record = PurgeRecord(cache.journal)
        cache.purged.subscribe(lambda purged: answers.overtake(purged.key_hash))

    async def start(self) -> None:
        """Take up what the last run left: pending expansions, and originals to be checked."""
        for pending in await self._cache.journal.pending_purges():
            self._later.begin(self._expand_later, pending.entry, pending)
        for key, due_at_s in (await self._cache.journal.settling()).items():
            self._later.begin(self._settle_later, (key,), due_at_s)

    async def close(self) -> None:
        """Leave what is pending to the next run; the journal has it."""
        await self._later.close()
        await self.record.close()

    @property
    def pending(self) -> int:
        """Expansions and checks still to come."""
        return len(self._later)

    # --- purges ------------------------------------------------------------------------------------------------

    async def purge_keys(self, keys: Sequence[str], *, reason: str, entry: str | None = None) -> Receipt:
        """Forget these keys. When this returns, no answer holds anything fetched of them before it was called."""
        started_s = time.monotonic()
        settle_at_s = self._settle_at_s()

        async def purge() -> PurgedKeys:
            return await self._cache.purge(
                keys,
                reason=reason,
                entry=entry,
                settle_at_s=settle_at_s,
                outbox=self._downstream.lines(keys, entry=entry),
            )

        try:
            purged = await purge()
        except CacheUnavailable:
            # The keys are closed. Answers under way end with them, and with those the files that they keep on the disk.
            await self._answers.drain([key_hash(key) for key in keys], self._settings.drain_s)
            purged = await purge()
        self._settle_behind(purged.keys, settle_at_s)
        receipt = Receipt(entry, purged.keys, purged.variants, purged.size_bytes, purged.seq, 0.0)
        return await self._acknowledge(receipt, reason, started_s)

    async def purge_entry(self, entry: str, *, reason: str, is_soft: bool = False) -> Receipt:
        """
        Forget every key of an entry. Calls that come at the same time share one purge that began after all of them.

        Raises:
            EntryNotFound: the Media Library does not know it, nor does the journal.
        """
        if is_soft:
            return await self._soften(entry)
        receipt, _ = await self._queued.join(entry, lambda: self._purge_in_turn(entry, reason))
        return receipt

    async def _purge_in_turn(self, entry: str, reason: str) -> Receipt:
        """Wait for the purge of this entry that is under way; who comes after this one has begun needs the next."""
        lock = self._running.get(entry)
        if lock is None:
            lock = self._running[entry] = asyncio.Lock()
        async with lock:
            self._queued.detach(entry)
            return await self._purge_entry(entry, reason)

    async def _purge_entry(self, entry: str, reason: str) -> Receipt:
        # The keys API is asked while the keys last seen are recorded: a sync may take as long as its answer.
        listing = asyncio.create_task(self._list(entry))
        try:
            return await self._purge_while_listing(entry, reason, listing)
        finally:
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)

    async def _list(self, entry: str) -> tuple[str, ...]:
        async with asyncio.timeout(self._settings.expand_timeout_s):
            return await self._entries.ask(entry)

    async def _purge_while_listing(self, entry: str, reason: str, listing: asyncio.Task[tuple[str, ...]]) -> Receipt:
        started_s = time.monotonic()
        settle_at_s = self._settle_at_s()
        known = await self._entries.last_seen(entry)
        try:
            purged = await self._cache.purge(
                known,
                reason=reason,
                entry=entry,
                is_pending=True,
                settle_at_s=settle_at_s,
                outbox=self._downstream.lines(known, entry=entry),
            )
        except CacheUnavailable:
            return await self._purge_on_refusing_disk(entry, known, reason, listing)
        receipt = Receipt(entry, purged.keys, purged.variants, purged.size_bytes, purged.seq, 0.0)
        try:
            receipt = await self._expand(entry, await listing, receipt, reason, settle_at_s)
        except NotFound:
            await self._cache.journal.finish_pending(entry, up_to_seq=receipt.seq)
            if not known:
                raise EntryNotFound(entry) from None
        except (ImgproxyError, TimeoutError) as error:
            log.warning("purge of entry %s: the keys API gave no answer (%s); it goes on by itself", entry, error)
            receipt = replace(receipt, is_pending=True)
            self._later.begin(self._expand_later, entry, None)
        self._settle_behind(receipt.keys, settle_at_s)
        return await self._acknowledge(receipt, reason, started_s)

    async def _purge_on_refusing_disk(
        self, entry: str, known: Sequence[str], reason: str, listing: asyncio.Task[tuple[str, ...]]
    ) -> Receipt:
        """
        Find the keys all the same: purging them closes them, and deleting their files may make room for the record.

        Raises:
            CacheUnavailable: it did not, so that this is no promise yet; or the keys are not to be had.
        """
        try:
            listed = await listing
        except NotFound:
            listed = ()
        except (ImgproxyError, TimeoutError) as error:
            raise CacheUnavailable from error
        receipt = await self.purge_keys(list(dict.fromkeys((*known, *listed))), reason=reason, entry=entry)
        await self._entries.remember(entry, listed)
        return receipt

    async def _expand(
        self, entry: str, listed: Sequence[str], receipt: Receipt, reason: str, settle_at_s: float | None
    ) -> Receipt:
        """Purge the keys of the entry that were not known before."""
        new = [key for key in listed if key not in receipt.keys]
        if not new:
            await self._entries.remember(entry, listed, finished_seq=receipt.seq)
            return receipt
        more = await self._cache.purge(
            new,
            reason=reason,
            entry=entry,
            settle_at_s=settle_at_s,
            outbox=self._downstream.lines(new, entry=None),
            expanded=listed,
        )
        self._entries.note(entry, new)
        return replace(
            receipt,
            keys=receipt.keys + more.keys,
            variants=receipt.variants + more.variants,
            size_bytes=receipt.size_bytes + more.size_bytes,
            seq=more.seq,
        )

    async def _acknowledge(self, receipt: Receipt, reason: str, started_s: float) -> Receipt:
        """Wait for answers under way, tell the caches in front, count, and complete the receipt."""
        cut = await self._answers.drain([key_hash(key) for key in receipt.keys], self._settings.drain_s)
        downstream = await self._downstream.purge(receipt.keys, entry=receipt.entry, seq=receipt.seq)
        duration_s = time.monotonic() - started_s
        self._metrics.purges.labels(reason=reason if reason in COUNTED_REASONS else "other").inc()
        self._metrics.purged_variants.inc(receipt.variants)
        self._metrics.purged_bytes.inc(receipt.size_bytes)
        self._metrics.purge_duration_s.observe(duration_s)
        receipt = replace(receipt, cut=cut, downstream=downstream, duration_s=duration_s)
        self.record.keep(receipt, reason=reason)
        log.info("purged", extra={"facts": {"reason": reason, **receipt.as_json()}})
        return receipt

    async def _soften(self, entry: str) -> Receipt:
        """Mark the entry's originals as stale: they are served once more and asked for behind the answer."""
        started_s = time.monotonic()
        try:
            keys = await self._entries.learn(entry)
        except NotFound:
            raise EntryNotFound(entry) from None
        stale_at_s = time.time() - self._freshness.revalidate_after_s - 1
        for key in keys:
            facts = self._cache.facts(key_hash(key))
            if facts is not None and facts.validated_at_s > stale_at_s:
                self._cache.commit_facts(replace(facts, validated_at_s=stale_at_s))
                self._cache.hot.drop(key_hash(key))  # prepared answers there count on the older freshness
        return Receipt(entry, keys, 0, 0, self._cache.epochs.seq, time.monotonic() - started_s, is_soft=True)

    # --- what comes later --------------------------------------------------------------------------------------

    async def _expand_later(self, entry: str, pending: PendingPurge | None) -> None:
        wait_s = RETRY_FIRST_S if pending is None else 0.0
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(max(wait_s * 2, RETRY_FIRST_S), self._settings.retry_max_s)
            # A purge that is recorded after this has its own expansion to wait for.
            began_seq = await self._cache.journal.last_purge_of_entry(entry)
            try:
                await self._expand_pending(entry)
                await self._cache.journal.finish_pending(entry, up_to_seq=began_seq)
            except ImgproxyError as error:
                log.warning("purge of entry %s is still pending: %s", entry, error)
                continue
            return

    async def _expand_pending(self, entry: str) -> None:
        """Purge all keys of the entry, also those purged at first: an answer may have come from before the event."""
        try:
            listed = await self._entries.ask(entry)
        except NotFound:
            log.info("entry %s is gone; its purge is complete with the keys last seen", entry)
            return
        receipt = await self.purge_keys(listed, reason="expanded", entry=entry)
        await self._entries.remember(entry, listed)
        log.info("purge of entry %s is complete: %d keys", entry, len(receipt.keys))

    def _settle_at_s(self) -> float | None:
        return time.time() + self._freshness.settle_s if self._freshness.settle_s > 0 else None

    def _settle_behind(self, keys: Sequence[str], due_at_s: float | None) -> None:
        if keys and due_at_s is not None:
            self._later.begin(self._settle_later, tuple(keys), due_at_s)

    async def _settle_later(self, keys: tuple[str, ...], due_at_s: float) -> None:
        """When the settle time ends, check what was fetched since the purge: a replica may have lagged behind."""
        # The end is a wall-clock time, as it outlives a restart; a clock set back must not put it off for hours.
        await asyncio.sleep(min(max(0.0, due_at_s - time.time()), self._freshness.settle_s))
        wait_s = RETRY_FIRST_S
        while keys:
            keys = tuple([key for key in keys if not await self._is_settled(key, due_at_s)])
            if keys:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, self._settings.retry_max_s)

    async def _is_settled(self, key: str, due_at_s: float) -> bool:
        """Check one key; False where the origin could not be asked, which must not keep the other keys waiting."""
        try:
            await self._originals.revalidate(key)
        except ImgproxyError as error:
            if not isinstance(error, NotFound) and self._cache.facts(key_hash(key)) is not None:
                log.info("the check of %s after its purge must wait: %s", key, error)
                return False
        try:
            await self._cache.journal.settled(key, due_at_s)
        except CacheUnavailable as error:
            log.warning("the check of %s cannot be noted: %s", key, error)
        return True
