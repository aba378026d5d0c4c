"""
Which keys an entry has: asked of the keys API, remembered for when it can no longer be asked.

A key learnt after its entry was purged falls under that purge: what was fetched of it before is purged as it is learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from imgproxy.cache.entry import key_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgproxy.cache.cache import Cache

# Keys whose entry is known in memory, for the cache tags of answers: about 250 bytes each.
KNOWN_MAX = 200_000


class KeysApi(Protocol):
    """The Media Library, as far as it expands entries: a MediaLibraryClient."""

    async def keys(self, entry_id: str) -> tuple[str, ...]:
        """Every key of an entry."""


class EntryKeys:
    """The keys of entries, as the Media Library says and as last seen."""

    def __init__(self, cache: Cache, library: KeysApi) -> None:
        self._cache = cache
        self._library = library
        self._entries: LRUCache[str, str] = LRUCache(KNOWN_MAX)

    async def start(self) -> None:
        """Read what the journal remembers."""
        self._entries.update(await self._cache.journal.recent_entry_keys(KNOWN_MAX))

    def entry_of(self, key: str) -> str | None:
        """The entry of a key, where it is known."""
        return self._entries.get(key)

    async def last_seen(self, entry: str) -> tuple[str, ...]:
        """The keys last seen for an entry."""
        return await self._cache.journal.keys_of(entry)

    async def ask(self, entry: str) -> tuple[str, ...]:
        """
        The keys of an entry by the keys API, remembered.

        Raises:
            ImgproxyError: NotFound for an entry that does not exist (any more), or why the API gave no answer.
        """
        keys = await self._library.keys(entry)
        await self.learn(entry, keys)
        return keys

    async def learn(self, entry: str, keys: Iterable[str]) -> None:
        """Remember keys of an entry, and purge those that escaped an earlier purge of it by not being known then."""
        new = await self._cache.journal.remember_keys(entry, keys)
        self._entries.update(dict.fromkeys(new, entry))
        if not new:
            return
        purged_at = await self._cache.journal.last_purge_of_entry(entry)
        escaped = [
            key
            for key in new
            if (facts := self._cache.store.facts(key_hash(key))) is not None and facts.seq < purged_at
        ]
        if escaped:
            await self._cache.purge(escaped, reason="learnt", entry=entry)
