"""
The memo of prepared answers: from a raw target and an Accept class to bytes that only need to be written.

An entry holds the head of an answer and where its body is, in the hot tier or on disk, never the body: memory stays
bounded there, and what a purge drops there is gone here. An entry is good while its original is fresh and no purge has
come; beyond the hot tier it also wants the very facts and the very file that it was prepared from.

The memo is bounded by bytes. So an entry is kept small: header lines that pictures have in common are there once, and
heads that are written for a second go with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from email.utils import formatdate
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from imgproxy.cache.entry import Tier, Variant, key_hash
from imgproxy.edge.headers import NOT_MODIFIED_HEADERS, cache_status, etag_matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.cache.hot import HotPlace
    from imgproxy.params.negotiate import AcceptClass

# What an entry takes beside its target and its own header lines, and more where it came from disk: the objects of the
# entry, of its variant's facts and file with their names, and the dictionary. Measured with tracemalloc.
ENTRY_OVERHEAD_BYTES = 1_000
FILE_OVERHEAD_BYTES = 500
# A memo may take this share of what the hot tier may, so that it is in proportion to the traffic that it is meant for;
# at least so much that some 5,000 variants beyond the hot tier are answered without parsing.
MAX_SHARE_OF_HOT = 1 / 16
MAX_BYTES_LEAST = 8_000_000
# Keys that are remembered as forgotten: what is prepared later than that of the one that leaves is known to be good.
FORGOTTEN_MAX = 20_000
# Longer ago than any number of reads.
NEVER_READ = -(1 << 62)
# Headers that are written anew: those that change from second to second, and the length.
_LIVELY = frozenset({"date", "cache-status", "server-timing", "content-length"})
# Headers that many pictures have alike; the rest are a picture's own.
_COMMON = frozenset(
    {
        "content-type",
        "cache-control",
        "cdn-cache-control",
        "x-content-type-options",
        "access-control-allow-origin",
        "timing-allow-origin",
        "server",
        "vary",
        "content-security-policy",
    }
)
# Kinds of pictures: by type, by what they vary on, by how long they may be kept.
_COMMON_MAX = 64
# Bound once: in this path a look into an enumeration counts.
_MEMORY: Final = Tier.MEMORY
_DISK: Final = Tier.DISK

# An entry, where its body was found, head and body; for a 304 the body is empty.
Found: TypeAlias = "tuple[PreparedAnswer, Tier, bytes, bytes | bytearray]"


class CommonHead:
    """The beginning of a head, for a 200 and a 304: its first line, and header lines that many pictures have alike."""

    __slots__ = ("not_modified", "ok")

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.ok = _joined("HTTP/1.1 200 OK", *lines)
        self.not_modified = _joined("HTTP/1.1 304 Not Modified", *filter(_is_in_304, lines))


class HeadLines(NamedTuple):
    """The lines of a head by what becomes of them: a picture's own are repeated in a 304, or of the body."""

    common: list[str]
    repeated: list[str]
    of_body: list[str]
    lively: list[str]


@cache
def _part(name: str) -> int:
    """Where in HeadLines a header of ours belongs."""
    if name.lower() in _LIVELY:
        return 3
    if name.lower() in _COMMON:
        return 0
    return 1 if _is_in_304(name) else 2


