"""
Purges, from the request to the receipt.

    record and invalidate the keys last seen  ->  ask the keys API  ->  record and invalidate new keys
    ->  drain answers  ->  caches in front  ->  acknowledge

If the keys API does not answer, the purge is acknowledged as pending. It is tried again, with growing waits, until the
API lists the keys or says that the entry does not exist.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.cache.entry import key_hash
from imgproxy.cluster.log import Kind, LogUnavailable
from imgproxy.errors import (
    CacheUnavailable,
    EntryNotFound,
    ImgproxyError,
    NotAnImage,
    NotFound,
    Revoked,
    SourceTooLarge,
)
from imgproxy.purge.key_finder import KeyFinder
from imgproxy.purge.one_by_one import OneByOne
from imgproxy.purge.receipts import Receipt, Receipts
from imgproxy.purge.spreading import SpreadPurges
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.purge.answers import Answers
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.entry_keys import EntryKeys
    from imgproxy.purge.key_finder import AllKeys
    from imgproxy.purge.shared import Shared
    from imgproxy.purge.spreading import Nodes
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
# Purges of entries that are being recorded at a time. The others wait, so a hit waits for a few of them, not for all.
BEGUN_MAX = 8
# After these events no answer may show the picture. A soft purge would serve it once more.
TAKEDOWNS = frozenset({"revoke", "invalid", "delete"})
# The reasons that have a label in the metric: events, routes, and our own findings. Callers can send any other word; it
# is counted as "other", because a label value is kept for ever.
COUNTED_REASONS = (
    TAKEDOWNS
    | {"archive", "update", "active", "manual", "imgix", "expanded", "learnt", "changed", "all"}
    | {error.code for error in (NotFound, Revoked, NotAnImage, SourceTooLarge)}
)


class PurgeService:
    """Purges keys and entries. What cannot be finished at once is finished later."""

    def __init__(
        self,
        cache: Cache,
        entries: EntryKeys,
        answers: Answers,
        *,
        settings: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
        downstream: Downstreams,
        nodes: Nodes | None = None,
        nodes_wait_s: float = 0.0,
        shared: Shared | None = None,
    ) -> None:
        """
        Set up purges.

        `nodes`: the other nodes, in a cluster. A purge waits at most `nodes_wait_s` for them. `shared`: what all share.
        """
        self._cache = cache
        self._entries = entries
        self._answers = answers
        self._settings = settings
        self._freshness = freshness
        self._metrics = metrics
        self._downstream = downstream
        self._entry_purges: OneByOne[Receipt] = OneByOne()
        self._beginnings = asyncio.Semaphore(BEGUN_MAX)
        self.finder = KeyFinder(entries, settings.expand_timeout_s)
        self._later = Background("purge")
        self.receipts = Receipts(cache.journal, shared)
        self.spread = SpreadPurges(
            nodes, downstream, self.receipts, wait_s=nodes_wait_s, settle_s=freshness.settle_s, shared=shared
        )

    async def start(self) -> None:
        """Continue the expansions that the last run left pending."""
        for entry in await self._cache.journal.pending_entries():
            self._later.begin(self._expand_later, entry, 0.0)
        await self.spread.start()

    async def close(self) -> None:
        """Stop. What is pending stays in the journal for the next run."""
        await self._later.close()
        await self.spread.close()
        await self.receipts.close()

    @property
    def pending(self) -> int:
        """Entries that are still to be expanded, and purges that the other nodes have not all applied."""
        return len(self._later) + self.spread.pending

    # --- purges ------------------------------------------------------------------------------------------------

    async def purge_keys(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None = None,
        malformed: tuple[str, ...] = (),
        is_waited_for: bool = True,
        is_part: bool = False,
    ) -> Receipt:
        """
        Forget these keys. After it returns, no answer holds bytes of them that were fetched before the call.

        `malformed` is what the keys API listed for the entry that is no key. The receipt names it, too. `is_part`: the
        entry has keys that stay, so the caches in front are not told to forget the whole entry. In a cluster the
        promise holds for all nodes if the receipt is not pending; without `is_waited_for` they are not waited for.
        """
        started_s = time.monotonic()
        with traces.span("purge", reason=reason, entry=entry, keys=len(keys)):
            try:
                purged = await self._purge_here(keys, reason=reason, entry=entry, is_part=is_part)
            except CacheUnavailable:
                # The disk is full, and the keys are closed. When answers under way end, their files are freed as well.
                await self._answers.drain([key_hash(key) for key in keys], self._settings.drain_s)
                purged = await self._purge_here(keys, reason=reason, entry=entry, is_part=is_part)
            receipt = _receipt(entry, purged, malformed)
            return await self._acknowledge(receipt, reason, started_s, is_waited_for=is_waited_for, is_part=is_part)

    async def purge_found(self, keys: Sequence[str], *, reason: str) -> Receipt:
        """
        Forget keys that this node has found to be changed or refused by the origin. The other nodes are told.

        Nobody has asked for this purge, and the request that found it does not wait for them.
        """
        return await self.purge_keys(keys, reason=reason, is_waited_for=False)

    async def purge_all(self, *, reason: str) -> Receipt:
        """Forget everything, as `purge_keys` does. Raises CacheUnavailable."""
        started_s = time.monotonic()
        outbox = self._downstream.lines_for_all()
        also = self.spread.recording((), reason=reason, entry=None, outbox=outbox, kind=Kind.PURGE_ALL)
        behind = self._downstream.lines_behind(None)
        with traces.span("purge", reason=reason, is_everything=True):
            purged = await self._cache.purge_all(reason=reason, outbox=[*outbox, *behind], also=also)
            return await self._acknowledge(replace(_receipt(None, purged), is_everything=True), reason, started_s)

    async def purge_entry(self, entry: str, *, reason: str, is_soft: bool = False) -> Receipt:
        """
        Forget every key of an entry. Calls at the same time share one purge, which begins after all of them.

        Raises:
            EntryNotFound: neither the Media Library nor the journal knows the entry.
        """
        if is_soft:
            return await self._soften(entry)
        return await self._entry_purges.run(entry, lambda: self._purge_entry(entry, reason))

    async def learn(self, entry: str) -> tuple[str, ...]:
        """
        Ask for the keys of an entry and remember them, without a purge of the entry.

        If the entry was purged before, new keys escaped that purge, here or in a cache in front. They are purged now,
        before they count as known. Raises ImgproxyError.
        """
        keys = (await self.finder.list_patiently(entry)).keys
        known = set(await self._entries.last_seen(entry))
        if not known.issuperset(keys):
            known.update(await self.finder.seen(entry) or ())
        new = [key for key in keys if key not in known]
        if new and await self._cache.journal.last_purge_of_entry(entry):
            await self.purge_keys(new, reason="learnt", entry=entry)
        await self._entries.remember(entry, keys)
        return keys

    # --- the steps ---------------------------------------------------------------------------------------------

    async def _purge_here(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None,
        is_pending: bool = False,
        expanded: Sequence[str] = (),
        is_part: bool = False,
    ) -> PurgedKeys:
        """Record and invalidate keys in the cache. The arguments are those of `Cache.purge` and `purge_keys`."""
        settle_s = self._freshness.settle_s
        outbox = self._downstream.lines(keys, entry=entry, is_part=is_part)
        purged = await self._cache.purge(
            keys,
            reason=reason,
            entry=entry,
            is_pending=is_pending,
            settle_at_s=time.time() + settle_s if settle_s > 0 else None,
            outbox=[*outbox, *self._downstream.lines_behind(keys)],
            expanded=expanded,
            also=self.spread.recording(
                keys, reason=reason, entry=entry, is_pending=is_pending, expanded=expanded, outbox=outbox
            ),
        )
        self.spread.wake()  # the other nodes need not wait for the keys API
        return purged

    async def _purge_entry(self, entry: str, reason: str) -> Receipt:
        with self.spread.under_way(entry), traces.span("purge", reason=reason, entry=entry):
            return await self._purge_entry_now(entry, reason)

    async def _purge_entry_now(self, entry: str, reason: str) -> Receipt:
        started_s = time.monotonic()
        await self._beginnings.acquire()
        # At the same time, because a write to the disk may take as long as an answer of the keys API.
        listing = asyncio.create_task(self.finder.find_all(entry))
        try:
            try:
                known = await self._entries.last_seen(entry)
                purged = await self._purge_known(known, entry, reason)
            finally:
                self._beginnings.release()
            if purged is None:
                return await self._purge_unrecorded(entry, known, reason, await listing)
            receipt = await self._expand(_receipt(entry, purged), entry, reason, await listing)
        finally:
            if listing.cancel():
                await asyncio.gather(listing, return_exceptions=True)
            elif not listing.cancelled():
                listing.exception()  # it must be read, or asyncio logs that nobody did
        return await self._acknowledge(receipt, reason, started_s)

    async def _purge_known(self, known: Sequence[str], entry: str, reason: str) -> PurgedKeys | None:
        """Record the purge with the keys last seen, and invalidate them. None: the disk refused the record."""
        try:
            return await self._purge_here(known, reason=reason, entry=entry, is_pending=True)
        except CacheUnavailable:
            return None

    async def _expand(self, receipt: Receipt, entry: str, reason: str, found: AllKeys) -> Receipt:
        """Purge the keys that were found and that we did not know. Raises EntryNotFound."""
        failure = found.failure
        try:
            receipt = await self._purge_new(receipt, entry, reason, found)
        except ImgproxyError as error:
            failure = error
        if failure is not None:
            log.warning("purge of entry %s is pending, its keys are not all known: %s", entry, failure)
            self._later.begin(self._expand_later, entry, RETRY_FIRST_S)
            return replace(receipt, is_pending=True)
        if not found.is_there and not receipt.keys:
            self.spread.forget(entry, receipt.seqs)
            raise EntryNotFound(entry)
        return receipt

    async def _purge_new(self, receipt: Receipt, entry: str, reason: str, found: AllKeys) -> Receipt:
        """Purge new keys. If no key can be missing, the entry's purges are no longer pending."""
        listed = found.listed.keys
        receipt = replace(receipt, malformed=found.listed.malformed)
        new = [key for key in found.keys if key not in receipt.keys]
        expanded = listed if found.failure is None else ()
        if new:
            is_pending = found.failure is not None
            more = await self._purge_here(new, reason=reason, entry=entry, is_pending=is_pending, expanded=expanded)
            self._entries.note(entry, new)
            receipt = replace(
                receipt,
                keys=receipt.keys + more.keys,
                variants=receipt.variants + more.variants,
                size_bytes=receipt.size_bytes + more.size_bytes,
                seq=more.seq,
                seqs=(*receipt.seqs, more.seq),
            )
        if found.failure is None and not (new and expanded):  # else the purge has written that it is expanded
            await self._entries.remember(entry, listed, finished_seq=receipt.seq)
        return receipt

    async def _purge_unrecorded(self, entry: str, known: Sequence[str], reason: str, found: AllKeys) -> Receipt:
        """
        Try again with all keys, after the disk refused the record.

        That closes the keys, and deleting their files may make room for the record.

        Raises:
            CacheUnavailable: the disk refuses again, or the keys are not all known. Nothing is promised then.
        """
        if found.failure is not None:
            raise CacheUnavailable from found.failure
        keys = list(dict.fromkeys((*known, *found.keys)))
        receipt = await self.purge_keys(keys, reason=reason, entry=entry, malformed=found.listed.malformed)
        await self._entries.remember(entry, found.listed.keys)
        return receipt

    async def _acknowledge(
        self, receipt: Receipt, reason: str, started_s: float, *, is_waited_for: bool = True, is_part: bool = False
    ) -> Receipt:
        """Drain answers under way, wait for the nodes, purge the caches in front, count, and complete the receipt."""
        drain_s = self._settings.drain_s
        if receipt.is_everything:
            cut = await self._answers.drain_all(drain_s)
        else:
            cut = await self._answers.drain([key_hash(key) for key in receipt.keys], drain_s)
        receipt = await self.spread.complete(
            replace(receipt, cut=cut), reason, started_s, is_waited_for=is_waited_for, is_part=is_part
        )
        duration_s = time.monotonic() - started_s
        self._metrics.purges.labels(reason=reason if reason in COUNTED_REASONS else "other").inc()
        self._metrics.purged_variants.inc(receipt.variants)
        self._metrics.purged_bytes.inc(receipt.size_bytes)
        self._metrics.purge_duration_s.observe(duration_s)
        receipt = replace(receipt, duration_s=duration_s)
        self.receipts.keep(receipt, reason=reason)
        if is_waited_for:
            await self.receipts.publish()
        log.info("purged", extra={"facts": {"reason": reason, **receipt.as_json()}})
        return receipt

    async def _soften(self, entry: str) -> Receipt:
        """Mark the entry's originals as stale. They are served once more, and revalidated behind the answer."""
        started_s = time.monotonic()
        try:
            keys = await self.learn(entry)
        except NotFound:
            raise EntryNotFound(entry) from None
        stale_at_s = time.time() - self._freshness.revalidate_after_s - 1
        for key in keys:
            self._cache.soften(key, stale_at_s)
        await self.spread.soften(keys, reason="soft", entry=entry)
        return Receipt(entry, keys, 0, 0, self._cache.epochs.seq, time.monotonic() - started_s, is_soft=True)

    def expand(self, entry: str) -> None:
        """Expand a pending entry of the cluster, unless a purge of it is under way here."""
        if not self.spread.is_under_way(entry):
            self._later.begin(self._expand_later, entry, 0.0)

    async def _expand_later(self, entry: str, wait_s: float) -> None:
        with self.spread.under_way(entry):
            await self._expand_patiently(entry, wait_s)

    async def _expand_patiently(self, entry: str, wait_s: float) -> None:
        """Expand a pending purge, with growing waits, until all keys are known."""
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(max(wait_s * 2, RETRY_FIRST_S), self._settings.retry_max_s)
            try:
                # A purge that is recorded after this has an expansion of its own.
                began_seq = await self._cache.journal.last_purge_of_entry(entry)
                began_number = await self.spread.last_number(entry)
                await self._expand_pending(entry)
                await self._cache.journal.finish_pending(entry, up_to_seq=began_seq)
                await self.spread.finish_pending(entry, began_number)
            except (ImgproxyError, LogUnavailable) as error:
                log.warning("purge of entry %s is still pending: %s", entry, error)
            else:
                return

    async def _expand_pending(self, entry: str) -> None:
        """Purge all keys of the entry, also those already purged: an old replica may have served them since."""
        found = await self.finder.find_all(entry, is_patient=True)
        if found.failure is not None:
            raise found.failure
        if not found.is_there and not found.seen:
            log.info("entry %s does not exist any more; its purge is complete with the keys last seen", entry)
            return
        receipt = await self.purge_keys(found.keys, reason="expanded", entry=entry, malformed=found.listed.malformed)
        await self._entries.remember(entry, found.listed.keys)
        log.info("purge of entry %s is complete: %d keys", entry, len(receipt.keys))


def _receipt(entry: str | None, purged: PurgedKeys, malformed: tuple[str, ...] = ()) -> Receipt:
    return Receipt(
        entry,
        purged.keys,
        purged.variants,
        purged.size_bytes,
        purged.seq,
        0.0,
        malformed=malformed,
        seqs=(purged.seq,),
    )
