"""
Many old purges at once, of a node that was away. It has no file of most of their keys.

A key with a directory is purged as always. For the others there is nothing to rename, and their names are not written
into the journal. Two things replace that record:

- Work under way may bring old bytes of such a key. So the epochs of all keys are raised, in memory. What was committed
  between the look at the disk and that moment is found in memory, and purged as always.
- After a loss of power, a directory that was deleted a moment before may be there again. So the caller does not write
  down that these purges are done before `sync` has returned. A run that ends before that gets them again.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from imgproxy.cache.entry import key_hash
from imgproxy.cache.purge_event import PurgedMany
from imgproxy.cache.trash import sync_directories
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path
    from typing import TypeAlias

    from imgproxy.cache.epochs import Epochs
    from imgproxy.cache.hot import HotTier
    from imgproxy.cache.purge import PurgedKeys
    from imgproxy.cache.purge_event import Event
    from imgproxy.cache.store import CacheStore

    # Purges keys as always, with a record in the journal. The keys may be none.
    Purge: TypeAlias = Callable[[Sequence[str]], Awaitable[PurgedKeys]]


class ManyPurges:
    """Purges many keys together."""

    def __init__(self, store: CacheStore, hot: HotTier, epochs: Epochs, purged_many: Event[PurgedMany]) -> None:
        self._store = store
        self._hot = hot
        self._epochs = epochs
        self._purged_many = purged_many

    async def run(self, keys: Iterable[str], purge: Purge) -> AbstractSet[str]:
        """
        Purge these keys, and return their hashes.

        When this returns, no answer can begin with anything that was fetched before the call. This does not survive a
        crash until `sync` has returned, except for the keys that have files.

        Raises:
            CacheUnavailable: as `Cache.purge`. Not all keys are purged then.
        """
        by_hash = {key_hash(key): key for key in keys}
        on_disk = await asyncio.to_thread(_names_in, self._store.keys_dir)
        hashes = by_hash.keys()
        present = set(hashes) if on_disk is None else hashes & on_disk
        present |= self._known_in_memory(hashes)
        purged = await purge([by_hash[hashed] for hashed in present])
        absent = hashes - present
        committed = self._known_in_memory(absent)
        self._epochs.purge_many(absent, purged.seq)
        for hashed in self._hot.sources & absent:
            self._hot.drop(hashed)
        self._purged_many.publish(PurgedMany(absent))
        if committed:
            await purge([by_hash[hashed] for hashed in committed])
        self._epochs.collected_many(absent - committed, purged.seq)
        return hashes

    def _known_in_memory(self, hashes: AbstractSet[str]) -> set[str]:
        """Return those of which this run has committed something, or could not record a purge."""
        return {*(hashes & self._store.keys_in_memory), *(hashes & self._epochs.closed_keys)}

    async def sync(self) -> None:
        """
        Make sure that what is not on disk now stays away, also after a loss of power.

        Raises:
            CacheUnavailable: the disk refuses.
        """
        if not await asyncio.to_thread(_sync, self._store.keys_dir):
            raise CacheUnavailable


def _names_in(keys_dir: Path) -> set[str] | None:
    """Return the hashes of all keys that have a directory. None if that cannot be read."""
    names: set[str] = set()
    try:
        for shard in os.listdir(keys_dir):
            names.update(os.listdir(keys_dir / shard))
    except OSError:
        return None
    return names


def _sync(keys_dir: Path) -> bool:
    try:
        shards = os.listdir(keys_dir)
    except OSError:
        return False
    return sync_directories([keys_dir, *(keys_dir / shard for shard in shards)])
