"""Hot tier, epochs, and the cache that holds them together."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imgproxy.cache.entry import Found, Tier, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier
from imgproxy.cache.ledger import variant_name
from imgproxy.digest import digest_of
from tests.support.cache import HASHED, KEY, PLAN, commit, commit_variant, opened, provenance, settled, variant

# --- hot tier --------------------------------------------------------------------------------------------------------


def test_the_hot_tier_is_bounded_by_bytes() -> None:
    """Bodies and their overhead never exceed the limit. The least recently used variant goes first."""
    hot = HotTier(3 * (ENTRY_OVERHEAD_BYTES + 100), 10_000)
    for number in range(3):
        hot.put(variant(b"x" * 100, plan=f"{number:032x}"))
    hot.get(HASHED, f"{0:032x}")

    hot.put(variant(b"x" * 100, plan=f"{3:032x}"))

    assert hot.get(HASHED, f"{1:032x}") is None
    assert hot.get(HASHED, f"{0:032x}") is not None
    assert hot.used_bytes <= 3 * (ENTRY_OVERHEAD_BYTES + 100)


def test_a_large_variant_is_not_kept_in_memory() -> None:
    """One variant cannot push out all others."""
    hot = HotTier(100_000, 10_000)

    hot.put(variant(b"x" * 10_000))

    assert len(hot) == 0


def test_dropping_a_key_drops_its_variants_and_no_others() -> None:
    """A purge empties memory of one key."""
    hot = HotTier(100_000, 10_000)
    hot.put(variant(b"1", plan="1" * 32))
    hot.put(variant(b"2", plan="2" * 32))
    hot.put(variant(b"3", key="other"))

    hot.drop(HASHED)

    assert [name for name, _ in hot.names()] == [key_hash("other")]


def test_a_hot_tier_of_zero_bytes_keeps_nothing() -> None:
    """`hot_max_bytes = 0` turns the tier off."""
    hot = HotTier(0, 10_000)

    hot.put(variant(b"x"))

    assert len(hot) == 0


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_fetches_that_began_before_a_purge_are_stale() -> None:
    """A number below the purge's does not hold. The purge's own number does."""
    epochs = Epochs("j", 5)
    began = epochs.seq

    epochs.purge(HASHED, 6)

    assert not epochs.holds(HASHED, began)
    assert epochs.holds(HASHED, epochs.seq)
    assert epochs.holds(key_hash("other"), began)


def test_an_older_purge_that_comes_late_lowers_no_epoch() -> None:
    """Epochs only rise."""
    epochs = Epochs("j", 5)
    epochs.purge(HASHED, 8)

    epochs.purge(HASHED, 7)

    assert epochs.seq == 8
    assert not epochs.holds(HASHED, 7)


# --- cache -----------------------------------------------------------------------------------------------------------


async def test_a_purge_takes_everything_of_its_key(tmp_path: Path) -> None:
    """Facts, original, variants and memory are gone, and the receipt counts them."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        assert commit_variant(cache, b"body", seq=facts.seq) is not None
        found = await cache.find(provenance(facts), PLAN)
        assert found is not None

        purged = await cache.purge([KEY, KEY], reason="test")

        assert (purged.keys, purged.variants) == ((KEY,), 1)
        assert cache.facts(HASHED) is None
        assert cache.hot.get(HASHED, PLAN) is None
        assert not cache.epochs.all_hold(found.variant.proofs)
        assert await cache.find(provenance(facts), PLAN) is None
        await settled(cache)
        assert os.listdir(tmp_path / "trash") == []


