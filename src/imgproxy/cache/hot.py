"""The hot tier: variants in memory, least recently used out first, bounded by their bytes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from imgproxy.cache.entry import Variant

# What an entry costs beside its body: the objects of its facts, keys and two dictionaries, measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1500


class HotTier:
    """Variants by (key hash, plan digest)."""

    def __init__(self, max_bytes: int, item_max_bytes: int) -> None:
        self._item_max_bytes = min(item_max_bytes, max_bytes)
        # What a purge of a key takes away: its variants, and those of other keys that it went into as a watermark.
        self._names: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._variants = _ForgettingLRU(max_bytes, self._names)

    def get(self, key_hash: str, plan: str) -> Variant | None:
        """The variant, which is now the most recently used one."""
        return self._variants.get((key_hash, plan))

    def accepts(self, size_bytes: int) -> bool:
        """Whether a body of this size belongs in memory."""
        return size_bytes + ENTRY_OVERHEAD_BYTES <= self._item_max_bytes

    def put(self, variant: Variant) -> None:
        """Keep a variant whose body is in memory; one that is too large is not kept."""
        if variant.body is None or not self.accepts(len(variant.body)):
            return
        name = (variant.key_hash, variant.facts.plan)
        self._variants[name] = variant
        for source in _sources(variant):
            self._names[source].add(name)

    def drop(self, key_hash: str) -> int:
        """Forget every variant that a key has a part in; how many there were."""
        names = self._names.pop(key_hash, set())
        return sum(self._variants.pop(name, None) is not None for name in names)

    @property
    def used_bytes(self) -> int:
        """Bytes in use, overhead counted."""
        return int(self._variants.currsize)

    def __len__(self) -> int:
        return len(self._variants)


class _ForgettingLRU(LRUCache[tuple[str, str], "Variant"]):
    """An LRU that also takes an evicted variant off the lists of its keys."""

    def __init__(self, max_bytes: int, names: defaultdict[str, set[tuple[str, str]]]) -> None:
        super().__init__(max_bytes, getsizeof=_cost_bytes)
        self._names = names

    def popitem(self) -> tuple[tuple[str, str], Variant]:
        name, variant = super().popitem()
        for source in _sources(variant):
            self._names[source].discard(name)
            if not self._names[source]:
                del self._names[source]
        return name, variant


def _sources(variant: Variant) -> list[str]:
    """The hashes of the keys that a variant was made from."""
    return [variant.key_hash, *(hashed for hashed, _ in getattr(variant, "also", ()))]


def _cost_bytes(variant: Variant) -> int:
    return ENTRY_OVERHEAD_BYTES + len(variant.body or b"")
