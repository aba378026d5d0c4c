"""
The memo: answers that only need to be written, by raw target and Accept class.

An entry holds the head of an answer, and where its body is: in the hot tier or on disk. It holds no body. So memory
stays bounded by the hot tier, and what a purge drops there is gone here. An entry is good while its original is fresh
and no purge has come. If the body is not in the hot tier, the entry also needs the very facts of the original and the
very file that it was prepared from.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.cache.entry import Tier, Variant, key_hash
from imgproxy.edge.headers import cache_status, etag_matches, head_bytes, http_date, is_in_304

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.hot import HotPlace
    from imgproxy.edge.respond import PlainAnswer
    from imgproxy.params.negotiate import AcceptClass

# What an entry takes in memory besides its target and heads, and more if it came from disk: the entry, the facts and
# the file of its variant with their names, the dictionary. Measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1_000
FILE_OVERHEAD_BYTES = 500
# The memo may take this share of the hot tier's memory; at least so much that some 5,000 variants on disk are answered.
MAX_SHARE_OF_HOT = 1 / 16
MAX_BYTES_LEAST = 8_000_000
# Keys that are remembered as forgotten. An entry that is prepared later than the one that leaves is known to be good.
FORGOTTEN_MAX = 20_000
# Longer ago than any number of reads.
NEVER_READ = -(1 << 62)
# These change from second to second.
_CHANGING = frozenset({"Date", "Cache-Status", "Server-Timing"})
# Bound once: a look into an enumeration counts here.
_MEMORY: Final = Tier.MEMORY
_DISK: Final = Tier.DISK

# An entry, where its body was found, head, rest of the head, and body; the body of a 304 is empty.
Found: TypeAlias = "tuple[PreparedAnswer, Tier, bytes, bytes, bytes | bytearray]"


class PreparedAnswer:
    """An answer whose head is ready, but for what changes with each second."""

    __slots__ = (
        "etag",
        "facts",
        "file",
        "fresh_since_s",
        "fresh_until_s",
        "head",
        "head_304",
        "key_hash",
        "made_at_s",
        "place",
        "proofs",
        "read_number",
        "variant_facts",
    )

    def __init__(self, answer: PlainAnswer) -> None:
        variant = answer.variant
        self.variant_facts = variant.facts
        self.file = variant.file
        self.facts = answer.original
        self.key_hash = variant.key_hash
        self.proofs = variant.proofs
        self.etag = answer.etag
        self.place: HotPlace | None = None
        self.made_at_s = time.time()  # Unix time, as are the two others
        self.fresh_since_s = self.made_at_s - 1.0
        self.fresh_until_s = answer.fresh_until_s
        lasting = {name: value for name, value in answer.headers.items() if name not in _CHANGING}
        self.head = head_bytes("200 OK", lasting | {"Content-Length": str(variant.facts.size_bytes)})
        self.head_304 = head_bytes(
            "304 Not Modified", {name: value for name, value in lasting.items() if is_in_304(name)}
        )
        self.read_number = NEVER_READ

    @property
    def cost_bytes(self) -> int:
        """What the entry takes in memory, but for its target."""
        return ENTRY_OVERHEAD_BYTES + (FILE_OVERHEAD_BYTES if self.file else 0) + len(self.head) + len(self.head_304)

    def variant(self, body: bytes) -> Variant:
        """Return the variant with its body."""
        return Variant(self.variant_facts, self.key_hash, self.proofs, body=body, file=self.file)


def memo_bytes(hot_max_bytes: int) -> int:
    """Return what a memo may take beside a hot tier of this size."""
    return max(MAX_BYTES_LEAST, int(hot_max_bytes * MAX_SHARE_OF_HOT))


class AnswerMemo:
    """Prepared answers, bounded by their bytes; the one used longest ago leaves first."""

    def __init__(self, cache: Cache, max_bytes: int) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        # Both have the least recently used first. A library's cache would cost a hit as much as all the rest of it.
        self._entries: OrderedDict[tuple[str, AcceptClass], PreparedAnswer] = OrderedDict()
        self._forgotten_at_s: OrderedDict[str, float] = OrderedDict()
        self._last_forgotten_at_s = 0.0
        # The ends of heads for the present second, by the rest of the freshness and the tier.
        self._second = -1
        self._ends: dict[tuple[int, Tier], bytes] = {}
        self.used_bytes = 0
        self._reads = 0

    def put(self, answer: PlainAnswer) -> PreparedAnswer:
        """Remember an answer whose variant is in the hot tier, or was read from disk."""
        assert len(answer.variant.proofs) == 1, "a purge finds an entry by one key, so it must have one original"
        entry = PreparedAnswer(answer)
        entry.place = self._place_of(entry)
        self._drop((answer.target, answer.accept))
        self._entries[answer.target, answer.accept] = entry
        self.used_bytes += len(answer.target) + entry.cost_bytes
        while self.used_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        return entry

    def _drop(self, name: tuple[str, AcceptClass]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.used_bytes -= len(name[0]) + entry.cost_bytes

    def forget(self, key: str) -> None:
        """Forget what is prepared for this key: its entry has become known, and so its answers have one more tag."""
        hashed = key_hash(key)
        self._last_forgotten_at_s = self._forgotten_at_s[hashed] = time.time()
        self._forgotten_at_s.move_to_end(hashed)
        if len(self._forgotten_at_s) > FORGOTTEN_MAX:
            self._forgotten_at_s.popitem(last=False)

    def find(self, target: str, accept: AcceptClass, if_none_match: str | None) -> Found | None:
        """Return what answers this request, if it is a hit that was answered before and still stands."""
        name = (target, accept)
        entry = self._entries.get(name)
        if entry is None:
            return None
        now_s = time.time()
        if not self._stands(entry, now_s):
            self._drop(name)
            return None
        place = entry.place
        variant = place.variant if place is not None else None
        if place is None or variant is None or variant.body is None:
            found = self._find_beyond(entry, if_none_match, now_s)
            if found is None:
                self._drop(name)
            return found
        self._cache.hot.used(place)
        self._entries.move_to_end(name)
        # Equal text is the rule; only other text is compared as a list of tags.
        if if_none_match is not None and (if_none_match == entry.etag or etag_matches(if_none_match, entry.etag)):
            return entry, _MEMORY, entry.head_304, self._end(entry, _MEMORY, now_s), b""
        return entry, _MEMORY, entry.head, self._end(entry, _MEMORY, now_s), variant.body

    def _stands(self, entry: PreparedAnswer, now_s: float) -> bool:
        """Whether the entry is fresh, complete, and no purge has come."""
        # The present before the entry's beginning means that the clock was set back.
        if not entry.fresh_since_s <= now_s < entry.fresh_until_s:
            return False
        if entry.made_at_s <= self._last_forgotten_at_s and entry.made_at_s <= self._forgotten_at_s.get(
            entry.key_hash, 0.0
        ):
            return False
        return self._cache.epochs.all_hold(entry.proofs)

    def _find_beyond(self, entry: PreparedAnswer, if_none_match: str | None, now_s: float) -> Found | None:
        """
        Return the answer if the variant has left the hot tier: a 304 needs no body; else it is read from its file.

        An epoch is forgotten once nothing of its key is left on disk, so it proves too little here. But every change
        to an original, a purge included, gives it another facts object than this one.
        """
        if self._cache.store.known_facts(entry.key_hash) is not entry.facts:
            return None
        if if_none_match is not None and etag_matches(if_none_match, entry.etag):
            return entry, _MEMORY, entry.head_304, self._end(entry, _MEMORY, now_s), b""
        entry.place = self._place_of(entry)
        if entry.place is not None and (again := entry.place.variant) is not None and again.body is not None:
            return entry, _MEMORY, entry.head, self._end(entry, _MEMORY, now_s), again.body
        body = self._cache.store.read_unchanged(entry.file) if entry.file is not None else None
        if body is None:
            return None
        self._keep_hot(entry, body)
        return entry, _DISK, entry.head, self._end(entry, _DISK, now_s), body

    def _keep_hot(self, entry: PreparedAnswer, body: bytes | bytearray) -> None:
        """
        Put a body into the hot tier if it was read twice within as many reads as fit there.

        One that is read less often would leave before the next read, and only push others out.
        """
        hot = self._cache.hot
        self._reads += 1
        distance = self._reads - entry.read_number
        if hot.has_room(len(body)) or distance <= len(hot):
            entry.place = hot.put(entry.variant(bytes(body)))
        entry.read_number = self._reads

    def _place_of(self, entry: PreparedAnswer) -> HotPlace | None:
        """Return the place of this entry's variant in the hot tier, if that is made from the same original."""
        facts = entry.variant_facts
        place = self._cache.hot.place(entry.key_hash, facts.plan)
        kept = place.variant if place is not None else None
        return place if kept is not None and kept.facts.original == facts.original else None

    def _end(self, entry: PreparedAnswer, tier: Tier, now_s: float) -> bytes:
        """Return the lines of the head that change, made once a second for all entries of the same freshness."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._ends.clear()
        name = (int(entry.fresh_until_s - second), tier)
        end = self._ends.get(name)
        if end is None:
            status = cache_status(is_hit=True, ttl_s=name[0], detail=tier)
            text = f"Date: {http_date(second)}\r\nServer-Timing: {tier}\r\nCache-Status: {status}\r\n\r\n"
            end = self._ends[name] = text.encode("latin-1")
        return end

    def __len__(self) -> int:
        return len(self._entries)
