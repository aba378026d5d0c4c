"""Known originals: which bytes a key had before an event, and by which validators the origin can confirm them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgproxy.cache.entry import key_hash
from imgproxy.medialibrary.moments import is_proof

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import OriginalFacts


@dataclass(frozen=True, slots=True)
class KnownOriginal:
    """
    The original of a key: the digest of its bytes, and the origin's validators for a conditional request.

    Only validators that change with every change of the bytes are here (strong ones, RFC 9110 8.8.1). Without one, the
    bytes themselves have to be compared.
    """

    digest: str
    etag: str | None = None
    last_modified: str | None = None


class KnownOriginals(Protocol):
    """Where originals are known from."""

    async def find(self, keys: Sequence[str]) -> Mapping[str, KnownOriginal]:
        """
        Return the originals of these keys, as far as they are known.

        A key must be missing if any answer of it may still be in use somewhere that was made from other bytes.
        """

    def note(self, facts: OriginalFacts) -> None:
        """Note what a fetch has found."""

    async def close(self) -> None:
        """Keep what was noted."""


class CachedOriginals:
    """The originals in this edge's cache."""

    def __init__(self, cache: Cache, *, settle_s: float) -> None:
        """An original that was fetched within the last `settle_s` is left out."""
        self._cache = cache
        self._settle_s = settle_s

    async def find(self, keys: Sequence[str]) -> Mapping[str, KnownOriginal]:
        """
        Return the cached originals of these keys. Their bytes may have been evicted.

        An original that was fetched only just now may be from after the change that an event tells of. What the caches
        in front have may be older, so it is no proof for them.
        """
        fetched_before_s = time.time() - self._settle_s
        found = {}
        for key in keys:
            facts = self._cache.facts(key_hash(key))
            if facts is None or facts.fetched_at_s > fetched_before_s:
                continue
            found[key] = known_original(facts)
        return found

    def note(self, facts: OriginalFacts) -> None:
        """Do nothing: the cache has it."""

    async def close(self) -> None:
        """Do nothing."""


def known_original(facts: OriginalFacts) -> KnownOriginal:
    """Return an original with those of its validators that change with the bytes."""
    is_strong = facts.etag is not None and not facts.etag.startswith("W/")
    date = facts.last_modified if is_proof(facts.last_modified, facts.fetched_at_s) else None
    return KnownOriginal(facts.digest, facts.etag if is_strong else None, date)
