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

from imgproxy.background import Background
from imgproxy.cache.entry import Found, OriginalFacts, Provenance, Tier, Variant, VariantFacts, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.hot import HotTier
from imgproxy.cache.housekeeping import Housekeeping, Measured, measure
from imgproxy.cache.journal import Journal
from imgproxy.cache.journal_file import PurgedKey
from imgproxy.cache.ledger import variant_name
from imgproxy.cache.reading import matches_digest, read_at_once, stamp_of
from imgproxy.cache.store import CacheStore, Detached
from imgproxy.digest import matches
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.reading import StrPath
    from imgproxy.config.sections import CacheSettings

log = logging.getLogger(__name__)

# A purge that the disk would not record is tried again after this long, doubling up to the maximum.
RECORD_AGAIN_FIRST_S = 0.5
RECORD_AGAIN_MAX_S = 15.0
NOTHING = Measured(0, 0)


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
        self.housekeeping = Housekeeping(
            self.store,
            self.journal,
            settings,
            detach_orphan=self._detach_orphan,
            on_collected=self._collected,
            in_memory=self.hot.names,
        )
        self.is_journal_damaged = False
        self._watchers: list[Callable[[str], None]] = []
        # Purges under way, which nobody may cancel, and those that could not be written down yet.
        self._purges: set[asyncio.Task[PurgedKeys]] = set()
        self._unrecorded = Background("purge that could not be recorded")

    async def start(self, *, is_housekeeping: bool = True) -> None:
        """
        Open the directory, replay the journal, and only then start the housekeeping.

        Its scan of a large cache takes a while, and a processor: a service that is not up yet may want to start it
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
        self.epochs = Epochs(state.journal_id, state.seq, {item.key_hash: item.seq for item in state.purged})
        self._replay(state.purged)
        if is_housekeeping:
            self.housekeeping.start()

    def _replay(self, purged: Sequence[PurgedKey]) -> None:
        """Take away what a crash left of purged keys. What was fetched after the purge stays."""
        detached: list[Detached] = []
        gone: list[PurgedKey] = []
        for item in purged:
            facts = self.store.facts(item.key_hash)
            is_newer = facts is not None and self.is_current(item.key_hash, facts)
            if is_newer or self._detach(item.key_hash, detached):
                gone.append(item)
        self.housekeeping.collect(detached, gone)

    async def close(self) -> None:
        """Finish the housekeeping's write-outs and close the journal."""
        await self._unrecorded.close()
        await self.housekeeping.close()
        await self.journal.close()
        self.store.close()

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
        proofs = ((variant.key_hash, variant.seq), *variant.also)
        return all(self.epochs.holds(hashed, seq) for hashed, seq in proofs)

    async def find(self, source: Provenance, name: str) -> Found | None:
        """
        Find a variant of these originals in memory, then on disk. Its checksum is right.

        A small variant from disk is put into the hot tier, unless a purge came while it was read. `name` is the digest
        of its plan.
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

    async def _find_on_disk(self, source: Provenance, plan: str) -> Variant | None:
        hashed, seq = source.key_hash, source.original.seq
        if self.housekeeping.is_scanned and variant_name(hashed, plan) not in self.store.ledger:
            return None  # to look for it on disk takes ten times as long, and a variant is missed once in its life
        opened = self.store.open_variant(hashed, plan, source.digest)
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
                return Variant(facts, hashed, seq, path=path, also=source.also)
            stamp = stamp_of(os.fstat(descriptor))
            try:
                body = bytes(read_at_once(descriptor, facts.size_bytes))
            except BlockingIOError:
                body = await asyncio.to_thread(os.pread, descriptor, facts.size_bytes, 0)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if not self.store.is_variant_verified(hashed, plan):
            is_intact = matches(facts.digest, lambda: (body,))
            self.store.settle_variant(hashed, facts, is_intact=is_intact)
            if not is_intact:
                log.warning("a variant of %s failed its checksum and was removed", facts.key)
                return None
        file = self.store.seen(hashed, plan, stamp, facts.size_bytes)
        return Variant(facts, hashed, seq, body=body, also=source.also, file=file)

    def keeps(self, variant: Variant) -> bool:
        """Whether a variant's file is there, with the bytes that it had when it was found."""
        opened = self.store.open_variant(variant.key_hash, variant.facts.plan, variant.facts.original)
        if opened is None:
            return False
        facts, descriptor = opened
        os.close(descriptor)
        return facts.digest == variant.facts.digest

    async def verified_original(self, facts: OriginalFacts) -> str | None:
        """The original's file, its bytes known to be right; None where it is missing or damaged."""
        path = self.store.original_path(facts)
        hashed = key_hash(facts.key)
        if path is None or self.store.is_original_verified(hashed):
            return path
        is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
        self.store.settle_original(facts, is_intact=is_intact)
        return path if is_intact else None

    # --- commit ------------------------------------------------------------------------------------------------

    def commit_original(self, temp: StrPath, facts: OriginalFacts) -> bool:
        """Keep a fetched original, unless a purge has overtaken the fetch; then False, and the file is gone."""
        if not self.epochs.holds(key_hash(facts.key), facts.seq):
            self.store.discard(temp)
            return False
        self.store.commit_original(temp, facts)
        self.housekeeping.after_commit()
        return True

    def commit_facts(self, facts: OriginalFacts) -> bool:
        """
        Keep the facts that a revalidation proved anew, unless a purge has overtaken it.

        Where the disk refuses they are kept in memory: after a restart the older ones are proved again.
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
        Keep a rendered variant, unless a purge has overtaken one of its originals; then None, and the file is gone.

        `seq` and `also` are those of its Variant.
        """
        hashed = key_hash(facts.key)
        current = self.store.facts(hashed)
        is_overtaken = not all(self.epochs.holds(name, at) for name, at in ((hashed, seq), *also))
        if is_overtaken or current is None or current.digest != facts.original.partition("+")[0]:
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
        """Evict something behind the answers, if the disk refused a write for being full."""
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
        Forget these keys, for good. When this returns, no answer can begin with anything fetched before it was called.

        It goes on to its end even if the caller is cancelled. The arguments are those of `Journal.record_purge`.

        Raises:
            CacheUnavailable: the purge could not be made durable. These keys are closed all the same: nothing of them
                is answered by this process until the record succeeds, which is tried again behind; it is just no
                promise yet.
        """
        named = [(key_hash(key), key) for key in dict.fromkeys(keys)]

        async def record() -> int:
            return await self.journal.record_purge(
                named,
                entry=entry,
                reason=reason,
                is_pending=is_pending,
                settle_at_s=settle_at_s,
                outbox=outbox,
                expanded=expanded,
            )

        task = asyncio.ensure_future(self._purge(named, record))
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)
        return await asyncio.shield(task)

    async def _purge(self, named: Sequence[tuple[str, str]], record: Callable[[], Awaitable[int]]) -> PurgedKeys:
        hashes = [hashed for hashed, _ in named]
        sizes = NOTHING
        try:
            seq = await record()
        except CacheUnavailable as refusal:
            # A full disk has room again once these files are deleted; they have to go in any case.
            sizes = await self._close_keys(hashes)
            self.make_room(refusal)
            try:
                seq = await record()
            except CacheUnavailable:
                self._unrecorded.begin(self._record_later, named, record)
                raise
        return await self._finish(named, seq, sizes)

    async def _finish(self, named: Sequence[tuple[str, str]], seq: int, already: Measured) -> PurgedKeys:
        """The record is durable: make it true here."""
        detached, gone = self._overtake([hashed for hashed, _ in named], seq)
        sizes = await measure(detached)
        self.housekeeping.collect(detached, [PurgedKey(hashed, key, seq) for hashed, key in named if hashed in gone])
        keys = tuple(key for _, key in named)
        return PurgedKeys(seq, keys, sizes.variants + already.variants, sizes.size_bytes + already.size_bytes)

    def _overtake(self, hashes: Sequence[str], seq: int) -> tuple[list[Detached], set[str]]:
        """
        Raise the epochs and take memory and directories out of reach, without an await in between.

        Returns the directories, and the keys of which none is left in reach.
        """
        for hashed in hashes:
            self.epochs.purge(hashed, seq)
            self.epochs.reopen(hashed)
            self._forget(hashed)
        detached: list[Detached] = []
        return detached, {hashed for hashed in hashes if self._detach(hashed, detached)}

    def _forget(self, hashed: str) -> None:
        self.hot.drop(hashed)
        for watcher in self._watchers:
            watcher(hashed)

    def _detach(self, hashed: str, detached: list[Detached]) -> bool:
        """Take a key's directory out of reach and add it to the list; whether nothing of it is in reach any more."""
        try:
            directory = self.store.detach(hashed)
        except CacheUnavailable:
            log.exception("the files of a purged key could not be renamed away; they are unreachable all the same")
            return False
        if directory is not None:
            detached.append(directory)
        return True

    async def _close_keys(self, hashes: Sequence[str]) -> Measured:
        """Answer with nothing of these keys until their purge is recorded, and delete their files now."""
        log.error("a purge cannot be recorded; its %d keys are closed until it can", len(hashes))
        detached: list[Detached] = []
        for hashed in hashes:
            self.epochs.close(hashed)
            self._forget(hashed)
            self._detach(hashed, detached)
        sizes = await measure(detached)
        await self.housekeeping.delete_now(detached)
        return sizes

    async def _record_later(self, named: Sequence[tuple[str, str]], record: Callable[[], Awaitable[int]]) -> None:
        wait_s = RECORD_AGAIN_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RECORD_AGAIN_MAX_S)
            if named and not any(self.epochs.is_closed(hashed) for hashed, _ in named):
                return  # whoever asked has asked again, with success
            try:
                seq = await record()
            except CacheUnavailable:
                continue
            await self._finish(named, seq, NOTHING)
            return

    def _collected(self, purged: Sequence[PurgedKey]) -> None:
        for item in purged:
            self.epochs.collected(item.key_hash, item.seq)

    def _detach_orphan(self, hashed: str) -> Detached | None:
        """A directory without valid facts: nothing in it counts. Checked again here, on the loop."""
        if self.store.facts(hashed) is not None or self.store.is_being_written(hashed):
            return None
        return self.store.detach(hashed)
