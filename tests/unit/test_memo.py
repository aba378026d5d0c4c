"""The memo of prepared answers: bounded by its bytes, and each of them counted."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, Variant, VariantFacts, key_hash
from imgproxy.config.sections import CacheSettings
from imgproxy.edge.exchange import PlainAnswer
from imgproxy.edge.fast.memo import MAX_BYTES_LEAST, AnswerMemo, memo_bytes
from imgproxy.params.negotiate import AcceptClass
from imgproxy.telemetry.metrics import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgproxy.edge.fast.memo import PreparedAnswer

KEY = "2026/03/14/harbour-at-dusk.jpg"
FOREVER_S = 1e12
COMMON = {"Content-Type": "image/webp", "Cache-Control": "public, max-age=300, must-revalidate", "Vary": "Accept"}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """A cache with one original's facts in memory, nothing on disk, and room for a few variants."""
    cache = Cache(CacheSettings(dir=tmp_path, min_free_bytes=0, hot_max_bytes=2_000_000))
    cache.store.hold_facts(OriginalFacts(KEY, "0" * 32, 1, "image/jpeg", None, None, "", 0, 0.0, 0.0))
    yield cache
    cache.store.close()


def target(number: int) -> str:
    """A target as pages have them; no two share a byte of memory."""
    return f"/{KEY}?w={number}&q=75&fm=webp&fit=crop&crop=entropy&ar=16:9"


def put(
    memo: AnswerMemo,
    cache: Cache,
    number: int,
    *,
    body: bytes | None = None,
    is_from_disk: bool = False,
    until_s: float = FOREVER_S,
) -> PreparedAnswer:
    """Remember the answer to a target; its names and headers are made anew, as they are for a request."""
    key, hashed, plan = KEY[:1] + KEY[1:], key_hash(KEY), f"{number:032x}"
    facts = cache.store.known_facts(hashed)
    assert facts is not None
    variant_facts = VariantFacts(key, plan, facts.digest, "image/webp", 46_000 + number, f"{number:032x}", 800, 600)
    stamp = (65_024, 1_000_000 + number, 46_300, 10**18 + 2 * number, 10**18 + 2 * number + 1)
    file = cache.store.seen(hashed, plan, stamp, variant_facts.size_bytes) if is_from_disk else None
    variant = Variant(variant_facts, hashed, ((hashed, 0),), body=body, file=file)
    if body is not None:
        cache.hot.put(variant)
    etag = f'"{number:024x}"'
    own = {
        "ETag": etag,
        "Surrogate-Key": f"k-{number:012x}",
        "Cache-Tag": f"k-{number:012x}",
    }
    changing = {"Cache-Status": "imgproxy; fwd=miss", "Server-Timing": "total;dur=1"}
    return memo.put(
        PlainAnswer(target(number), AcceptClass.WEBP, variant, facts, etag, COMMON | own | changing, until_s)
    )


def test_the_memo_stays_within_its_bytes(cache: Cache) -> None:
    """However many answers are put in, the oldest go."""
    memo = AnswerMemo(cache, 50_000, Tally())
    for number in range(500):
        put(memo, cache, number, body=b"picture")
        assert memo.used_bytes <= 50_000

    assert 10 < len(memo) < 100
    assert memo.find(target(499), AcceptClass.WEBP, None) is not None
    assert memo.find(target(0), AcceptClass.WEBP, None) is None


def test_what_leaves_the_memo_is_no_longer_counted(cache: Cache) -> None:
    """An answer that is prepared again counts once; one that no longer stands does not count."""
    memo = AnswerMemo(cache, 50_000, Tally())
    put(memo, cache, 1, body=b"picture")
    once_bytes = memo.used_bytes
    put(memo, cache, 1, body=b"picture", until_s=time.time() - 1)

    assert memo.used_bytes == once_bytes
    assert memo.find(target(1), AcceptClass.WEBP, None) is None
    assert (memo.used_bytes, len(memo)) == (0, 0)


@pytest.mark.parametrize("is_from_disk", [False, True])
def test_what_an_entry_counts_is_what_it_takes(cache: Cache, is_from_disk: bool) -> None:
    """The sum that the bound is held against is, within a fifth, the memory that entries really have."""
    memo = AnswerMemo(cache, 10**9, Tally())
    put(memo, cache, 0)
    gc.collect()
    tracemalloc.start()
    try:
        counted_before = memo.used_bytes
        before_bytes, _ = tracemalloc.get_traced_memory()
        for number in range(1, 1_501):
            put(memo, cache, number, is_from_disk=is_from_disk)
        gc.collect()
        taken_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()

    assert taken_bytes / (memo.used_bytes - counted_before) == pytest.approx(1.0, abs=0.2)


def test_a_head_is_complete_and_changes_with_the_second(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Date and the rest of the freshness are of the present second; everything else is as it was prepared."""
    memo = AnswerMemo(cache, 50_000, Tally())
    entry = put(memo, cache, 1, body=b"picture", until_s=time.time() + 100)
    heads = []
    for later_s in (1, 2):
        monkeypatch.setattr(time, "time", lambda later_s=later_s: float(int(entry.made_at_s) + later_s))
        found = memo.find(target(1), AcceptClass.WEBP, None)
        assert found is not None
        heads.append(found[2] + found[3])

    for head in heads:
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert head.count(b"\r\nContent-Length: 46001\r\n") == 1
        assert head.count(b"\r\nDate: ") == head.count(b"\r\nCache-Status: imgproxy; hit; ttl=") == 1
    assert heads[0] != heads[1]


def test_a_304_says_nothing_about_the_body(cache: Cache) -> None:
    """It repeats the entity tag and the caching headers (RFC 9110 15.4.5)."""
    memo = AnswerMemo(cache, 50_000, Tally())
    entry = put(memo, cache, 1, body=b"picture")
    found = memo.find(target(1), AcceptClass.WEBP, entry.etag)

    assert found is not None
    head = found[2] + found[3]
    assert head.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert b"Content-" not in head
    assert b"ETag: " in head
    assert b"Cache-Control: public" in head
    assert found[4] == b""


def test_a_memo_is_in_proportion_to_the_hot_tier() -> None:
    """The more variants memory may hold, the more answers may be prepared; some in any case."""
    assert memo_bytes(256_000_000) == 16_000_000
    assert memo_bytes(0) == MAX_BYTES_LEAST
