"""The cache as delivery and purge see it: find, commit, purge."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from imgproxy.cache.entry import Found, OriginalFacts, Provenance, Tier, Variant, VariantFacts, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.hot import HotTier
from imgproxy.cache.housekeeping import Housekeeping
from imgproxy.cache.journal import Journal
from imgproxy.cache.ledger import variant_name
from imgproxy.cache.purge import CachePurge
from imgproxy.cache.purge_event import Purged, PurgeEvent
from imgproxy.cache.reading import matches_digest, read_at_once, stamp_of
from imgproxy.cache.store import CacheStore
from imgproxy.cache.trash import Trash
from imgproxy.digest import matches
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.cache.reading import StrPath
    from imgproxy.config.sections import CacheSettings

log = logging.getLogger(__name__)


class Cache:
    """
    Hot tier, disk and journal as one. Its synchronous methods block for a small file at most.

    `purged` is published for each key inside a purge. `journal` is the one of `settings.dir` if it is not given.
    """

    def __init__(
        self, settings: CacheSettings, *, purged: PurgeEvent | None = None, journal: Journal | None = None
    ) -> None:
        self.settings = settings
        self.purged = purged or PurgeEvent()
        self.store = CacheStore(settings.dir)
        self.hot = HotTier(settings.hot_max_bytes, settings.hot_item_max_bytes)
        self.journal = journal or Journal(settings.dir)
        self.epochs = Epochs()
        self.is_journal_damaged = False
        self.trash = Trash(self.store, self.journal, self.epochs)
        self.housekeeping = Housekeeping(self.store, self.hot, self.trash, settings)
        self._purge = CachePurge(
            self.store,
            self.hot,
            self.epochs,
            housekeeping=self.housekeeping,
            trash=self.trash,
            purged=self.purged,
        )

    async def start(self, *, is_housekeeping: bool = True) -> None:
        """
        Open the directory, finish the purges that a crash interrupted, and start the housekeeping.

        The housekeeping's scan of a large cache takes a while, and CPU. Without `is_housekeeping` the caller starts it
        later, by `housekeeping.start`.

        Raises:
            CacheUnavailable: the directory cannot be made or written, or another process uses it.
        """
        self.store.open()
        try:
            state = await self.journal.open()
        except BaseException:
            self.store.close()
            raise
        self.is_journal_damaged = state.is_doubtful
        self.epochs.resume(state.journal_id, state.seq, {item.key_hash: item.seq for item in state.purged})
        self._purge.replay(state.purged)
        if is_housekeeping:
            self.housekeeping.start()

    async def close(self) -> None:
        """Finish the housekeeping's writes, and close the journal."""
        await self._purge.close()
        await self.housekeeping.close()
        await self.trash.close()
        await self.journal.close()
        self.store.close()

    # --- find --------------------------------------------------------------------------------------------------

    def facts(self, hashed: str) -> OriginalFacts | None:
        """
        The facts of the key's original, unless a purge has come since they were fetched.

        Facts of another journal are returned, too, if the key was not purged since. They are not proved.
        """
        facts = self.store.facts(hashed)
        if facts is None or not self.epochs.holds_in(facts.journal_id, hashed, facts.seq):
            return None
        return facts

    def is_proved(self, facts: OriginalFacts) -> bool:
        """
        Whether this journal counted the fetch.

        If a journal was lost, purges may have been lost with it. So facts of another journal must be revalidated
        before use.
        """
        return facts.journal_id == self.epochs.journal_id

    def is_answerable(self, variant: Variant) -> bool:
        """Whether an answer with this variant may begin now: no purge of its originals has come."""
        proofs = ((variant.key_hash, variant.seq), *variant.also)
        return all(self.epochs.holds(hashed, seq) for hashed, seq in proofs)

    async def find(self, source: Provenance, name: str) -> Found | None:
        """
        Find a variant of these originals in memory, then on disk. Its checksum is right.

        A small variant from disk is put into the hot tier, unless a purge came while it was read. `name` is the digest
        of the variant's plan.
        """
        variant = self.hot.get(source.key_hash, name)
        if variant is not None and variant.facts.original == source.digest:
            return Found(variant, Tier.MEMORY)
        variant = await self._find_on_disk(source, name)
        if variant is None:
            return None
        if self.is_answerable(variant):
            self.hot.put(variant)
        return Found(variant, Tier.DISK)

    async def _find_on_disk(self, source: Provenance, name: str) -> Variant | None:
        if self.housekeeping.is_scanned and variant_name(source.key_hash, name) not in self.store.ledger:
            return None  # a tenth of the time that a look at the disk takes
        opened = self.store.open_variant(source.key_hash, name, source.digest)
        if opened is None:
            return None
        facts, descriptor = opened
        try:
            if self.hot.accepts(facts.size_bytes):
                return await self._read(source, facts, descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return await self._as_file(source, facts)

    async def _read(self, source: Provenance, facts: VariantFacts, descriptor: int) -> Variant | None:
        """Read a variant into memory. Raises OSError."""
        hashed, name = source.key_hash, facts.plan
        stamp = stamp_of(os.fstat(descriptor))
        try:
            body = bytes(read_at_once(descriptor, facts.size_bytes))
        except BlockingIOError:
            body = await asyncio.to_thread(os.pread, descriptor, facts.size_bytes, 0)
        if not self.store.is_variant_verified(hashed, name):
            is_intact = matches(facts.digest, lambda: (body,))
            self.store.note_checked_variant(hashed, facts, is_intact=is_intact)
            if not is_intact:
                log.warning("a variant of %s failed its checksum and was removed", facts.key)
                return None
        file = self.store.seen(hashed, name, stamp, facts.size_bytes)
        return Variant(facts, hashed, source.original.seq, body=body, also=source.also, file=file)

    async def _as_file(self, source: Provenance, facts: VariantFacts) -> Variant | None:
        """A variant that is too large for memory."""
        hashed, name = source.key_hash, facts.plan
        path = self.store.variant_path(hashed, name)
        if not self.store.is_variant_verified(hashed, name):
            is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
            self.store.note_checked_variant(hashed, facts, is_intact=is_intact)
            if not is_intact:
                return None
        return Variant(facts, hashed, source.original.seq, path=path, also=source.also)

    async def verified_original(self, facts: OriginalFacts) -> str | None:
        """The original's file, its checksum checked. None where it is missing or damaged."""
        path = self.store.original_path(facts)
        if path is None or self.store.is_original_verified(key_hash(facts.key)):
            return path
        is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
        self.store.note_checked_original(facts, is_intact=is_intact)
        return path if is_intact else None

    # --- commit ------------------------------------------------------------------------------------------------

    def commit_original(self, temp: StrPath, facts: OriginalFacts) -> bool:
        """
        Keep a fetched original. Return False, and delete the file, if a purge came since the fetch began.

        Raises:
            CacheUnavailable: the disk refuses.
        """
        if not self.epochs.holds(key_hash(facts.key), facts.seq):
            self.store.discard(temp)
            return False
        self.store.commit_original(temp, facts)
        self.housekeeping.after_commit()
        return True

    def commit_facts(self, facts: OriginalFacts) -> bool:
        """
        Keep the facts that a revalidation proved again. Return False if a purge came since it began.

        If the disk refuses, they are kept in memory: after a restart the older facts are revalidated again.
        """
        if not self.epochs.holds(key_hash(facts.key), facts.seq):
            return False
        try:
            self.store.commit_facts(facts)
        except CacheUnavailable as exc:
            log.warning("the facts of %s stay in memory: %s", facts.key, exc.__cause__)
            self.store.hold_facts(facts)
            self.make_room(exc)
        return True

    def commit_variant(
        self, temp: StrPath, facts: VariantFacts, *, seq: int, also: Sequence[tuple[str, int]] = ()
    ) -> str | None:
        """
        Keep a rendered variant and return its path. Return None, and delete the file, if it is of a stale generation.

        `seq` and `also` are those of its Variant.

        Raises:
            CacheUnavailable: the disk refuses. The file is deleted.
        """
        hashed = key_hash(facts.key)
        current = self.store.facts(hashed)
        is_stale = not all(self.epochs.holds(name, at) for name, at in ((hashed, seq), *also))
        if is_stale or current is None or current.digest != facts.original.partition("+")[0]:
            self.store.discard(temp)
            return None
        try:
            path = self.store.commit_variant(temp, facts)
        except CacheUnavailable:
            self.store.discard(temp)
            raise
        self.housekeeping.after_commit()
        return path

    def make_room(self, refusal: BaseException) -> None:
        """Evict something in the background, if the disk refused a write because it is full."""
        self.housekeeping.make_room(refusal)

    # --- purge -------------------------------------------------------------------------------------------------

    async def purge(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None = None,
        is_pending: bool = False,
        settle_at_s: float | None = None,
        outbox: Sequence[OutboxLine] = (),
        expanded: Sequence[str] = (),
    ) -> PurgedKeys:
        """
        Purge these keys. When this returns, no answer can begin with anything that was fetched before the call.

        It goes on to its end even if the caller is cancelled. The arguments are those of `Journal.record_purge`.

        Raises:
            CacheUnavailable: the record could not be written. The keys are closed all the same: this process answers
                with nothing of them until the record is written, which is tried again in the background. Until then
                the purge is not durable.
        """
        items = [Purged(key_hash(key), key, settle_at_s) for key in dict.fromkeys(keys)]
        record = partial(
            self.journal.record_purge,
            [(item.key_hash, item.key) for item in items],
            entry=entry,
            reason=reason,
            is_pending=is_pending,
            settle_at_s=settle_at_s,
            outbox=outbox,
            expanded=expanded,
        )
        return await self._purge.run(items, record)
