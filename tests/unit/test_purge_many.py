"""A purge of many keys together leaves what purges one by one leave."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.purge_event import PurgedMany
from imgproxy.errors import CacheUnavailable
from tests.support.cache import (
    HASHED,
    KEY,
    PLAN,
    commit,
    commit_variant,
    let_journal_refuse,
    opened,
    original_facts,
    settled,
    variant,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge import PurgedKeys

    Purge: TypeAlias = Callable[[Cache, Sequence[str]], Awaitable[object]]

HOT, KNOWN, KEPT = "hot.jpg", "known.jpg", "kept.jpg"
PURGED = (KEY, HOT, KNOWN, *(f"absent-{number}.jpg" for number in range(50)))


async def one_by_one(cache: Cache, keys: Sequence[str]) -> None:
    for key in keys:
        await cache.purge([key], reason="test")


async def together(cache: Cache, keys: Sequence[str]) -> None:
    await cache.purge_many(keys, reason="test")


@pytest.mark.parametrize("purge", [one_by_one, together])
async def test_nothing_from_before_the_purge_is_found(tmp_path: Path, purge: Purge) -> None:
    """Neither on disk nor in memory, nor from work that began before, nor after a restart. Other keys stay."""
    async with opened(tmp_path) as cache:
        await settled(cache)
        assert commit(cache, key=KEPT) is not None
        assert commit(cache) is not None
        assert commit_variant(cache, b"v", seq=cache.epochs.seq) is not None
        cache.hot.put(variant(b"v", key=HOT))
        cache.store.hold_facts(replace(original_facts(b"o", KNOWN), journal_id=cache.epochs.journal_id))
        with cache.epochs.at_work() as began_seq:
            await purge(cache, PURGED)

            for key in PURGED:
                hashed = key_hash(key)
                assert cache.facts(hashed) is None
                assert cache.hot.get(hashed, PLAN) is None
                assert commit(cache, key=key, seq=began_seq) is None
                assert not cache.epochs.is_proved(hashed, began_seq)
        assert cache.facts(key_hash(KEPT)) is not None
        assert commit(cache, b"new") is not None
        await cache.sync_purge_many()
    async with opened(tmp_path) as cache:
        found = {key for key in (*PURGED, KEPT) if cache.facts(key_hash(key)) is not None}
        assert found == {KEY, KEPT}


async def test_what_is_committed_after_the_look_at_the_disk_is_purged(tmp_path: Path) -> None:
    """A fetch from before the purges ends while the record of the others is written: its file does not stay."""
    async with opened(tmp_path) as cache:
        began_seq = cache.epochs.seq

        async def purge(keys: Sequence[str]) -> PurgedKeys:
            purged = await cache.purge(keys, reason="test")
            if KEY not in keys:
                assert commit(cache, seq=began_seq) is not None
            return purged

        await cache._many.run(PURGED, purge)

        assert cache.facts(HASHED) is None
        assert not cache.store.key_dir(HASHED).exists()


async def test_a_key_without_files_leaves_nothing(tmp_path: Path) -> None:
    """Neither a row in the journal, nor an epoch when no work under way needs it."""
    async with opened(tmp_path) as cache:
        with cache.epochs.at_work():
            await together(cache, PURGED)
            assert len(cache.epochs) == len(PURGED)
        await together(cache, PURGED[1:])

        assert len(cache.epochs) == 0
        assert await cache.journal.read("SELECT count(*) FROM purged_key") == [(0,)]


async def test_parts_hear_of_the_keys_without_files(tmp_path: Path) -> None:
    """In one event. Those with files are published one by one, as always."""
    async with opened(tmp_path) as cache:
        assert commit(cache) is not None
        single: list[str] = []
        many: list[PurgedMany] = []
        cache.purged.subscribe(lambda purged: single.append(purged.key))
        cache.purged_many.subscribe(many.append)

        await together(cache, PURGED)

        assert single == [KEY]
        assert many == [PurgedMany({key_hash(key) for key in PURGED if key != KEY})]


async def test_a_disk_that_cannot_be_listed_has_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys are purged as always, with a record of each."""
    async with opened(tmp_path) as cache:
        published: list[str] = []
        cache.purged.subscribe(lambda purged: published.append(purged.key))
        with monkeypatch.context() as patched:
            patched.setattr(os, "listdir", partial(_refuse, OSError()))
            await together(cache, PURGED)
        assert sorted(published) == sorted(PURGED)


def _refuse(error: OSError, *_: object) -> None:
    raise error


async def test_a_key_whose_purge_could_not_be_recorded_gets_a_record(tmp_path: Path) -> None:
    """It has no file any more, but a crash would bring it back."""
    async with opened(tmp_path) as cache:
        let_journal_refuse(cache.journal, refuses=True)
        with pytest.raises(CacheUnavailable):
            await cache.purge([KEY], reason="test")
        let_journal_refuse(cache.journal, refuses=False)
        published: list[str] = []
        cache.purged.subscribe(lambda purged: published.append(purged.key))

        await together(cache, PURGED)

        assert published == [KEY]
        assert not cache.epochs.is_closed(HASHED)


def take_step(epochs: Epochs, step: str, name: str, names: set[str], seq: int, *, is_together: bool) -> None:
    """Do a step, for one key or for many. `is_together`: many at once."""
    if step == "purge_many" and is_together:
        epochs.purge_many(names, seq)
    elif step == "purge_many":
        for each in names:
            epochs.purge(each, seq)
        epochs._seq = max(epochs._seq, seq)
    elif step == "collected_many" and is_together:
        epochs.collected_many(names, seq)
    elif step == "collected_many":
        for each in names:
            epochs.collected(each, seq)
    elif step == "close":
        epochs.close(name)
    elif step == "purge_all":
        epochs.purge_all(seq)
    elif step == "distrust":
        epochs.distrust("journal", seq)
    else:
        getattr(epochs, step)(name, seq)


STEPS = ("purge", "order", "close", "distrust", "purge_all", "collected", *(("purge_many", "collected_many") * 2))


@pytest.mark.parametrize("seed", range(50))
def test_epochs_of_many_keys_are_those_of_one_by_one(seed: int) -> None:
    """Whatever was purged, ordered or closed before, and if a later purge was recorded first."""
    chosen = random.Random(seed)
    names = [f"{number:02d}" for number in range(12)]
    single, many = Epochs("journal"), Epochs("journal")
    for _ in range(30):
        name, step = chosen.choice(names), chosen.choice(STEPS)
        some = set(chosen.sample(names, chosen.randrange(12)))
        seq = chosen.randrange(1, 100)
        if chosen.random() < 0.4:
            seq = max(single._purged.values(), default=seq)
        take_step(single, step, name, some, seq, is_together=False)
        take_step(many, step, name, some, seq, is_together=True)

        assert many.seq == single.seq
        assert (len(many), many.orders, many.closed) == (len(single), single.orders, single.closed)
        for each in names:
            for at in range(0, 100, 3):
                assert many.holds(each, at) == single.holds(each, at)
                assert many.is_proved(each, at) == single.is_proved(each, at)
