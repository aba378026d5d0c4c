"""The hot tier: variants in memory, least recently used out first, bounded by their bytes."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.cache.entry import Variant

# What an entry costs beside its body: the objects of its facts, keys and two dictionaries, measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1500


class HotPlace:
    """
    A variant's place in memory, emptied for good when the variant is evicted, replaced or dropped.

    Whoever holds a place sees at a glance whether its variant is still there, and keeps no byte of it alive.
    """

    __slots__ = ("name", "variant")

    def __init__(self, variant: Variant) -> None:
        self.name = (variant.key_hash, variant.facts.plan)
        self.variant: Variant | None = variant


class HotTier:
    """Variants by (key hash, plan digest)."""

    def __init__(self, max_bytes: int, item_max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._item_max_bytes = min(item_max_bytes, max_bytes)
        # An OrderedDict of our own, as a hit must cost no more than a look and a move to the end.
        self._places: OrderedDict[tuple[str, str], HotPlace] = OrderedDict()
        # What a purge of a key takes away: its variants, and those of other keys that it went into as a watermark.
        self._names: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._used_bytes = 0

    def get(self, key_hash: str, plan: str) -> Variant | None:
        """The variant, which is now the most recently used one."""
        place = self.place(key_hash, plan)
        return place.variant if place is not None else None

    def place(self, key_hash: str, plan: str) -> HotPlace | None:
        """The place of a variant, which is now the most recently used one."""
        place = self._places.get((key_hash, plan))
        if place is not None:
            self._places.move_to_end(place.name)
        return place

    def used(self, place: HotPlace) -> None:
        """The variant of this place, which is not empty, was used."""
        self._places.move_to_end(place.name)

    def accepts(self, size_bytes: int) -> bool:
        """Whether a body of this size belongs in memory."""
        return size_bytes + ENTRY_OVERHEAD_BYTES <= self._item_max_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether a body of this size could be kept without another one leaving."""
        return self._used_bytes + size_bytes + ENTRY_OVERHEAD_BYTES <= self._max_bytes

    def put(self, variant: Variant) -> HotPlace | None:
        """Keep a variant whose body is in memory; one that is too large is not kept, and has no place."""
        if variant.body is None or not self.accepts(len(variant.body)):
            return None
        self._remove((variant.key_hash, variant.facts.plan))
        self._used_bytes += _cost_bytes(variant)
        while self._used_bytes > self._max_bytes:
            self._remove(next(iter(self._places)))
        place = HotPlace(variant)
        self._places[place.name] = place
        for source in _sources(variant):
            self._names[source].add(place.name)
        return place

    def drop(self, key_hash: str) -> int:
        """Forget every variant that a key has a part in; how many there were."""
        names = list(self._names.get(key_hash, ()))
        for name in names:
            self._remove(name)
        return len(names)

    def _remove(self, name: tuple[str, str]) -> None:
        place = self._places.pop(name, None)
        if place is None or place.variant is None:
            return
        self._used_bytes -= _cost_bytes(place.variant)
        for source in _sources(place.variant):
            self._names[source].discard(name)
            if not self._names[source]:
                del self._names[source]
        place.variant = None

    def names(self) -> list[tuple[str, str]]:
        """Key hash and plan digest of every variant here, the one used longest ago first."""
        return list(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes in use, overhead counted."""
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._places)


def _sources(variant: Variant) -> list[str]:
    """The hashes of the keys that a variant was made from."""
    return [variant.key_hash, *(hashed for hashed, _ in variant.also)]


def _cost_bytes(variant: Variant) -> int:
    return ENTRY_OVERHEAD_BYTES + len(variant.body or b"")
