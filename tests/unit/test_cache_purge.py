"""A purge of the cache: the order of its steps, and what holds while the disk does not take its record."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import Variant, VariantFacts, key_hash
from imgproxy.cache.purge_event import Purged
from imgproxy.digest import digest_of
from imgproxy.errors import CacheUnavailable
from tests.support.cache import HASHED, KEY, PLAN, commit, commit_variant, opened
from tests.support.site import until


class SlowRecord:
    """Takes the place of the journal's `record_purge`: holds each record of a purge, or refuses it."""

    def __init__(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came = asyncio.Event()
        self.may_go = asyncio.Event()
        self.is_refused = False
        self.recorded: list[int] = []
        self._record = cache.journal.record_purge
        monkeypatch.setattr(cache.journal, "record_purge", self)

    async def __call__(self, *positional: Any, **named: Any) -> int:
        if self.is_refused:
            raise CacheUnavailable
        self.came.set()
        await self.may_go.wait()
        self.recorded.append(await self._record(*positional, **named))
        return self.recorded[-1]


async def test_a_purge_is_recorded_then_published_then_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the event the record is durable, and nothing of the key is found any more; the caller has not heard yet."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        record = SlowRecord(cache, monkeypatch)
        record.may_go.set()
        purge = asyncio.create_task(cache.purge([KEY, "other"], reason="test", settle_at_s=100.0))
        published: list[Purged] = []

        def listen(purged: Purged) -> None:
            assert record.recorded == [1]
            assert not purge.done()
            assert not cache.epochs.holds(purged.key_hash, facts.seq)
            published.append(purged)

        cache.purged.subscribe(listen)

        assert (await purge).seq == cache.epochs.seq == 1
        assert published == [Purged(HASHED, KEY, 100.0), Purged(key_hash("other"), "other", 100.0)]


async def test_a_purge_goes_on_when_its_caller_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled caller does not stop a purge that may be recorded already."""
    async with opened(tmp_path) as cache:
        commit(cache)
        record = SlowRecord(cache, monkeypatch)
        caller = asyncio.create_task(cache.purge([KEY], reason="test"))
        await record.came.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

        record.may_go.set()
        await until(lambda: cache.facts(HASHED) is None)


async def test_nothing_of_a_purge_that_cannot_be_recorded_is_kept_or_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are closed, for fetches from before and after, until the same purge succeeds."""
    async with opened(tmp_path) as cache:
        commit(cache)
        published: list[Purged] = []
        cache.purged.subscribe(published.append)
        record = SlowRecord(cache, monkeypatch)
        record.is_refused = True
        with cache.epochs.at_work() as began:
            with pytest.raises(CacheUnavailable):
                await cache.purge([KEY], reason="test")

            assert published == [Purged(HASHED, KEY)]
            assert cache.facts(HASHED) is None
            assert commit(cache, seq=began) is None
            assert commit_variant(cache, b"body", seq=began) is None

            record.is_refused = False
            record.may_go.set()
            await cache.purge([KEY], reason="test")
            assert commit(cache, seq=began) is None
            assert commit(cache) is not None


async def test_a_purge_of_a_watermark_makes_variants_with_it_stale(tmp_path: Path) -> None:
    """Their own picture was not purged."""
    async with opened(tmp_path) as cache:
        mark = key_hash("mark.png")
        facts = VariantFacts(KEY, PLAN, digest_of(b"o"), "image/webp", 1, digest_of(b"x"), 1, 1)
        with cache.epochs.at_work() as began:
            marked = Variant(facts, HASHED, ((HASHED, began), (mark, began)), body=b"x")
            assert cache.epochs.all_hold(marked.proofs)
            await cache.purge(["mark.png"], reason="test")

            assert not cache.epochs.all_hold(marked.proofs)
