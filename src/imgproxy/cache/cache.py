"""The cache as delivery and purge see it: find, commit, purge, order a proof."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from imgproxy.cache.disk_reader import DiskReader
from imgproxy.cache.entry import (
    Found,
    OriginalFacts,
    Provenance,
    Tier,
    Variant,
    VariantFacts,
    key_hash,
    latest_proofs,
    picture_digest,
)
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.hot import HotTier
from imgproxy.cache.housekeeping import Housekeeping
from imgproxy.cache.journal import Journal
from imgproxy.cache.ledger import variant_name
from imgproxy.cache.orders import Orders, ProofOrder
from imgproxy.cache.purge import CachePurge
from imgproxy.cache.purge_event import Distrusted, Event, Purged, PurgedAll, PurgedMany, PurgeEvent, Softened, Unproved
from imgproxy.cache.purge_many import ManyPurges
from imgproxy.cache.store import CacheStore
from imgproxy.cache.trash import Trash
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.cache.reading import StrPath
    from imgproxy.cache.spreading import Also
    from imgproxy.config.sections import CacheSettings

log = logging.getLogger(__name__)


class Cache:
    """
    Hot tier, disk and journal as one. Its synchronous methods block for a small file at most.

    `purged` is published for each key inside a purge, `softened` inside a soft purge, `unproved` inside an order to
    prove, `distrusted` if everything counts as unproved, `purged_all` inside a purge of everything, `purged_many` for
    the keys without files inside a purge of many. `journal` is the one of `settings.dir` if it is not given.
    """

    def __init__(
        self, settings: CacheSettings, *, purged: PurgeEvent | None = None, journal: Journal | None = None
    ) -> None:
        self.settings = settings
        self.purged = purged or PurgeEvent()
        self.softened: Event[Softened] = Event()
        self.unproved: Event[Unproved] = Event()
        self.distrusted: Event[Distrusted] = Event()
        self.purged_all: Event[PurgedAll] = Event()
        self.purged_many: Event[PurgedMany] = Event()
        self.store = CacheStore(settings.dir)
        self.hot = HotTier(settings.hot_max_bytes, settings.hot_item_max_bytes)
        self.journal = journal or Journal(settings.dir)
        self.epochs = Epochs()
        self._disk = DiskReader(self.store, self.hot.body_max_bytes)
        self.verified_original = self._disk.verified_original
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
            purged_all=self.purged_all,
        )
        self._many = ManyPurges(self.store, self.hot, self.epochs, self.purged_many)
        self._orders = Orders(
            self.store,
            self.hot,
            self.journal,
            self.epochs,
            unproved=self.unproved,
            distrusted=self.distrusted,
        )

    async def start(self, *, is_housekeeping: bool = True) -> None:
        """
        Open the directory, finish the purges that a crash interrupted, and start the housekeeping.

        The housekeeping's scan of a large cache takes a while, and CPU. Without `is_housekeeping` the caller starts it
        later, by `housekeeping.start`.

        Raises:
            CacheUnavailable: the directory cannot be made or written, or another process uses it.
        """
        try:
            self.store.open()
        except OSError as exc:
            raise CacheUnavailable from exc
        try:
            state = await self.journal.open()
        except BaseException:
            self.store.close()
            raise
        self.is_journal_damaged = state.is_doubtful
        self.epochs.resume(
            state.journal_id,
            state.seq,
            {item.key_hash: item.seq for item in state.purged},
            {item.key_hash: item.seq for item in state.unproved},
            state.all_purged,
        )
        if state.is_all_open:
            self._purge.detach_all()
        self._purge.replay(state.purged)
        self._orders.replay(state.unproved)
        if is_housekeeping:
            self.housekeeping.start()

    async def close(self) -> None:
        """Finish the housekeeping's writes, and close the journal."""
        await self._purge.close()
        await self._orders.close()
        await self.housekeeping.close()
        await self.trash.close()
        await self.journal.close()
        self.store.close()

    # --- find --------------------------------------------------------------------------------------------------

    def facts(self, hashed: str) -> OriginalFacts | None:
        """
        The facts of the key's original. None without them, or if a purge came after they were fetched.

        Facts of another journal are returned, too, if the key was not purged since. They are not proved. Neither are
        those from before an order to prove the key.
        """
        facts = self.store.facts(hashed)
        if facts is None or not self.epochs.holds_in(facts.journal_id, hashed, facts.seq):
            return None
        return facts

    def is_proved(self, facts: OriginalFacts) -> bool:
        """
        Whether this journal counted the fetch, and no order to prove the key came since.

        Else the original must be revalidated before use. If a journal was lost, purges may have been lost with it.
        """
        return self.is_counted(facts) and self.epochs.is_proved(key_hash(facts.key), facts.seq)

    def is_counted(self, facts: OriginalFacts) -> bool:
        """Whether this journal counted the fetch."""
        return facts.journal_id == self.epochs.journal_id

    async def find(self, source: Provenance, name: str) -> Found | None:
        """
        Find a variant of these originals in memory, then on disk. Its checksum is right.

        A small variant from disk is put into the hot tier, unless a purge came while it was read. `name` is the digest
        of the variant's plan.
        """
        variant = self.hot.get(source.key_hash, name)
        if variant is not None and variant.facts.original == source.digest:
            return Found(self._with_latest_proofs(variant, source), Tier.MEMORY)
        if self.housekeeping.is_scanned and variant_name(source.key_hash, name) not in self.store.ledger:
            return None  # this check takes a tenth of the time that a look at the disk takes
        variant = await self._disk.find(source, name)
        if variant is None:
            return None
        if self.epochs.all_hold(variant.proofs):
            self.hot.put(variant)
        return Found(variant, Tier.DISK)

    def _with_latest_proofs(self, variant: Variant, source: Provenance) -> Variant:
        """Let a variant in memory answer again, if its originals were proved since an order."""
        if self.epochs.all_hold(variant.proofs):
            return variant
        variant = replace(variant, proofs=latest_proofs(variant.proofs, source.proofs))
        if self.epochs.all_hold(variant.proofs):
            self.hot.put(variant)
        return variant

    # --- commit ------------------------------------------------------------------------------------------------

    def commit_original(self, temp: StrPath, facts: OriginalFacts) -> bool:
        """
        Keep a fetched original. Return False if a purge came since the fetch began: the caller then discards the file.

        An original that was asked for before an order to prove it is kept unproved, unless a later proof is here.

        Raises:
            OSError: the disk refuses.
        """
        hashed = key_hash(facts.key)
        if not self.is_proved(facts):
            if not self.epochs.holds(hashed, facts.seq):
                return False
            known = self.facts(hashed)
            if known is not None and self.is_proved(known):
                return False
        self.store.commit_original(temp, facts)
        if self.epochs.ordered(hashed) is not None:
            self._orders.look_at(hashed)
        self.housekeeping.after_commit()
        return True

    def commit_facts(self, facts: OriginalFacts) -> bool:
        """
        Keep the facts that a revalidation proved again. Return False if a purge or an order came since it began.

        If the disk refuses, they are kept in memory: after a restart the older facts are revalidated again.
        """
        hashed = key_hash(facts.key)
        if not self.is_proved(facts):
            return False
        try:
            self.store.commit_facts(facts)
        except OSError as exc:
            log.warning("the facts of %s stay in memory: %s", facts.key, exc)
            self.store.hold_facts(facts)
            self.housekeeping.make_room(exc)
        self._orders.look_at(hashed)
        return True

    def commit_variant(self, temp: StrPath, facts: VariantFacts, source: Provenance) -> Variant | None:
        """
        Keep a rendered variant, on disk and, if it is small, in memory. Return None if it is of a stale generation.

        Without a Variant the caller discards the file. If its originals are to be proved, it is kept on disk alone.

        Raises:
            OSError: the disk refuses.
        """
        current = self.store.facts(source.key_hash)
        if current is None or current.digest != picture_digest(source.digest):
            return None
        is_proved = self.epochs.all_hold(source.proofs)
        if not is_proved and not all(self.epochs.holds(hashed, seq) for hashed, seq in source.proofs):
            return None
        is_hot = facts.size_bytes <= self.hot.body_max_bytes
        path, body = self.store.commit_variant(temp, facts, with_body=is_hot)
        self.housekeeping.after_commit()
        variant = Variant(facts, source.key_hash, source.proofs, body=body, path=None if is_hot else path)
        if is_proved:
            self.hot.put(variant)
        return variant

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
        also: Also | None = None,
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
            also=also,
        )
        return await self._purge.run(items, record)

    async def purge_all(
        self, *, reason: str, outbox: Sequence[OutboxLine] = (), also: Also | None = None
    ) -> PurgedKeys:
        """
        Purge everything, as `purge` does for some keys. It takes the same time for any size.

        The result names no keys, and its number of variants counts originals as well.

        Raises:
            CacheUnavailable: the record could not be written. Nothing has happened.
        """
        return await self._purge.run_all(
            partial(self.journal.record_purge_all, reason=reason, outbox=outbox, also=also)
        )

    async def purge_many(self, keys: Iterable[str], *, reason: str, also: Also | None = None) -> AbstractSet[str]:
        """
        Purge many keys, of which most are not cached. Return their hashes. A key without files takes little time.

        A crash may undo it until `sync_purge_many` has returned. The rest is as in `purge`.
        """
        return await self._many.run(keys, partial(self.purge, reason=reason, also=also))

    async def sync_purge_many(self) -> None:
        """Let a crash undo no purge of `purge_many` that has returned. Raises CacheUnavailable."""
        await self._many.sync()

    # --- order a proof -----------------------------------------------------------------------------------------

    async def prove(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None = None,
        is_pending: bool = False,
        settle_at_s: float | None = None,
        also: Also | None = None,
    ) -> ProofOrder:
        """
        Let the originals of these keys count as unproved. Files stay.

        When this returns, an answer of them can begin only after the origin, asked after this call began, has
        confirmed the original. This holds for what is in memory, for answers that are being prepared, for what fetches
        under way bring, and after a crash. This call does not ask the origin itself.

        It goes on to its end even if the caller is cancelled. The arguments are those of `Journal.record_order`. If the
        disk refuses the record, the keys are purged.

        Raises:
            CacheUnavailable: the record of that purge could not be written either, see `purge`.
        """
        items = [Unproved(key_hash(key), key, settle_at_s) for key in dict.fromkeys(keys)]
        record = partial(
            self.journal.record_order,
            [(item.key_hash, item.key) for item in items],
            entry=entry,
            reason=reason,
            is_pending=is_pending,
            settle_at_s=settle_at_s,
            also=also,
        )
        try:
            return ProofOrder(await self._orders.prove(items, record))
        except CacheUnavailable:
            purged = await self.purge(
                keys, reason=reason, entry=entry, is_pending=is_pending, settle_at_s=settle_at_s, also=also
            )
            return ProofOrder(purged.seq, purged)

    async def distrust_all(self, *, reason: str) -> None:
        """
        Let everything cached count as unproved, as `prove` does for some keys. It takes the same time for any size.

        Raises:
            CacheUnavailable: the record could not be written. Nothing has happened.
        """
        await self._orders.distrust(reason)

    # --- soft purge --------------------------------------------------------------------------------------------

    def soften(self, key: str, stale_at_s: float) -> None:
        """
        Purge a key softly: mark its original as stale, also the one that a fetch under way brings.

        `stale_at_s` is as in `Softened`.
        """
        hashed = key_hash(key)
        facts = self.facts(hashed)
        if facts is not None and facts.validated_at_s > stale_at_s:
            self.commit_facts(replace(facts, validated_at_s=stale_at_s))
            self.hot.drop(hashed)  # prepared answers there rely on the older freshness
        self.softened.publish(Softened(hashed, stale_at_s))
