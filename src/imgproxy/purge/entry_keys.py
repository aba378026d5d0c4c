"""
Which keys an entry has: asked of the keys API, remembered for when it can no longer be asked.

A key learnt after its entry was purged falls under that purge: what was fetched of it before is purged as it is learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from imgproxy.errors import OriginStatus
from imgproxy.medialibrary.errors import NotFound as LibraryNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from imgproxy.cache.cache import Cache

# Keys whose entry is known in memory, for the cache tags of answers: about 250 bytes each.
KNOWN_MAX = 200_000


def is_entry_id(text: str) -> bool:
    """Whether a text may be the id of an entry: what the keys API cannot be asked about would stay pending for ever."""
    return text.isprintable() and "/" not in text and text not in {"", ".", ".."}


class KeysApi(Protocol):
    """The Media Library, as far as it expands entries: a MediaLibraryClient."""

    async def keys(self, entry_id: str) -> tuple[str, ...]:
        """Every key of an entry."""


class PurgeKeysOf(Protocol):
    """Purges keys of an entry: `Cache.purge`, or the purge service that also tells the caches in front."""

    def __call__(self, keys: Sequence[str], *, reason: str, entry: str | None) -> Awaitable[object]:
        """Forget these keys."""


class EntryKeys:
    """The keys of entries, as the Media Library says and as last seen."""

    def __init__(self, cache: Cache, library: KeysApi) -> None:
        self._cache = cache
        self._library = library
        self._entries: LRUCache[str, str] = LRUCache(KNOWN_MAX)
        self._purge: PurgeKeysOf = cache.purge
        self._on_learnt: Callable[[str], None] = lambda _key: None

    def watch(self, on_learnt: Callable[[str], None]) -> None:
        """Have `on_learnt(key)` called when a key's entry becomes known, as its answers then carry another tag."""
        self._on_learnt = on_learnt

    def purge_with(self, purge: PurgeKeysOf) -> None:
        """Have purges that begin here, because a key was learnt late, done by the purge service."""
        self._purge = purge

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
        The keys of an entry by the keys API.

        Raises:
            ImgproxyError: NotFound for an entry that does not exist (any more), or why the API gave no answer. The 404
                of something in between (a load balancer whose backend is gone) says nothing of the entry.
        """
        try:
            return await self._library.keys(entry)
        except LibraryNotFound as error:
            if error.is_api_answer:
                raise
            raise OriginStatus(404) from error

    async def remember(self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None) -> tuple[str, ...]:
        """Remember keys of an entry; returns those that were new. `finished_seq` as in `Journal.remember_keys`."""
        new = await self._cache.journal.remember_keys(entry, keys, finished_seq=finished_seq)
        self.note(entry, new)
        return new

    def note(self, entry: str, new: Iterable[str]) -> None:
        """These keys of an entry are in the journal now, and were not before."""
        for key in new:
            self._entries[key] = entry
            self._on_learnt(key)

    async def learn(self, entry: str) -> tuple[str, ...]:
        """
        Ask for the keys of an entry and remember them, outside of a purge of it.

        Those that were not known at an earlier purge of the entry escaped it, here or in a cache in front: they are
        purged now, before they count as known. Raises as `ask`.
        """
        keys = await self.ask(entry)
        known = await self.last_seen(entry)
        new = [key for key in keys if key not in known]
        if new and await self._cache.journal.last_purge_of_entry(entry):
            await self._purge(new, reason="learnt", entry=entry)
        await self.remember(entry, keys)
        return keys
