"""Hot tier, epochs, journal, and the cache that holds them together."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import Found, OriginalFacts, Provenance, Tier, Variant, VariantFacts, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier
from imgproxy.cache.journal import Journal
from imgproxy.cache.ledger import variant_name
from imgproxy.config.sections import CacheSettings
from tests.unit.test_cache_store import digest, original_facts

KEY = "a/b.jpg"
HASHED = key_hash(KEY)
PLAN = "0a" * 16


def variant(body: bytes, key: str = KEY, plan: str = PLAN, seq: int = 0) -> Variant:
    facts = VariantFacts(key, plan, digest(b"o"), "image/webp", len(body), digest(body), 1, 1)
    return Variant(facts, key_hash(key), seq, body=body)


@asynccontextmanager
async def opened(directory: Path, **settings: int) -> AsyncIterator[Cache]:
    cache = Cache(CacheSettings(dir=directory, min_free_bytes=0, **settings))
    await cache.start()
    try:
        yield cache
    finally:
        await cache.close()


async def settled(cache: Cache) -> None:
    """Wait until the housekeeping has nothing under way but its clock."""
    while len(cache.housekeeping.background) > 1:
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
    facts = VariantFacts(KEY, plan, digest(b"o"), "image/webp", len(body), digest(body), 1, 1)
    temp = Path(cache.store.temp_path(HASHED))
    temp.write_bytes(body)
    cache.store.seal_variant(temp, facts)
    return cache.commit_variant(temp, facts, seq=seq, also=also)


# --- hot tier --------------------------------------------------------------------------------------------------------


def test_the_hot_tier_is_bounded_by_bytes() -> None:
    """Bodies and their overhead never exceed the bound; the least recently used goes first."""
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
    assert not hot.accepts(10_000)


def test_dropping_a_key_drops_its_variants_and_no_others() -> None:
    """A purge empties memory of one key."""
    hot = HotTier(100_000, 10_000)
    hot.put(variant(b"1", plan="1" * 32))
    hot.put(variant(b"2", plan="2" * 32))
    hot.put(variant(b"3", key="other"))

    assert hot.drop(HASHED) == 2
    assert hot.drop(HASHED) == 0
    assert len(hot) == 1


def test_a_hot_tier_of_zero_bytes_keeps_nothing() -> None:
    """`hot_max_bytes = 0` turns the tier off."""
    hot = HotTier(0, 10_000)

    hot.put(variant(b"x"))

    assert len(hot) == 0


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_a_purge_overtakes_fetches_that_began_before_it() -> None:
    """What was noted below the purge's number does not hold; the purge's own number does."""
    epochs = Epochs("j", 5)
    began = epochs.seq

    epochs.purge(HASHED, 6)

    assert not epochs.holds(HASHED, began)
    assert epochs.holds(HASHED, epochs.seq)
    assert epochs.holds(key_hash("other"), began)


def test_an_older_purge_that_arrives_late_lowers_nothing() -> None:
    """Epochs only rise."""
    epochs = Epochs("j", 5)
    epochs.purge(HASHED, 8)

    epochs.purge(HASHED, 7)

    assert epochs.seq == 8
    assert not epochs.holds(HASHED, 7)


# --- journal ---------------------------------------------------------------------------------------------------------


async def test_a_write_of_the_journal_is_synced_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite syncs each transaction (synchronous = FULL is 2); the name of the file is synced as it is opened."""
    synced: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(tmp_path)
    await journal.open()
    try:
        assert await journal.write(lambda database: database.execute("PRAGMA synchronous").fetchone()) == (2,)
        assert str(tmp_path) in synced
    finally:
        await journal.close()


async def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """The sequence goes on after a restart."""
    journal = Journal(tmp_path)
    state = await journal.open()
    first = await journal.record_purge([(HASHED, KEY)], entry=None, reason="test")
    await journal.close()

    journal = Journal(tmp_path)
    again = await journal.open()
    second = await journal.record_purge([], entry="e", reason="test")
    await journal.close()

    assert (state.seq, again.seq) == (0, first)
    assert second > first
    assert again.journal_id == state.journal_id
    assert [item.key for item in again.purged] == [KEY]


async def test_pending_purges_last_until_they_are_finished(tmp_path: Path) -> None:
    """An expansion that is still to come is read back, until it is done."""
    journal = Journal(tmp_path)
    await journal.open()
    seq = await journal.record_purge([], entry="e", reason="revoke", is_pending=True)

    pending = await journal.pending_purges()
    await journal.finish_pending("e", up_to_seq=seq)

    assert [(item.entry, item.reason) for item in pending] == [("e", "revoke")]
    assert await journal.pending_purges() == ()
    await journal.close()


async def test_keys_are_remembered_by_entry(tmp_path: Path) -> None:
    """The keys seen come back, and only new ones are reported as new."""
    journal = Journal(tmp_path)
    await journal.open()

    assert await journal.remember_keys("e", ["a", "b"]) == ("a", "b")
    assert await journal.remember_keys("e", ["b", "c"]) == ("c",)
    assert sorted(await journal.keys_of("e")) == ["a", "b", "c"]
    assert (await journal.recent_entry_keys(10))["c"] == "e"
    await journal.close()


async def test_deliveries_are_remembered(tmp_path: Path) -> None:
    """A webhook's delivery id is known after a restart."""
    journal = Journal(tmp_path)
    await journal.open()
    await journal.remember_delivery("d1")
    await journal.close()

    journal = Journal(tmp_path)
    await journal.open()

    assert await journal.has_delivery("d1")
    assert not await journal.has_delivery("d2")
    await journal.close()


