"""
The cache as delivery and purge see it: find, commit, purge.

The order inside a purge is the guarantee: the record is durable, then the epochs are raised, then memory is dropped and
directories are renamed away, all before the caller hears of it. Deleting files comes after and proves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.cache.entry import OriginalFacts, Variant, VariantFacts, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.framed import digest_of
from imgproxy.cache.hot import HotTier
from imgproxy.cache.housekeeping import Housekeeping, measure
from imgproxy.cache.journal import Journal, PurgedKey
from imgproxy.cache.store import CacheStore, Detached, matches_digest
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imgproxy.config import CacheSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PurgedKeys:
    """What a purge of keys took away."""

    seq: int
    keys: tuple[str, ...]
    variants: int
    size_bytes: int


class Cache:
    """Hot tier, disk and journal as one. Its synchronous methods never block on more than a small file."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.store = CacheStore(settings.dir)
        self.hot = HotTier(settings.hot_max_bytes, settings.hot_item_max_bytes)
        self.journal = Journal(settings.dir)
        self.epochs = Epochs("", 0)
        self.housekeeping = Housekeeping(self.store, self.journal, settings, self._detach_orphan)
        self.is_journal_damaged = False
        self._watchers: list[Callable[[str], None]] = []

    async def start(self) -> None:
        """
        Open the directory, replay the journal, and only then start the housekeeping.

        Raises:
            CacheUnavailable: the directory cannot be made or written.
        """
        self.store.open()
        state = await self.journal.open()
        self.is_journal_damaged = state.set_aside is not None
        self.epochs = Epochs(state.journal_id, state.seq, {item.key_hash: item.seq for item in state.purged})
        self._replay(state.purged)
        self.housekeeping.start()

    def _replay(self, purged: Sequence[PurgedKey]) -> None:
        """Take away what a crash left of purged keys. What was fetched after the purge stays."""
        for item in purged:
            facts = self.store.facts(item.key_hash)
            if facts is None or not self.is_current(item.key_hash, facts):
                detached = self.store.detach(item.key_hash)
                self.housekeeping.collect([detached] if detached else [], [item])
            else:
                self.housekeeping.collect([], [item])

    async def close(self) -> None:
        """Finish the housekeeping's write-outs and close the journal."""
        await self.housekeeping.close()
        await self.journal.close()

    def watch_purges(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher(key hash)` called inside each purge, before it is acknowledged."""
        self._watchers.append(watcher)

    # --- find --------------------------------------------------------------------------------------------------

    def facts(self, hashed: str) -> OriginalFacts | None:
        """The facts of the key's original, unless a purge has overtaken them."""
        facts = self.store.facts(hashed)
        return facts if facts is not None and self.is_current(hashed, facts) else None

    def is_current(self, hashed: str, facts: OriginalFacts) -> bool:
        """Whether no purge has overtaken these facts. Facts of another journal are kept, but unproved."""
        if facts.journal_id != self.epochs.journal_id:
            return self.epochs.holds(hashed, 0)
        return self.epochs.holds(hashed, facts.seq)

    def is_proved(self, facts: OriginalFacts) -> bool:
        """
        Whether this journal counted the fetch.

        If the journal was lost, purges may have been lost with it: such facts must be revalidated before use.
        """
        return facts.journal_id == self.epochs.journal_id

    def is_answerable(self, variant: Variant) -> bool:
        """Whether an answer with this variant may begin now."""
        return self.epochs.holds(variant.key_hash, variant.seq)

    async def find_on_disk(self, hashed: str, plan: str, original: OriginalFacts) -> Variant | None:
        """A variant from disk, read into memory where it is small; its checksum holds."""
        opened = self.store.open_variant(hashed, plan, original.digest)
        if opened is None:
            return None
        facts, descriptor = opened
        try:
            if not self.hot.accepts(facts.size_bytes):
                path = self.store.variant_path(hashed, plan)
                if not self.store.is_variant_verified(hashed, plan):
                    is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
                    self.store.settle_variant(hashed, facts, is_intact=is_intact)
                    if not is_intact:
                        return None
                return Variant(facts, hashed, original.seq, path=path)
            body = os.pread(descriptor, facts.size_bytes, 0)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if not self.store.is_variant_verified(hashed, plan):
            is_intact = digest_of(body).hex() == facts.digest
            self.store.settle_variant(hashed, facts, is_intact=is_intact)
            if not is_intact:
                log.warning("a variant of %s failed its checksum and was removed", facts.key)
                return None
        return Variant(facts, hashed, original.seq, body=body)

    async def verified_original(self, facts: OriginalFacts) -> Path | None:
        """The original's file, its bytes known to be right; None where it is missing or damaged."""
        path = self.store.original_path(facts)
        hashed = key_hash(facts.key)
        if path is None or self.store.is_original_verified(hashed):
            return path
        is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
        self.store.settle_original(facts, is_intact=is_intact)
        return path if is_intact else None

    # --- commit ------------------------------------------------------------------------------------------------

    def commit_original(self, temp: Path, facts: OriginalFacts) -> bool:
        """Keep a fetched original, unless a purge has overtaken the fetch; then False, and the file is gone."""
        if not self.epochs.holds(key_hash(facts.key), facts.seq):
            self.store.discard(temp)
            return False
        self.store.commit_original(temp, facts)
        self.housekeeping.after_commit()
        return True

    def commit_facts(self, facts: OriginalFacts) -> bool:
        """Keep the facts that a revalidation proved anew, unless a purge has overtaken it."""
        if not self.epochs.holds(key_hash(facts.key), facts.seq):
            return False
        self.store.commit_facts(facts)
        return True

    def commit_variant(self, temp: Path, facts: VariantFacts, *, seq: int) -> Path | None:
        """Keep a rendered variant, unless a purge has overtaken its original; then None, and the file is gone."""
        hashed = key_hash(facts.key)
        current = self.store.facts(hashed)
        if not self.epochs.holds(hashed, seq) or current is None or current.digest != facts.original:
            self.store.discard(temp)
            return None
        try:
            path = self.store.commit_variant(temp, facts)
        except CacheUnavailable:
            self.store.discard(temp)
            raise
        self.housekeeping.after_commit()
        return path

    # --- purge -------------------------------------------------------------------------------------------------

    async def purge(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None = None,
        is_pending: bool = False,
        settle_at_s: float | None = None,
    ) -> PurgedKeys:
        """
        Forget these keys, for good. When this returns, no answer can begin with anything fetched before it was called.

        The arguments are those of `Journal.record_purge`.

        Raises:
            CacheUnavailable: a directory cannot be renamed away. The purge holds even so: its record and epoch stand.
        """
        named = [(key_hash(key), key) for key in dict.fromkeys(keys)]
        seq = await self.journal.record_purge(
            named, entry=entry, reason=reason, is_pending=is_pending, settle_at_s=settle_at_s
        )
        detached = self._overtake([hashed for hashed, _ in named], seq)
        sizes = await asyncio.to_thread(measure, detached)
        self.housekeeping.collect(detached, [PurgedKey(hashed, key, seq) for hashed, key in named])
        return PurgedKeys(seq, tuple(key for _, key in named), sizes.variants, sizes.size_bytes)

    def _overtake(self, hashes: Sequence[str], seq: int) -> list[Detached]:
        """Raise the epochs and take memory and directories out of reach, without an await in between."""
        detached = []
        for hashed in hashes:
            self.epochs.purge(hashed, seq)
            self.hot.drop(hashed)
            for watcher in self._watchers:
                watcher(hashed)
            try:
                if (directory := self.store.detach(hashed)) is not None:
                    detached.append(directory)
            except CacheUnavailable:
                log.exception("the files of a purged key could not be renamed away; they are unreachable all the same")
        return detached

    def _detach_orphan(self, hashed: str) -> Detached | None:
        """A directory without valid facts: nothing in it counts. Checked again here, on the loop."""
        return None if self.store.facts(hashed) is not None else self.store.detach(hashed)
