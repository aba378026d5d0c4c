"""A cache without a service around it, and originals and variants to put into it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, Provenance, Variant, VariantFacts, key_hash
from imgproxy.config.sections import CacheSettings
from imgproxy.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imgproxy.cache.journal import Journal

KEY = "2026/03/14/a.jpg"
HASHED = key_hash(KEY)
PLAN = "ab" * 16


def original_facts(data: bytes, key: str = KEY, seq: int = 0) -> OriginalFacts:
    return OriginalFacts(key, digest_of(data), len(data), "image/jpeg", '"e"', None, "journal", seq, 1.0, 2.0)


def variant(body: bytes, key: str = KEY, plan: str = PLAN, seq: int = 0) -> Variant:
    facts = VariantFacts(key, plan, digest_of(b"o"), "image/webp", len(body), digest_of(body), 1, 1)
    return Variant(facts, key_hash(key), ((key_hash(key), seq),), body=body)


def provenance(facts: OriginalFacts) -> Provenance:
    """What the cache needs to know of a picture without a watermark."""
    hashed = key_hash(facts.key)
    return Provenance(hashed, facts.digest, ((hashed, facts.seq),))


@asynccontextmanager
async def opened(directory: Path, **settings: int) -> AsyncIterator[Cache]:
    cache = Cache(CacheSettings(dir=directory, min_free_bytes=0, **settings))
    await cache.start()
    try:
        yield cache
    finally:
        await cache.close()


def let_journal_refuse(journal: Journal, *, refuses: bool) -> None:
    """Let every write fail, as a disk that has become read-only does, or let them succeed again."""
    journal._require().execute(f"PRAGMA query_only = {'ON' if refuses else 'OFF'}")


async def settled(cache: Cache) -> None:
    """Wait until scan, eviction and deletion have ended. (The housekeeping's timer stays.)"""
    while len(cache.housekeeping._background) > 1 or len(cache.trash._background):
        await asyncio.sleep(0)


def commit(cache: Cache, data: bytes = b"o", key: str = KEY, seq: int | None = None) -> OriginalFacts | None:
    facts = original_facts(data, key, cache.epochs.seq if seq is None else seq)
    facts = replace(facts, journal_id=cache.epochs.journal_id)
    temp = Path(cache.store.temp_path(key_hash(key)))
    temp.write_bytes(data)
    return facts if cache.commit_original(temp, facts) else None


def commit_variant(
    cache: Cache, body: bytes, *, seq: int, plan: str = PLAN, also: tuple[tuple[str, int], ...] = ()
) -> str | None:
    facts = VariantFacts(KEY, plan, digest_of(b"o"), "image/webp", len(body), digest_of(body), 1, 1)
    temp = Path(cache.store.temp_path(HASHED))
    temp.write_bytes(body)
    source = Provenance(HASHED, facts.original, ((HASHED, seq), *also))
    found = cache.commit_variant(temp, facts, source)
    return cache.store.variant_path(HASHED, plan) if found is not None else None
