"""
The memo of prepared answers: from a raw target and an Accept class to bytes that only need to be written.

An entry holds the head of an answer and where its body is, in the hot tier or on disk, never the body: memory stays
bounded there, and what a purge drops there is gone here. An entry is good while its original is fresh and no purge has
come; beyond the hot tier it also wants the very facts and the very file that it was prepared from.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.cache.entry import key_hash
from imgproxy.delivery import Tier
from imgproxy.edge.headers import NOT_MODIFIED_HEADERS, cache_status, etag_matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import OriginalFacts, Variant
    from imgproxy.cache.hot import HotPlace
    from imgproxy.params.negotiate import AcceptClass

# An entry is about 2.5 kB: two heads, their keys, and the variant's facts.
ENTRIES_MAX = 20_000
# Longer ago than any number of reads.
NEVER_READ = -(1 << 62)
# Headers that change from second to second; the rest of a head is joined once.
_LIVELY = frozenset({"date", "cache-status", "server-timing"})
# Bound once: in this path a look into an enumeration counts.
_MEMORY: Final = Tier.MEMORY
_DISK: Final = Tier.DISK

# An entry, where its body was found, head and body; for a 304 the body is empty.
Found: TypeAlias = "tuple[PreparedAnswer, Tier, bytes, bytes | bytearray]"


class PreparedAnswer:
    """An answer whose head is ready but for what changes with each second."""

    __slots__ = (
        "etag",
        "facts",
        "fresh_since_s",
        "fresh_until_s",
        "head",
        "key_hash",
        "key_hashes",
        "made_at_s",
        "not_modified",
        "place",
        "read_number",
        "second",
        "seq",
        "static",
        "static_304",
        "variant",
    )

    def __init__(
        self, variant: Variant, facts: OriginalFacts, etag: str, headers: Mapping[str, str], fresh_until_s: float
    ) -> None:
        self.variant = replace(variant, body=None)
        self.facts = facts
        self.key_hash = variant.key_hash
        self.key_hashes = frozenset((variant.key_hash, *(hashed for hashed, _ in variant.also)))
        self.seq = variant.seq
        self.etag = etag
        self.place: HotPlace | None = None
        self.made_at_s = time.time()  # Unix time, as are the two others
        self.fresh_since_s = self.made_at_s - 1.0
        self.fresh_until_s = fresh_until_s
        lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _LIVELY]
        lines.append(f"Content-Length: {variant.facts.size_bytes}\r\n")
        self.static = "\r\n".join(("HTTP/1.1 200 OK", *lines)).encode("latin-1")
        self.static_304 = b""  # of use to those alone who ask again
        self.read_number = NEVER_READ
        self.second = -1
        self.head = self.not_modified = b""

    def head_with(self, date: str, *, status: str, timing: str) -> bytes:
        """The head of a 200 with these lively headers."""
        return self.static + _lively(date, status, timing)

    def freshen(self, second: int, date: str) -> None:
        """Write the heads of a hit from memory for this second."""
        status = cache_status(is_hit=True, ttl_s=int(self.fresh_until_s - second), detail=_MEMORY)
        lively = _lively(date, status, _MEMORY)
        if not self.static_304:
            kept = [line for line in self.static.split(b"\r\n")[1:] if _is_in_304(line.partition(b":")[0].decode())]
            self.static_304 = b"\r\n".join((b"HTTP/1.1 304 Not Modified", *kept))
        self.second = second
        self.head = self.static + lively
        self.not_modified = self.static_304 + lively


class AnswerMemo:
    """Prepared answers, least recently used out first."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # Both are least recently used first; a library's cache would cost a hit as much as all the rest of it.
        self._entries: OrderedDict[tuple[str, AcceptClass], PreparedAnswer] = OrderedDict()
        self._forgotten_at_s: OrderedDict[str, float] = OrderedDict()
        self._last_forgotten_at_s = 0.0
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
        """Remember an answer whose variant is in the hot tier, or came from disk; `facts` are its original's."""
        entry = PreparedAnswer(variant, facts, etag, headers, fresh_until_s)
        entry.place = self._place_of(variant)
        self._entries[target, accept] = entry
        self._entries.move_to_end((target, accept))
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)
        return entry

    def forget(self, key: str) -> None:
        """What is prepared for this key is no longer complete: its entry has become known, and so has a tag."""
        hashed = key_hash(key)
        self._last_forgotten_at_s = self._forgotten_at_s[hashed] = time.time()
        self._forgotten_at_s.move_to_end(hashed)
        if len(self._forgotten_at_s) > ENTRIES_MAX:
            self._forgotten_at_s.popitem(last=False)

    def find(self, target: str, accept: AcceptClass, if_none_match: str | None) -> Found | None:
        """What answers this request, if it is a hit that was answered before and still stands."""
        name = (target, accept)
        entry = self._entries.get(name)
        if entry is None:
            return None
        now_s = time.time()
        if not self._stands(entry, now_s):
            del self._entries[name]
            return None
        place = entry.place
        variant = place.variant if place is not None else None
        if place is None or variant is None or variant.body is None:
            found = self._find_beyond(entry, if_none_match, now_s)
            if found is None:
                del self._entries[name]
            return found
        self._cache.hot.used(place)
        self._entries.move_to_end(name)
        second = int(now_s)
        if entry.second != second:
            entry.freshen(second, self.date(now_s))
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
            entry.freshen(int(now_s), self.date(now_s))
            return entry, _MEMORY, entry.not_modified, b""
        entry.place = self._place_of(entry.variant)
        if entry.place is not None and (again := entry.place.variant) is not None and again.body is not None:
            entry.freshen(int(now_s), self.date(now_s))
            return entry, _MEMORY, entry.head, again.body
        body = self._cache.store.read_unchanged(entry.variant.file) if entry.variant.file is not None else None
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
            entry.place = hot.put(replace(entry.variant, body=bytes(body)))
        entry.read_number = self._reads

    def _place_of(self, variant: Variant) -> HotPlace | None:
        """Where the hot tier has this variant, made from the same original."""
        place = self._cache.hot.place(variant.key_hash, variant.facts.plan)
        kept = place.variant if place is not None else None
        return place if kept is not None and kept.facts.original == variant.facts.original else None

    def date(self, now_s: float) -> str:
        """The value of Date, made once a second for all."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True)
        return self._date

    def __len__(self) -> int:
        return len(self._entries)


def _lively(date: str, status: str, timing: str) -> bytes:
    return f"Date: {date}\r\nServer-Timing: {timing}\r\nCache-Status: {status}\r\n\r\n".encode("latin-1")


def _is_in_304(name: str) -> bool:
    """What a 304 repeats (RFC 9110 15.4.5), and what belongs to every answer of ours; nothing about the body."""
    return name.lower() in NOT_MODIFIED_HEADERS or not name.lower().startswith(("content-", "accept-ranges"))