class PreparedAnswer:
    """An answer whose head is ready but for what changes with each second."""

    __slots__ = (
        "common",
        "etag",
        "facts",
        "file",
        "fresh_since_s",
        "fresh_until_s",
        "head",
        "key_hash",
        "made_at_s",
        "not_modified",
        "own",
        "own_304_bytes",
        "place",
        "read_number",
        "second",
        "seq",
        "variant_facts",
    )

    def __init__(  # noqa: PLR0917 - all that makes an answer
        self,
        variant: Variant,
        facts: OriginalFacts,
        etag: str,
        common: CommonHead,
        own: HeadLines,
        fresh_until_s: float,
    ) -> None:
        self.variant_facts = variant.facts
        self.file = variant.file
        self.facts = facts
        self.key_hash = variant.key_hash
        self.seq = variant.seq
        self.etag = etag
        self.place: HotPlace | None = None
        self.made_at_s = time.time()  # Unix time, as are the two others
        self.fresh_since_s = self.made_at_s - 1.0
        self.fresh_until_s = fresh_until_s
        self.common = common
        # What a 304 repeats comes first, so that it is the beginning of what a 200 says.
        repeated = _joined(*own.repeated)
        self.own = repeated + _joined(*own.of_body, f"Content-Length: {variant.facts.size_bytes}")
        self.own_304_bytes = len(repeated)
        self.read_number = NEVER_READ
        self.second = -1
        self.head = self.not_modified = b""

    @property
    def cost_bytes(self) -> int:
        """What the entry takes in memory, but for its target and the heads of this second."""
        return ENTRY_OVERHEAD_BYTES + (FILE_OVERHEAD_BYTES if self.file else 0) + len(self.own)

    def variant(self, body: bytes) -> Variant:
        """The variant, with its body."""
        return Variant(self.variant_facts, self.key_hash, self.seq, body=body, file=self.file)

    def head_with(self, date: str, *, status: str, timing: str) -> bytes:
        """The head of a 200 with these lively headers."""
        return self.common.ok + self.own + _lively(date, status, timing)

    def freshen(self, second: int, date: str) -> None:
        """Write the heads of a hit from memory for this second."""
        status = cache_status(is_hit=True, ttl_s=int(self.fresh_until_s - second), detail=_MEMORY)
        lively = _lively(date, status, _MEMORY)
        self.second = second
        self.head = self.common.ok + self.own + lively
        self.not_modified = self.common.not_modified + self.own[: self.own_304_bytes] + lively

    def wither(self) -> None:
        """Let go of the heads that were written for a second."""
        self.second = -1
        self.head = self.not_modified = b""


def memo_bytes(hot_max_bytes: int) -> int:
    """What a memo may take beside a hot tier of this size."""
    return max(MAX_BYTES_LEAST, int(hot_max_bytes * MAX_SHARE_OF_HOT))


