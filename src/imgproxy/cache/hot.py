"""The hot tier: variants in memory, limited by bytes. The least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from imgproxy.cache.entry import Variant

# What a variant takes beside its body: its facts, keys and dictionary entries. Measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1500


class HotPlace:
    """
    A variant's place in memory. `variant` becomes None for good when the variant is evicted, replaced or dropped.

    Code that keeps a place can see whether the variant is still there, and does not keep its bytes in memory.
    """

    __slots__ = ("name", "variant")

    def __init__(self, variant: Variant) -> None:
        self.name = (variant.key_hash, variant.facts.plan)
        self.variant: Variant | None = variant


class HotTier:
    """Variants by (key hash, plan digest)."""

    def __init__(self, max_bytes: int, item_max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.body_max_bytes = min(item_max_bytes, max_bytes) - ENTRY_OVERHEAD_BYTES  # larger bodies are not kept
        # Not a library's cache: a hit costs only a look and a move to the end.
        self._places: OrderedDict[tuple[str, str], HotPlace] = OrderedDict()
        # What a purge of a key drops: its variants, and those of other keys that have it as their watermark.
        self._names: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._used_bytes = 0

    def get(self, key_hash: str, plan: str) -> Variant | None:
        """The variant. It becomes the most recently used one."""
        place = self.place(key_hash, plan)
        return place.variant if place is not None else None

    def place(self, key_hash: str, plan: str) -> HotPlace | None:
        """The place of a variant. It becomes the most recently used one."""
        place = self._places.get((key_hash, plan))
        if place is not None:
            self._places.move_to_end(place.name)
        return place

    def used(self, place: HotPlace) -> None:
        """Note that the variant of this place was used. The place must not be empty."""
        self._places.move_to_end(place.name)

    def has_room(self, size_bytes: int) -> bool:
        """Whether a body of this size fits without an eviction."""
        return self._used_bytes + size_bytes + ENTRY_OVERHEAD_BYTES <= self._max_bytes

    def put(self, variant: Variant) -> HotPlace | None:
        """Keep a variant with a body. Return None, and keep nothing, if it has no body or is too large."""
        if variant.body is None or len(variant.body) > self.body_max_bytes:
            return None
        self._remove((variant.key_hash, variant.facts.plan))
        self._used_bytes += _cost_bytes(variant)
        while self._used_bytes > self._max_bytes:
            self._remove(next(iter(self._places)))
        place = HotPlace(variant)
        self._places[place.name] = place
        for source, _ in variant.proofs:
            self._names[source].add(place.name)
        return place

    def drop(self, key_hash: str) -> None:
        """Forget every variant made from this key, as picture or as watermark."""
        for name in tuple(self._names.get(key_hash, ())):
            self._remove(name)

    def clear(self) -> None:
        """Forget every variant."""
        for place in self._places.values():
            place.variant = None
        self._places.clear()
        self._names.clear()
        self._used_bytes = 0

    def _remove(self, name: tuple[str, str]) -> None:
        place = self._places.pop(name, None)
        if place is None or place.variant is None:
            return
        self._used_bytes -= _cost_bytes(place.variant)
        for source, _ in place.variant.proofs:
            self._names[source].discard(name)
            if not self._names[source]:
                del self._names[source]
        place.variant = None

    @property
    def sources(self) -> AbstractSet[str]:
        """The keys of which there are variants, as picture or as watermark."""
        return self._names.keys()

    def names(self) -> list[tuple[str, str]]:
        """Key hash and plan digest of every variant, the least recently used first."""
        return list(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes in use, including the overhead."""
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._places)


def _cost_bytes(variant: Variant) -> int:
    return ENTRY_OVERHEAD_BYTES + len(variant.body or b"")