async def test_a_variant_is_found_on_disk_once_and_then_in_memory(tmp_path: Path) -> None:
    """The first look puts it into the hot tier. A variant of another original is not found."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        commit_variant(cache, b"body", seq=facts.seq)
        source, other = provenance(facts), provenance(replace(facts, digest=digest_of(b"other")))

        cache.hot.drop(HASHED)
        first = await cache.find(source, PLAN)
        second = await cache.find(source, PLAN)

        assert first is not None
        assert (first.tier, first.variant.body) == (Tier.DISK, b"body")
        assert second == Found(first.variant, Tier.MEMORY)
        assert await cache.find(other, PLAN) is None


async def test_a_large_variant_is_found_as_a_file(tmp_path: Path) -> None:
    """It is checked, and not put into memory."""
    async with opened(tmp_path, hot_item_max_bytes=2_000) as cache:
        facts = commit(cache)
        assert facts is not None
        path = commit_variant(cache, b"x" * 3_000, seq=facts.seq)

        for _ in range(2):
            found = await cache.find(provenance(facts), PLAN)
            assert found is not None
            assert (found.tier, found.variant.path, found.variant.body) == (Tier.DISK, path, None)
        assert len(cache.hot) == 0


async def test_a_variant_that_a_purge_overtakes_while_it_is_read_is_not_put_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read waits for the disk; meanwhile the key is purged."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        commit_variant(cache, b"body", seq=facts.seq)
        cache.hot.drop(HASHED)

        def is_not_in_the_page_cache(*_: object) -> bytes:
            raise BlockingIOError

        async def purge_and_read(function: Callable[..., bytes], *arguments: object) -> bytes:
            await cache.purge([KEY], reason="test")
            return function(*arguments)

        monkeypatch.setattr("imgproxy.cache.disk_reader.read_at_once", is_not_in_the_page_cache)
        with cache.epochs.at_work():
            monkeypatch.setattr(asyncio, "to_thread", purge_and_read)
            found = await cache.find(provenance(facts), PLAN)

            assert found is not None
            assert not cache.epochs.all_hold(found.variant.proofs)
            assert len(cache.hot) == 0


async def test_what_was_fetched_before_a_purge_cannot_be_committed_after_it(tmp_path: Path) -> None:
    """The epoch is checked at commit, for originals, facts and variants."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        began = cache.epochs.seq
        await cache.purge([KEY], reason="test")

        assert commit(cache, seq=began) is None
        assert not cache.commit_facts(facts)
        assert commit_variant(cache, b"body", seq=began) is None
        assert cache.facts(HASHED) is None


async def test_a_variant_from_before_a_purge_is_not_kept_even_if_the_same_bytes_are_fetched_again(
    tmp_path: Path,
) -> None:
    """What counts is when its original and its watermark were fetched, not which bytes they have."""
    async with opened(tmp_path) as cache:
        with cache.epochs.at_work() as began:
            await cache.purge([KEY, "mark.png"], reason="test")
            again = commit(cache)
            assert again is not None

            assert commit_variant(cache, b"body", seq=began) is None
            assert commit_variant(cache, b"body", seq=again.seq, also=((key_hash("mark.png"), began),)) is None
            assert commit_variant(cache, b"body", seq=again.seq) is not None


async def test_a_variant_of_a_replaced_original_cannot_be_committed(tmp_path: Path) -> None:
    """A variant of other bytes than the current original's is thrown away."""
    async with opened(tmp_path) as cache:
        facts = commit(cache, b"other bytes")
        assert facts is not None

        assert commit_variant(cache, b"body", seq=facts.seq) is None


async def test_a_purge_recorded_before_a_crash_is_finished_at_start(tmp_path: Path) -> None:
    """The files of a recorded purge are taken away before anything is answered."""
    async with opened(tmp_path) as cache:
        assert commit(cache) is not None
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("INSERT INTO purge (entry, reason, is_pending, received_at_s) VALUES (NULL, 'crash', 0, 0)")
    database.execute("INSERT INTO purged_key VALUES (?, ?, 1)", (HASHED, KEY))
    database.commit()
    database.close()

    async with opened(tmp_path) as cache:
        assert cache.facts(HASHED) is None
        assert not cache.store.key_dir(HASHED).exists()


