"""
Orders to prove keys at the origin, in this process.

The steps are those of a purge, but the files stay. First the record is durable. Then, without an await in between, the
number that an answer needs is raised, and the event is published. Only then does the caller hear of it.

Files of facts are not synced when they are written. So the journal keeps an order until facts that were proved after it
are on disk and synced: a crash must not bring back older facts which then count as proved.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.cache.directory import read_facts
from imgproxy.cache.journal_file import UnprovedKey
from imgproxy.cache.purge_event import Distrusted
from imgproxy.cache.threads import yielding_thread
from imgproxy.cache.trash import sync_directories
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from typing import Any

    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.cache.epochs import Epochs
    from imgproxy.cache.hot import HotTier
    from imgproxy.cache.journal import Journal
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.cache.purge_event import Event, Unproved
    from imgproxy.cache.store import CacheStore

log = logging.getLogger(__name__)

# Orders are forgotten together, this long after the first proof: each time costs a few syncs of the disk. While older
# work is under way the wait doubles, up to the maximum.
FORGET_AFTER_S = 1.0
FORGET_MAX_S = 30.0
FORGET_BATCH = 500
# Orders that nobody's request has made good yet, about 250 bytes each. With more of them, everything counts as unproved
# instead: a number for each key is no longer needed then.
ORDERS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class ProofOrder:
    """An order to prove keys, and its number. `purged`: the disk refused its record, and the keys were purged."""

    seq: int
    purged: PurgedKeys | None = None


class Orders:
    """Gives orders to prove keys, and forgets them when they are obeyed."""

    def __init__(
        self,
        store: CacheStore,
        hot: HotTier,
        journal: Journal,
        epochs: Epochs,
        *,
        unproved: Event[Unproved],
        distrusted: Event[Distrusted],
    ) -> None:
        self._store = store
        self._hot = hot
        self._journal = journal
        self._epochs = epochs
        self._unproved = unproved
        self._distrusted = distrusted
        self._under_way: set[asyncio.Task[int]] = set()
        self._thread = yielding_thread("orders to prove", 10)
        self._background = Background("orders to prove")
        self._to_forget: dict[str, None] = {}  # in this order
        self._is_forgetting = False
        self._is_closed = False

    def replay(self, unproved: Sequence[UnprovedKey]) -> None:
        """Go on with the orders that the journal has. Forget those that were obeyed before the restart."""
        for item in unproved:
            self.look_at(item.key_hash)

    async def close(self) -> None:
        """Stop. What is not forgotten stays in the journal."""
        self._is_closed = True
        await self._background.close()
        self._thread.shutdown()

    # --- orders ------------------------------------------------------------------------------------------------

    async def prove(self, items: Sequence[Unproved], record: Callable[[], Awaitable[int]]) -> int:
        """
        Give one order for these keys. `record` writes it and returns its number, which is returned.

        It goes on to its end even if the caller is cancelled.

        Raises:
            CacheUnavailable: the record could not be written. Nothing has happened.
        """

        async def order() -> int:
            seq = await record()
            for item in items:
                self._epochs.order(item.key_hash, seq)
                self._unproved.publish(item)
            for item in items:
                if self._store.known_facts(item.key_hash) is None:  # most often because it is not cached
                    self.look_at(item.key_hash)
            if self._epochs.orders > ORDERS_MAX:
                log.warning("%d pictures wait for a proof: everything cached is asked for again", self._epochs.orders)
                self._background.begin(self._distrust_all, "too many orders to prove")
            return seq

        return await self._to_the_end(order())

    async def distrust(self, reason: str) -> int:
        """
        Let everything cached count as unproved. It goes on to its end even if the caller is cancelled.

        Raises:
            CacheUnavailable: the record could not be written. Nothing has happened.
        """

        async def distrust() -> int:
            journal_id, seq = await self._journal.renew_id(reason)
            self._epochs.distrust(journal_id, seq)
            self._distrusted.publish(Distrusted())
            return seq

        return await self._to_the_end(distrust())

    async def _distrust_all(self, reason: str) -> None:
        await self.distrust(reason)

    async def _to_the_end(self, work: Coroutine[Any, Any, int]) -> int:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    # --- forgetting --------------------------------------------------------------------------------------------

    def look_at(self, key_hash: str) -> None:
        """Look soon whether the order of this key can be forgotten: it was proved, or nothing of it is cached."""
        if self._is_closed or self._epochs.ordered(key_hash) is None:
            return
        self._to_forget[key_hash] = None
        if not self._is_forgetting:
            self._is_forgetting = True
            self._background.begin(self._forget)

    async def _forget(self) -> None:
        wait_s = FORGET_AFTER_S
        try:
            while self._to_forget:
                await asyncio.sleep(wait_s)
                has_forgotten = await self._forget_some()
                wait_s = FORGET_AFTER_S if has_forgotten else min(wait_s * 2, FORGET_MAX_S)
        finally:
            self._is_forgetting = False

    async def _forget_some(self) -> bool:
        """Forget orders that were obeyed. Return whether any could be looked at."""
        oldest = self._epochs.oldest_at_work
        ripe: list[UnprovedKey] = []
        for key_hash in list(self._to_forget):
            seq = self._epochs.ordered(key_hash)
            if seq is None:
                del self._to_forget[key_hash]
            elif seq <= oldest and len(ripe) < FORGET_BATCH:
                del self._to_forget[key_hash]
                ripe.append(UnprovedKey(key_hash, seq))
        if not ripe:
            return False
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, self._look_at_disk, [item.key_hash for item in ripe])
        # Work that began before these orders has ended, so whatever is committed from now on was proved after them.
        obeyed = [item for item in ripe if item.key_hash in found and self._is_obeyed(item, found[item.key_hash])]
        try:
            await self._journal.mark_obeyed(obeyed)
        except CacheUnavailable:
            log.warning("%d orders to prove stay in the journal until the next start", len(obeyed))
            return True
        for item in obeyed:
            if self._store.known_facts(item.key_hash) is None:
                self._hot.drop(item.key_hash)  # it was kept for a proof that no longer has anything to prove
            self._epochs.obeyed(item.key_hash, item.seq)
        return True

    def _is_obeyed(self, item: UnprovedKey, on_disk: OriginalFacts | None) -> bool:
        """Whether the facts on disk are of a proof after this order, or there are none, in memory neither."""
        if self._epochs.ordered(item.key_hash) != item.seq:
            return False
        if on_disk is None:
            return self._store.known_facts(item.key_hash) is None
        return on_disk.journal_id == self._epochs.journal_id and on_disk.seq >= item.seq

    def _look_at_disk(self, hashes: Iterable[str]) -> dict[str, OriginalFacts | None]:
        """Read and sync the facts of these keys, in a thread. A key is missing in the result if that failed."""
        found: dict[str, OriginalFacts | None] = {}
        for key_hash in hashes:
            try:
                found[key_hash] = _synced_facts(self._store.path(key_hash, "facts"))
            except OSError:
                log.warning("facts cannot be synced; their order to prove stays in the journal")
        directories = [self._store.key_dir(key_hash) for key_hash in found]
        if not sync_directories([*directories, *{directory.parent for directory in directories}]):
            return {}
        return found


def _synced_facts(path: str) -> OriginalFacts | None:
    """Read a file of facts and make it durable. None if there is none, or no valid one. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        facts = read_facts(descriptor)
        os.fsync(descriptor)
        return facts
    finally:
        os.close(descriptor)