class AnswerMemo:
    """Prepared answers, least recently used out first, bounded by their bytes."""

    def __init__(self, cache: Cache, max_bytes: int) -> None:
        """`max_bytes` bounds the entries, but for the heads of the present second; see `memo_bytes`."""
        self._cache = cache
        self._max_bytes = max_bytes
        self._common = lru_cache(_COMMON_MAX)(CommonHead)
        # Both are least recently used first; a library's cache would cost a hit as much as all the rest of it.
        self._entries: OrderedDict[tuple[str, AcceptClass], PreparedAnswer] = OrderedDict()
        self._forgotten_at_s: OrderedDict[str, float] = OrderedDict()
        self._last_forgotten_at_s = 0.0
        # Entries with heads of the present second, or of one that nothing has come after yet.
        self._written: list[PreparedAnswer] = []
        self.used_bytes = 0
        self._reads = 0
        self._second = -1
        self._date = ""

    def put(
        self,
        target: str,
        accept: AcceptClass,
        variant: Variant,
        *,
        facts: OriginalFacts,
        etag: str,
        headers: Mapping[str, str],
        fresh_until_s: float,
    ) -> PreparedAnswer:
        """
        Remember an answer whose variant is in the hot tier, or came from disk; `facts` are its original's.

        A variant that was made from more than one original is none for the memo: a purge would have to find it by both.
        """
        assert not variant.also, "an entry stands for one original"
        lines = HeadLines([], [], [], [])
        for name, value in headers.items():
            lines[_part(name)].append(f"{name}: {value}")
        entry = PreparedAnswer(variant, facts, etag, self._common(tuple(lines.common)), lines, fresh_until_s)
        entry.place = self._place_of(entry)
        self._drop((target, accept))
        self._entries[target, accept] = entry
        self.used_bytes += len(target) + entry.cost_bytes
        while self.used_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        return entry

    def _drop(self, name: tuple[str, AcceptClass]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.used_bytes -= len(name[0]) + entry.cost_bytes

    def forget(self, key: str) -> None:
        """What is prepared for this key is no longer complete: its entry has become known, and so has a tag."""
        hashed = key_hash(key)
        self._last_forgotten_at_s = self._forgotten_at_s[hashed] = time.time()
        self._forgotten_at_s.move_to_end(hashed)
        if len(self._forgotten_at_s) > FORGOTTEN_MAX:
            self._forgotten_at_s.popitem(last=False)

    def find(self, target: str, accept: AcceptClass, if_none_match: str | None) -> Found | None:
        """What answers this request, if it is a hit that was answered before and still stands."""
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
        if entry.second != int(now_s):
            self._freshen(entry, now_s)
        # Equal text is the rule; what else matches is worth a closer look only then.
        if if_none_match is not None and (if_none_match == entry.etag or etag_matches(if_none_match, entry.etag)):
            return entry, _MEMORY, entry.not_modified, b""
        return entry, _MEMORY, entry.head, variant.body

    def _stands(self, entry: PreparedAnswer, now_s: float) -> bool:
        """Whether the entry is fresh, complete, and not overtaken by a purge."""
        # Before its own beginning an entry is of no use: then the clock has jumped.
        if not entry.fresh_since_s <= now_s < entry.fresh_until_s:
            return False
        if entry.made_at_s <= self._last_forgotten_at_s and entry.made_at_s <= self._forgotten_at_s.get(
            entry.key_hash, 0.0
        ):
            return False
        return self._cache.epochs.holds(entry.key_hash, entry.seq)

    def _find_beyond(self, entry: PreparedAnswer, if_none_match: str | None, now_s: float) -> Found | None:
        """
        The answer where the variant has left memory: a 304 needs no body, which else is read from its file.

        A purge is forgotten once nothing is left of its key on disk, so the epoch says too little here; but whatever
        happens to an original, a purge, a change or a proof, gives it other facts than these.
        """
        if self._cache.store.known_facts(entry.key_hash) is not entry.facts:
            return None
        if if_none_match is not None and etag_matches(if_none_match, entry.etag):
            self._freshen(entry, now_s)
            return entry, _MEMORY, entry.not_modified, b""
        entry.place = self._place_of(entry)
        if entry.place is not None and (again := entry.place.variant) is not None and again.body is not None:
            self._freshen(entry, now_s)
            return entry, _MEMORY, entry.head, again.body
        body = self._cache.store.read_unchanged(entry.file) if entry.file is not None else None
        if body is None:
            return None
        self._consider(entry, body)
        status = cache_status(is_hit=True, ttl_s=int(entry.fresh_until_s - now_s), detail=_DISK)
        return entry, _DISK, entry.head_with(self.date(now_s), status=status, timing=_DISK), body

    def _consider(self, entry: PreparedAnswer, body: bytes | bytearray) -> None:
        """
        Take a body that was read from disk into memory, if it was read twice within as many reads as fit there.

        What is asked for less often would be gone before the next time, and only push others out.
        """
        hot = self._cache.hot
        self._reads += 1
        distance = self._reads - entry.read_number
        if hot.has_room(len(body)) or distance <= len(hot):
            entry.place = hot.put(entry.variant(bytes(body)))
        entry.read_number = self._reads

    def _place_of(self, entry: PreparedAnswer) -> HotPlace | None:
        """Where the hot tier has this entry's variant, made from the same original."""
        facts = entry.variant_facts
        place = self._cache.hot.place(entry.key_hash, facts.plan)
        kept = place.variant if place is not None else None
        return place if kept is not None and kept.facts.original == facts.original else None

    def _freshen(self, entry: PreparedAnswer, now_s: float) -> None:
        """Write an entry's heads for this second."""
        entry.freshen(int(now_s), self.date(now_s))
        self._written.append(entry)

    def date(self, now_s: float) -> str:
        """The value of Date, made once a second for all; the heads of the second before go."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True)
            for entry in self._written:
                entry.wither()
            self._written.clear()
        return self._date

    def __len__(self) -> int:
        return len(self._entries)


def _joined(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _lively(date: str, status: str, timing: str) -> bytes:
    return f"Date: {date}\r\nServer-Timing: {timing}\r\nCache-Status: {status}\r\n\r\n".encode("latin-1")


def _is_in_304(line: str) -> bool:
    """What a 304 repeats (RFC 9110 15.4.5), and what belongs to every answer of ours; nothing about the body."""
    name = line.partition(":")[0].lower()
    return name in NOT_MODIFIED_HEADERS or not name.startswith(("content-", "accept-ranges"))