async def test_what_was_fetched_after_a_purge_survives_its_replay(tmp_path: Path) -> None:
    """Replaying an uncollected purge leaves newer originals alone."""
    async with opened(tmp_path) as cache:
        await cache.purge([KEY], reason="test")
        facts = commit(cache)
        await settled(cache)
        assert facts is not None
        row = (HASHED, KEY, facts.seq)
        await cache.journal.write(lambda database: database.execute("INSERT INTO purged_key VALUES (?, ?, ?)", row))

    async with opened(tmp_path) as cache:
        assert cache.facts(HASHED) == facts


async def test_facts_of_a_lost_journal_are_unproved(tmp_path: Path) -> None:
    """If the journal that counted them is gone, originals must be revalidated before they are used."""
    async with opened(tmp_path) as cache:
        assert commit(cache) is not None
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)

    async with opened(tmp_path) as cache:
        facts = cache.facts(HASHED)
        assert facts is not None
        assert not cache.is_proved(facts)


async def test_a_variant_with_a_flipped_bit_is_a_miss_and_is_removed(tmp_path: Path) -> None:
    """A body that fails its checksum after a restart is never served."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        path = commit_variant(cache, b"the body", seq=facts.seq)
        assert path is not None
    data = bytearray(Path(path).read_bytes())
    data[2] ^= 1
    Path(path).write_bytes(data)

    async with opened(tmp_path) as cache:
        assert await cache.find(provenance(facts), PLAN) is None
        assert not os.path.exists(path)


async def test_after_the_scan_only_files_in_the_ledger_are_looked_for(tmp_path: Path) -> None:
    """Before the scan has ended, each variant is looked for on disk."""
    async with opened(tmp_path, hot_max_bytes=0) as cache:
        facts = commit(cache)
        assert facts is not None
        source = provenance(facts)
        commit_variant(cache, b"body", seq=0)
        cache.store.ledger.remove(variant_name(HASHED, PLAN))
        assert not cache.housekeeping.is_scanned
        before = await cache.find(source, PLAN)
        await settled(cache)

        assert before is not None
        assert cache.housekeeping.is_scanned
        cache.store.ledger.remove(variant_name(HASHED, PLAN))
        assert await cache.find(source, PLAN) is None
        commit_variant(cache, b"body", seq=0)
        assert await cache.find(source, PLAN) is not None


async def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    """Commits beyond max_bytes evict the least recently used files."""
    async with opened(tmp_path, max_bytes=100_000) as cache:
        facts = commit(cache)
        assert facts is not None
        for number in range(30):
            commit_variant(cache, b"x" * 10_000, seq=facts.seq, plan=f"{number:032x}")
            await settled(cache)

        assert cache.store.ledger.used_bytes <= 100_000
        on_disk = sum(path.stat().st_size for path in cache.store.key_dir(HASHED).glob("v-*"))
        assert 0 < on_disk <= 110_000
        assert os.path.exists(cache.store.variant_path(HASHED, f"{29:032x}"))
        assert not os.path.exists(cache.store.variant_path(HASHED, f"{0:032x}"))


async def test_a_variant_that_is_used_in_memory_is_not_evicted_from_disk(tmp_path: Path) -> None:
    """An eviction counts hits in memory as uses of the file, and so do the times of use written at the end."""
    async with opened(tmp_path, max_bytes=100_000) as cache:
        facts = commit(cache)
        assert facts is not None
        popular = commit_variant(cache, b"x" * 10_000, seq=facts.seq)
        assert popular is not None
        for number in range(30):
            assert cache.hot.get(HASHED, PLAN) is not None
            commit_variant(cache, b"x" * 10_000, seq=facts.seq, plan=f"{number:032x}")
            await settled(cache)
        assert cache.housekeeping.evicted_files > 0
        assert os.path.exists(popular)
        os.utime(popular, (10, 10))

    assert os.stat(popular).st_mtime > 10
