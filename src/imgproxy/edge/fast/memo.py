"""
The memo: prepared answers, by request target and Accept class.

An entry has the head of an answer, and the place of its body: in the hot tier or on disk. It has no body. So the hot
tier bounds the memory of bodies, and a body that a purge removes there is gone here too. An entry is valid while its
original is fresh and no purge has come. If the body is not in the hot tier, the facts of the original and the file must
also be the same as when the entry was prepared.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.cache.entry import Tier, Variant, key_hash
from imgproxy.edge.headers import cache_status, etag_matches, head_bytes, http_date, is_in_304

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.hot import HotPlace
    from imgproxy.edge.exchange import PlainAnswer
    from imgproxy.params.negotiate import AcceptClass
    from imgproxy.telemetry.metrics import SentTally, Tally

# The memory of an entry besides its target and heads: the entry, the facts of its variant, the dictionary; more if it
# has a file. Measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1_000
FILE_OVERHEAD_BYTES = 500
# The memo may use this share of the hot tier's memory, but at least enough for some 5,000 variants on disk.
MAX_SHARE_OF_HOT = 1 / 16
MAX_BYTES_LEAST = 8_000_000
# Keys that are remembered as forgotten.
FORGOTTEN_MAX = 20_000
# The read number of an entry that was not read yet: longer ago than any number of reads.
NEVER_READ = -(1 << 62)
# Headers that change with each second.
_CHANGING = frozenset({"Date", "Cache-Status", "Server-Timing"})
# A look-up in an enumeration takes a measurable part of the time of a hit.
_MEMORY: Final = Tier.MEMORY
_DISK: Final = Tier.DISK

# An entry, where its body was found, head, rest of the head, and body; the body of a 304 is empty.
Found: TypeAlias = "tuple[PreparedAnswer, Tier, bytes, bytes, bytes | bytearray]"


class PreparedAnswer:
    """An answer whose head is ready, except for the headers that change with each second."""

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
        "sent",
        "variant_facts",
    )

    def __init__(self, answer: PlainAnswer, sent: SentTally) -> None:
        """`sent` has the numbers of its format."""
        variant = answer.variant
        self.variant_facts = variant.facts
        self.file = variant.file
        self.facts = answer.original
        self.key_hash = variant.key_hash
        self.proofs = variant.proofs
        self.etag = answer.etag
        self.place: HotPlace | None = None
        self.made_at_s = time.time()  # Unix time, like the two others
        self.fresh_since_s = self.made_at_s - 1.0
        self.fresh_until_s = answer.fresh_until_s
        lasting = {name: value for name, value in answer.headers.items() if name not in _CHANGING}
        lasting_304 = {name: value for name, value in lasting.items() if is_in_304(name)}
        self.head_304 = head_bytes("304 Not Modified", lasting_304)
        self.head = head_bytes("200 OK", lasting | {"Content-Length": str(variant.facts.size_bytes)})
        self.read_number = NEVER_READ
        self.sent = sent

    @property
    def cost_bytes(self) -> int:
        """The memory of the entry without its target."""
        return ENTRY_OVERHEAD_BYTES + (FILE_OVERHEAD_BYTES if self.file else 0) + len(self.head) + len(self.head_304)

    def variant(self, body: bytes) -> Variant:
        """Return the variant with its body."""
        return Variant(self.variant_facts, self.key_hash, self.proofs, body=body, file=self.file)


def memo_bytes(hot_max_bytes: int) -> int:
    """Return how many bytes a memo may use beside a hot tier of this size."""
    return max(MAX_BYTES_LEAST, int(hot_max_bytes * MAX_SHARE_OF_HOT))


class AnswerMemo:
    """Prepared answers, bounded by their bytes. The least recently used one leaves first."""

    def __init__(self, cache: Cache, max_bytes: int, tally: Tally) -> None:
        self._cache = cache
        self._tally = tally
        self._max_bytes = max_bytes
        # Both have the least recently used first. A hit would take twice as long with the cache of a library.
        self._entries: OrderedDict[tuple[str, AcceptClass], PreparedAnswer] = OrderedDict()
        self._forgotten_at_s: OrderedDict[str, float] = OrderedDict()
        self._last_forgotten_at_s = 0.0
        # The ends of heads for this second, by the seconds of freshness that are left and the tier.
        self._second = -1
        self._ends: dict[tuple[int, Tier], bytes] = {}
        self.used_bytes = 0
        self._reads = 0

    def put(self, answer: PlainAnswer) -> PreparedAnswer:
        """
        Remember an answer whose variant is in the hot tier, or was read from disk.

        It is not kept if its original has other facts by now: after a soft purge its freshness would be too long.
        """
        assert len(answer.variant.proofs) == 1, "a purge finds an entry by one key, so it must have one original"
        entry = PreparedAnswer(answer, self._tally.of(answer.variant.facts.content_type))
        self._drop((answer.target, answer.accept))
        if self._cache.store.known_facts(entry.key_hash) is not entry.facts:
            return entry
        self._entries[answer.target, answer.accept] = entry
        self.used_bytes += sys.getsizeof(answer.target) + entry.cost_bytes
        while self.used_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        entry.place = self._place_of(entry)
        return entry

    def _drop(self, name: tuple[str, AcceptClass]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.used_bytes -= sys.getsizeof(name[0]) + entry.cost_bytes

    def forget(self, key: str) -> None:
        """Forget the answers of this key: its library entry became known, so its answers need one more tag."""
        hashed = key_hash(key)
        self._last_forgotten_at_s = self._forgotten_at_s[hashed] = time.time()
        self._forgotten_at_s.move_to_end(hashed)
        if len(self._forgotten_at_s) > FORGOTTEN_MAX:
            self._forgotten_at_s.popitem(last=False)

    def find(self, target: str, accept: AcceptClass, if_none_match: str | None) -> Found | None:
        """Return the prepared answer of this request if there is a valid one."""
        name = (target, accept)
        entry = self._entries.get(name)
        if entry is None:
            return None
        now_s = time.time()
        if not self._is_valid(entry, now_s):
            self._drop(name)
            return None
        place = entry.place
        variant = place.variant if place is not None else None
        if place is None or variant is None or variant.body is None:
            found = self._find_cold(entry, if_none_match, now_s)
            if found is None:
                self._drop(name)
            return found
        self._cache.hot.used(place)
        self._entries.move_to_end(name)
        # Most often the text is equal. Only other text is read as a list of tags.
        if if_none_match is not None and (if_none_match == entry.etag or etag_matches(if_none_match, entry.etag)):
            return entry, _MEMORY, entry.head_304, self._end(entry, _MEMORY, now_s), b""
        return entry, _MEMORY, entry.head, self._end(entry, _MEMORY, now_s), variant.body

    def _is_valid(self, entry: PreparedAnswer, now_s: float) -> bool:
        """Whether the entry is fresh, has all its tags, and no purge has come."""
        # A time before the entry was prepared means that the clock was set back.
        if not entry.fresh_since_s <= now_s < entry.fresh_until_s:
            return False
        if entry.made_at_s <= self._last_forgotten_at_s and entry.made_at_s <= self._forgotten_at_s.get(
            entry.key_hash, 0.0
        ):
            return False
        return self._cache.epochs.all_hold(entry.proofs)

    def _find_cold(self, entry: PreparedAnswer, if_none_match: str | None, now_s: float) -> Found | None:
        """
        Return the answer of a variant that has left the hot tier. A 304 needs no body; else it is read from its file.

        The epoch of a key is forgotten when no file of the key is left on disk, so it is not proof enough here. But
        every change of an original, also a purge, gives it a new facts object.
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
        Put a body into the hot tier if it was read twice within as many reads as the tier has variants.

        A body that is read less often would leave before its next read, and only push others out.
        """
        hot = self._cache.hot
        self._reads += 1
        distance = self._reads - entry.read_number
        if hot.has_room(len(body)) or distance <= len(hot):
            entry.place = hot.put(entry.variant(bytes(body)))
        entry.read_number = self._reads

    def _place_of(self, entry: PreparedAnswer) -> HotPlace | None:
        """Return the place of this entry's variant in the hot tier, if it is made from the same original."""
        facts = entry.variant_facts
        place = self._cache.hot.place(entry.key_hash, facts.plan)
        kept = place.variant if place is not None else None
        return place if kept is not None and kept.facts.original == facts.original else None

    def _end(self, entry: PreparedAnswer, tier: Tier, now_s: float) -> bytes:
        """Return the lines of the head that change. Entries that are fresh for equally long share them."""
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
