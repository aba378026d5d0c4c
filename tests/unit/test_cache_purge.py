"""What a purge of the cache promises while its record is on the way to the disk, and where the disk refuses it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import Variant, VariantFacts, key_hash
from imgproxy.errors import CacheUnavailable
from tests.support.site import until
from tests.unit.test_cache import HASHED, KEY, PLAN, commit, commit_variant, opened
from tests.unit.test_cache_store import digest


class SlowRecord:
    """Stands between the cache and its journal: holds each record of a purge, or refuses it."""

    def __init__(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came = asyncio.Event()
        self.may_go = asyncio.Event()
        self.is_refused = False
        self._record = cache.journal.record_purge
        monkeypatch.setattr(cache.journal, "record_purge", self)

    async def __call__(self, *positional: Any, **named: Any) -> int:
        if self.is_refused:
            raise CacheUnavailable
        self.came.set()
        await self.may_go.wait()
        return await self._record(*positional, **named)


async def test_a_purge_is_acknowledged_only_when_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash a moment after the acknowledgement must find the record."""
    async with opened(tmp_path) as cache:
        record = SlowRecord(cache, monkeypatch)
        purge = asyncio.create_task(cache.purge([KEY], reason="test"))
        await record.came.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not purge.done()

        record.may_go.set()
        assert (await purge).seq == cache.epochs.seq == 1


async def test_a_purge_goes_on_when_its_caller_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be recorded already: then it has to happen."""
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
    """Its keys are closed for what was fetched before and since, until the same purge succeeds."""
    async with opened(tmp_path) as cache:
        commit(cache)
        record = SlowRecord(cache, monkeypatch)
        record.is_refused = True
        with cache.epochs.at_work() as began:
            with pytest.raises(CacheUnavailable):
                await cache.purge([KEY], reason="test")

            assert cache.facts(HASHED) is None
            assert commit(cache, seq=began) is None
            assert commit_variant(cache, b"body", seq=began) is None

            record.is_refused = False
            record.may_go.set()
            await cache.purge([KEY], reason="test")
            assert commit(cache, seq=began) is None
            assert commit(cache) is not None


async def test_a_purge_of_a_watermark_overtakes_the_answers_that_hold_it(tmp_path: Path) -> None:
    """Their own picture was not purged."""
    async with opened(tmp_path) as cache:
        mark = key_hash("mark.png")
        facts = VariantFacts(KEY, PLAN, digest(b"o"), "image/webp", 1, digest(b"x"), 1, 1)
        with cache.epochs.at_work() as began:
            marked = Variant(facts, HASHED, began, body=b"x", also=((mark, began),))
            assert cache.is_answerable(marked)
            await cache.purge(["mark.png"], reason="test")

            assert not cache.is_answerable(marked)
