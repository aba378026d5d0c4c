"""
The memo of prepared answers: from a raw target and an Accept class to bytes that only need to be written.

An entry holds the head of an answer and where its body is in the hot tier, never the body: memory stays bounded there,
and what a purge drops there is gone here. An entry is good while its variant is hot and its original fresh; the epoch
is checked at each use.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

from cachetools import LRUCache

from imgproxy.cache.entry import key_hash
from imgproxy.edge.headers import NOT_MODIFIED_HEADERS, cache_status, etag_matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import Variant
    from imgproxy.params.negotiate import AcceptClass

# An entry is about 1.5 kB: two heads and their keys.
ENTRIES_MAX = 20_000
# Headers that change from second to second; the rest of a head is joined once.
_LIVELY = frozenset({"date", "cache-status", "server-timing"})
_TIMING = "memory"


@dataclass(frozen=True, slots=True)
class HotAnswer:
    """Bytes to write for a hit: the head, and the body (empty for a 304)."""

    status: int
    head: bytes
    body: bytes
    key_hashes: frozenset[str]


class _Entry:
    """A prepared answer; its heads are rebuilt when the second changes."""

    __slots__ = (
        "etag",
        "fresh_since_s",
        "fresh_until_s",
        "head",
        "key_hash",
        "key_hashes",
        "made_at_s",
        "not_modified",
        "original",
        "plan",
        "second",
        "static",
        "static_304",
    )

    def __init__(self, variant: Variant, etag: str, headers: Mapping[str, str], fresh_until_s: float) -> None:
        self.key_hash = variant.key_hash
        self.key_hashes = frozenset((variant.key_hash, *(hashed for hashed, _ in variant.also)))
        self.plan = variant.facts.plan
        self.original = variant.facts.original
        self.etag = etag
        self.made_at_s = time.time()  # Unix time, as are the two others
        self.fresh_since_s = self.made_at_s - 1.0
        self.fresh_until_s = fresh_until_s
        lines = [(name, value) for name, value in headers.items() if name.lower() not in _LIVELY]
        body_bytes = variant.facts.size_bytes
        self.static = _lines("HTTP/1.1 200 OK", [*lines, ("Content-Length", str(body_bytes))])
        kept = [(name, value) for name, value in lines if _is_in_304(name)]
        self.static_304 = _lines("HTTP/1.1 304 Not Modified", kept)
        self.second = -1
        self.head = self.not_modified = b""

    def freshen(self, now_s: float) -> None:
        """Write Date and Cache-Status for this second."""
        self.second = int(now_s)
        status = cache_status(is_hit=True, ttl_s=int(self.fresh_until_s - now_s), detail="memory")
        lively = f"Date: {formatdate(now_s, usegmt=True)}\r\nServer-Timing: {_TIMING}\r\nCache-Status: {status}\r\n\r\n"
        self.head = self.static + lively.encode("latin-1")
        self.not_modified = self.static_304 + lively.encode("latin-1")


class AnswerMemo:
    """Prepared answers, least recently used out first."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._entries: LRUCache[tuple[str, AcceptClass], _Entry] = LRUCache(ENTRIES_MAX)
        self._forgotten_at_s: LRUCache[str, float] = LRUCache(ENTRIES_MAX)

    def put(
        self,
        target: str,
        accept: AcceptClass,
        variant: Variant,
        *,
        etag: str,
        headers: Mapping[str, str],
        fresh_until_s: float,
    ) -> None:
        """Remember an answer whose variant is in the hot tier."""
        self._entries[target, accept] = _Entry(variant, etag, headers, fresh_until_s)

    def forget(self, key: str) -> None:
        """What is prepared for this key is no longer complete: its entry has become known, and so has a tag."""
        self._forgotten_at_s[key_hash(key)] = time.time()

    def find(self, target: str, accept: AcceptClass, if_none_match: str | None) -> HotAnswer | None:
        """The bytes that answer this request, if it is a hit that was answered before and still stands."""
        entry = self._entries.get((target, accept))
        if entry is None:
            return None
        now_s = time.time()
        variant = self._cache.hot.get(entry.key_hash, entry.plan)
        # Before its own beginning an entry is of no use: then the clock has jumped.
        is_timely = entry.fresh_since_s <= now_s < entry.fresh_until_s
        if (
            variant is None
            or variant.body is None
            or variant.facts.original != entry.original
            or not is_timely
            or entry.made_at_s <= self._forgotten_at_s.get(entry.key_hash, 0.0)
            or not self._cache.is_answerable(variant)
        ):
            self._entries.pop((target, accept), None)
            return None
        if entry.second != int(now_s):
            entry.freshen(now_s)
        if if_none_match is not None and etag_matches(if_none_match, entry.etag):
            return HotAnswer(304, entry.not_modified, b"", entry.key_hashes)
        return HotAnswer(200, entry.head, variant.body, entry.key_hashes)

    def __len__(self) -> int:
        return len(self._entries)


def _lines(status_line: str, headers: list[tuple[str, str]]) -> bytes:
    return (status_line + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)).encode("latin-1")


def _is_in_304(name: str) -> bool:
    """What a 304 repeats (RFC 9110 15.4.5), and what belongs to every answer of ours; nothing about the body."""
    return name.lower() in NOT_MODIFIED_HEADERS or not name.lower().startswith(("content-", "accept-ranges"))