async def test_a_damaged_journal_is_set_aside_and_said_so(tmp_path: Path) -> None:
    """Garbage in the journal's place is kept for inspection, and a new journal with another id begins."""
    journal = Journal(tmp_path)
    first = await journal.open()
    await journal.close()
    (tmp_path / "journal.sqlite").write_bytes(b"garbage" * 1000)

    journal = Journal(tmp_path)
    second = await journal.open()
    await journal.close()

    assert second.set_aside is not None
    assert second.set_aside.read_bytes().startswith(b"garbage")
    assert second.journal_id != first.journal_id


async def test_a_settle_time_is_kept_until_it_is_checked_off(tmp_path: Path) -> None:
    """A later purge's time is not checked off by the earlier one."""
    journal = Journal(tmp_path)
    await journal.open()
    await journal.record_purge([(HASHED, KEY)], entry=None, reason="test", settle_at_s=100.0)
    await journal.record_purge([(HASHED, KEY)], entry=None, reason="test", settle_at_s=200.0)

    await journal.settled(KEY, 100.0)
    assert await journal.settling() == {KEY: 200.0}
    await journal.settled(KEY, 200.0)
    assert await journal.settling() == {}
    await journal.close()


# --- cache -----------------------------------------------------------------------------------------------------------


async def test_a_purge_takes_everything_of_its_key(tmp_path: Path) -> None:
    """Facts, original, variants and memory are gone, and the receipt counts them."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        assert commit_variant(cache, b"body", seq=facts.seq) is not None
        found = await cache.find(Provenance(facts, HASHED), PLAN)
        assert found is not None

        purged = await cache.purge([KEY, KEY], reason="test")

        assert (purged.keys, purged.variants) == ((KEY,), 1)
        assert cache.facts(HASHED) is None
        assert cache.hot.get(HASHED, PLAN) is None
        assert not cache.is_answerable(found.variant)
        assert await cache.find(Provenance(facts, HASHED), PLAN) is None
        await settled(cache)
        assert os.listdir(tmp_path / "trash") == []


async def test_a_variant_is_found_on_disk_once_and_then_in_memory(tmp_path: Path) -> None:
    """The first look reads the file and puts it into the hot tier; a variant of other originals is not found."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        commit_variant(cache, b"body", seq=facts.seq)
        source, other = Provenance(facts, HASHED), Provenance(replace(facts, digest=digest(b"other")), HASHED)

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
            found = await cache.find(Provenance(facts, HASHED), PLAN)
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

        def is_not_in_the_page_cache(*_: object) -> bytes:
            raise BlockingIOError

        async def purge_and_read(function: Callable[..., bytes], *arguments: object) -> bytes:
            await cache.purge([KEY], reason="test")
            return function(*arguments)

        monkeypatch.setattr("imgproxy.cache.cache.read_at_once", is_not_in_the_page_cache)
        with cache.epochs.at_work():
            monkeypatch.setattr(asyncio, "to_thread", purge_and_read)
            found = await cache.find(Provenance(facts, HASHED), PLAN)

            assert found is not None
            assert not cache.is_answerable(found.variant)
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


async def test_a_variant_of_before_a_purge_is_not_kept_for_the_same_bytes_fetched_again(tmp_path: Path) -> None:
    """What counts is when its original was fetched, and that of its watermark, not that they look the same."""
    async with opened(tmp_path) as cache:
        with cache.epochs.at_work() as began:
            await cache.purge([KEY, "mark.png"], reason="test")
            again = commit(cache)
            assert again is not None

            assert commit_variant(cache, b"body", seq=began) is None
            assert commit_variant(cache, b"body", seq=again.seq, also=((key_hash("mark.png"), began),)) is None
            assert commit_variant(cache, b"body", seq=again.seq) is not None


async def test_a_variant_of_a_replaced_original_cannot_be_committed(tmp_path: Path) -> None:
    """A render of other bytes than the current original's is thrown away."""
    async with opened(tmp_path) as cache:
        facts = commit(cache, b"other bytes")
        assert facts is not None

        assert commit_variant(cache, b"body", seq=facts.seq) is None


async def test_a_purge_recorded_before_a_crash_is_finished_at_start(tmp_path: Path) -> None:
    """A record without its deletion takes the files away before anything is answered."""
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
    """Without the journal that counted them, originals must be asked for again before they are used."""
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
        assert await cache.find(Provenance(facts, HASHED), PLAN) is None
        assert not os.path.exists(path)


async def test_once_all_files_are_known_no_other_is_looked_for(tmp_path: Path) -> None:
    """Before the scan is through, a variant is looked for on disk; after it, only one that was written or found."""
    async with opened(tmp_path, hot_max_bytes=0) as cache:
        facts = commit(cache)
        assert facts is not None
        source = Provenance(facts, HASHED)
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
    """Commits beyond max_bytes evict what was used longest ago."""
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


async def test_a_picture_that_is_always_in_memory_is_not_idle_on_disk(tmp_path: Path) -> None:
    """Hits in memory never touch the file; an eviction counts them all the same, as does the order kept for later."""
    async with opened(tmp_path, max_bytes=100_000) as cache:
        facts = commit(cache)
        assert facts is not None
        popular = commit_variant(cache, b"x" * 10_000, seq=facts.seq)
        assert popular is not None
        cache.hot.put(variant(b"x" * 10_000))
        for number in range(30):
            commit_variant(cache, b"x" * 10_000, seq=facts.seq, plan=f"{number:032x}")
            await settled(cache)
        assert cache.housekeeping.evicted_files > 0
        assert os.path.exists(popular)
        os.utime(popular, (10, 10))

    assert os.stat(popular).st_mtime > 10
