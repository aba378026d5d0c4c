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
        self._plans: defaultdict[str, set[str]] = defaultdict(set)
        self._variants = _ForgettingLRU(max_bytes, self._plans)

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
        self._variants[variant.key_hash, variant.facts.plan] = variant
        self._plans[variant.key_hash].add(variant.facts.plan)

    def drop(self, key_hash: str) -> int:
        """Forget every variant of a key; how many there were."""
        plans = self._plans.pop(key_hash, set())
        return sum(self._variants.pop((key_hash, plan), None) is not None for plan in plans)

    @property
    def used_bytes(self) -> int:
        """Bytes in use, overhead counted."""
        return int(self._variants.currsize)

    def __len__(self) -> int:
        return len(self._variants)


class _ForgettingLRU(LRUCache[tuple[str, str], "Variant"]):
    """An LRU that also takes an evicted variant off its key's list."""

    def __init__(self, max_bytes: int, plans: defaultdict[str, set[str]]) -> None:
        super().__init__(max_bytes, getsizeof=_cost_bytes)
        self._plans = plans

    def popitem(self) -> tuple[tuple[str, str], Variant]:
        name, variant = super().popitem()
        key_hash, plan = name
        self._plans[key_hash].discard(plan)
        if not self._plans[key_hash]:
            del self._plans[key_hash]
        return name, variant


def _cost_bytes(variant: Variant) -> int:
    return ENTRY_OVERHEAD_BYTES + len(variant.body or b"")
