"""Which keys an entry has: by the keys API, and as last seen, for when the API does not know the entry any more."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from imgproxy.errors import BadUrl, OriginStatus
from imgproxy.medialibrary.errors import LibraryNotFound
from imgproxy.params.parse import check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.purge.shared_keys import SharedKeys

log = logging.getLogger(__name__)

# Keys whose entry is kept in memory, for the cache tags of answers: about 250 bytes each.
KNOWN_MAX = 200_000
# Of a row that is no key so many characters are shown, and of such rows so many in a log line.
SHOWN_CHARS = 200
# No Media Library has longer ids. With 4 bytes a character, an index of the cluster's database can hold it with a key.
ENTRY_ID_CHARS = 120
SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class ListedKeys:
    """
    What the keys API lists for an entry.

    `malformed` are the rows that are no keys, as text that can be written anywhere. There is nothing to purge for them:
    every request for such a key is refused.
    """

    keys: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()


def is_entry_id(text: str) -> bool:
    """Whether a text may be an entry's id. The keys API cannot be asked about others; their purge would never end."""
    return len(text) <= ENTRY_ID_CHARS and text.isprintable() and "/" not in text and text not in {"", ".", ".."}


class KeysApi(Protocol):
    """The keys API of the Media Library: a MediaLibraryClient."""

    async def keys(self, entry_id: str) -> Sequence[object]:
        """List every key of an entry. A row may be no key."""


class EntryKeys:
    """The keys of entries."""

    def __init__(
        self,
        cache: Cache,
        library: KeysApi,
        *,
        on_known: Callable[[str], None] = lambda _key: None,
        shared: SharedKeys | None = None,
    ) -> None:
        """
        `on_known(key)` is called when the entry of a key becomes known: answers of the key then get another tag.

        `shared`: the keys that the nodes of a cluster have seen.
        """
        self._shared = shared
        self._cache = cache
        self._library = library
        self._entries: LRUCache[str, str] = LRUCache(KNOWN_MAX)
        self._on_known = on_known

    async def start(self) -> None:
        """Read the keys that the journal remembers."""
        self._entries.update(await self._cache.journal.recent_entry_keys(KNOWN_MAX))

    def entry_of(self, key: str) -> str | None:
        """Return the entry of a key, if it is known."""
        return self._entries.get(key)

    def known(self, search: str, count: int) -> list[tuple[str, str]]:
        """Return at most `count` pairs of a key and its entry, where the key has a text, in upper or lower case."""
        wanted = search.lower()
        return list(islice(((key, entry) for key, entry in self._entries.items() if wanted in key.lower()), count))

    async def last_seen(self, entry: str) -> tuple[str, ...]:
        """Return the keys that this node has last seen for an entry."""
        return await self._cache.journal.keys_of(entry)

    async def seen_elsewhere(self, entry: str) -> tuple[str, ...]:
        """Return the keys that any node of the cluster has seen for an entry. Raises LogUnavailable."""
        return await self._shared.of(entry) if self._shared is not None else ()

    async def ask(self, entry: str) -> ListedKeys:
        """
        Ask the keys API for the keys of an entry. A row that is no key does not hide the others.

        Raises:
            NotFound: the Media Library says that the entry does not exist.
            ImgproxyError: the API could not be asked. A 404 from something in between, for example a load balancer
                without backends, is such an error: it says nothing about the entry.
        """
        try:
            rows = await self._library.keys(entry)
        except LibraryNotFound as error:
            if error.is_api_answer:
                raise
            raise OriginStatus(404) from error
        listed = ListedKeys(
            tuple(row for row in rows if isinstance(row, str) and _is_key(row)),
            tuple(_shown(row) for row in rows if not isinstance(row, str) or not _is_key(row)),
        )
        if listed.malformed:
            log.warning(
                "the keys API lists %d keys of entry %s that are malformed and were left out: %s",
                len(listed.malformed),
                entry,
                listed.malformed[:SHOWN_ROWS],
            )
        return listed

    async def remember(self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None) -> None:
        """Write keys of an entry into the journal. `finished_seq` as in `Journal.remember_keys`."""
        new = await self._cache.journal.remember_keys(entry, keys, finished_seq=finished_seq)
        self.note(entry, new)
        if new and self._shared is not None:
            await self._shared.remember(entry, new)

    def note(self, entry: str, new: Iterable[str]) -> None:
        """Keep keys in memory, and that they are of this entry."""
        for key in new:
            if self._entries.get(key) != entry:
                self._entries[key] = entry
                self._on_known(key)


def _is_key(text: str) -> bool:
    """Whether a request can name this key. Only then can anything of it be cached."""
    try:
        return check_path(text) == text
    except BadUrl:
        return False


def _shown(row: object) -> str:
    """Show a row of the keys API. Half of a surrogate pair, which cannot be written as UTF-8, becomes its escape."""
    text = row if isinstance(row, str) else json.dumps(row)
    return text[:SHOWN_CHARS].encode("utf-8", "backslashreplace").decode()
