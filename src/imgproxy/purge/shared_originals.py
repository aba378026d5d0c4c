"""
Known originals in a cluster: what the latest fetch of a key has found, at any node.

    fetch or revalidation  ->  noted in memory  ->  written to the database, those of a moment together
    event at any node  ->  read from there

Nothing waits for the writes, and a hit has nothing to do with them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from imgproxy.background import Background
from imgproxy.cache.entry import key_hash
from imgproxy.cluster.facts import Validators
from imgproxy.cluster.log import LogUnavailable
from imgproxy.purge.known_originals import KnownOriginal, known_original

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.cache.purge_event import Purged, PurgedAll, PurgedMany
    from imgproxy.cluster.facts import SharedFacts
    from imgproxy.purge.entry_keys import EntryKeys

log = logging.getLogger(__name__)

WRITE_AFTER_S: Final = 0.25
RETRY_MAX_S: Final = 30.0
# Keys that are written in one statement, and keys that wait while the database cannot be reached.
TOGETHER_MAX: Final = 500
WAITING_MAX: Final = 20_000
# Keys of which this process knows what is written: about 300 bytes each.
WRITTEN_MAX: Final = 50_000


class SharedOriginals:
    """The originals that any node knows."""

    def __init__(self, facts: SharedFacts, cache: Cache, entries: EntryKeys, *, settle_s: float) -> None:
        """An original that became known within the last `settle_s` is left out. See CachedOriginals."""
        self._facts = facts
        self._cache = cache
        self._entries = entries
        self._settle_s = settle_s
        self._waiting: dict[str, Validators] = {}
        self._written: LRUCache[str, Validators] = LRUCache(WRITTEN_MAX)
        self._background = Background("validators of originals")
        cache.purged.subscribe(self._forget)
        cache.purged_all.subscribe(self._forget_all)
        cache.purged_many.subscribe(self._forget_all)

    async def find(self, keys: Sequence[str]) -> Mapping[str, KnownOriginal]:
        """
        Return the originals of these keys that have had the same bytes at every node since the last purge.

        A node may have fetched the new bytes of a changed picture, while another one still serves the old ones. So what
        is cached here is no answer, and without the database nothing is known.
        """
        await self._write()
        try:
            noted = await self._facts.validators(keys)
        except LogUnavailable as error:
            log.info("the originals of %d keys are not known: %s", len(keys), error)
            return {}
        found = {}
        for key, item in noted.items():
            here = self._cache.facts(key_hash(key))
            is_same_here = here is None or here.digest == item.digest
            if item.digest is not None and is_same_here and item.age_s >= self._settle_s and key not in self._waiting:
                found[key] = KnownOriginal(item.digest, item.etag, item.last_modified)
        return found

    def note(self, facts: OriginalFacts) -> None:
        """Note what a fetch has found. It is written behind the answer, if it is new."""
        known = known_original(facts)
        found = Validators(known.digest, known.etag, known.last_modified)
        if self._written.get(facts.key) == found or len(self._waiting) >= WAITING_MAX:
            return
        is_first = not self._waiting
        self._waiting[facts.key] = found
        if is_first:
            self._background.begin(self._write_soon)

    async def close(self) -> None:
        """Write what is waiting."""
        await self._background.close()
        await self._write()

    def _forget(self, purged: Purged) -> None:
        self._written.pop(purged.key, None)
        self._waiting.pop(purged.key, None)

    def _forget_all(self, _purged: PurgedAll | PurgedMany) -> None:
        self._written.clear()
        self._waiting.clear()

    async def _write_soon(self) -> None:
        wait_s = WRITE_AFTER_S
        while self._waiting:
            await asyncio.sleep(wait_s)
            await self._write()
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def _write(self) -> None:
        """Write what is waiting, and ask for the entries of these keys, for the cache tags of their answers."""
        while self._waiting:
            found = {key: self._waiting[key] for key in list(self._waiting)[:TOGETHER_MAX]}
            try:
                await self._facts.note_validators(found)
                unknown = [key for key in found if self._entries.entry_of(key) is None]
                entries = await self._facts.entries_of(unknown) if unknown else {}
            except LogUnavailable:
                return
            for key, item in found.items():
                if self._waiting.get(key) is item:
                    del self._waiting[key]
                    self._written[key] = item
            for key, names in entries.items():
                self._entries.note(names[0], [key])
