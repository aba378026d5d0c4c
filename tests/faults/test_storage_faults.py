"""A damaged or lost journal, a directory that refuses, torn and foreign files, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import key_hash
from imgproxy.cache.wal import has_damaged_tail
from imgproxy.config.sections import CacheSettings, FreshnessSettings
from imgproxy.errors import CacheUnavailable
from tests.support.site import KEY, Site, jpeg, red_of, site, until
from tests.support.small_disk import fill, make_read_only, small_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OLD, NEW = 200, 20
NOT_SETTLING = FreshnessSettings(settle_s=0)
HASHED = key_hash(KEY)


def flip(path: Path, at: int) -> None:
    """Flip every bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# --- the journal -----------------------------------------------------------------------------------------------------


def lose(cache: Path) -> None:
    for path in cache.glob("journal.sqlite*"):
        path.unlink()


def empty(cache: Path) -> None:
    (cache / "journal.sqlite").write_bytes(b"")


def garble(cache: Path) -> None:
    (cache / "journal.sqlite").write_bytes(os.urandom(20_000))


def halve(cache: Path) -> None:
    path = cache / "journal.sqlite"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_header(cache: Path) -> None:
    flip(cache / "journal.sqlite", 18)


def flip_page(cache: Path) -> None:
    flip(cache / "journal.sqlite", 4096 + 1)


def replace_by_another(cache: Path) -> None:
    path = cache / "journal.sqlite"
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE purge (seq INTEGER PRIMARY KEY, something TEXT)")
    database.close()


DAMAGES = (lose, empty, garble, halve, flip_header, flip_page, replace_by_another)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_journal_proves_nothing(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """No cached byte is served before the origin was asked. What the origin confirms is used without a render."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        for target in (f"/{KEY}?w=50", f"/{KEY}"):
            assert (await here.get(target)).status == 200
    damage(tmp_path / "cache")

    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        assert here.metric("imgproxy_journal_damaged") == 1
        here.library.faults.fail_rate = 1.0
        replies = [await here.get(f"/{KEY}?w=50"), await here.get(f"/{KEY}")]
        assert [reply.status for reply in replies] == [502, 502]
        here.library.faults.fail_rate = 0.0
        proved = await here.get(f"/{KEY}?w=50")
        assert proved.status == 200
        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == 1
        assert here.metric("imgproxy_renders_total", lane="visitor", outcome="ok") == 0


async def test_a_picture_revoked_while_the_journal_was_lost_is_refused(tmp_path: Path) -> None:
    """The revalidation finds the revocation whose purge was lost with the journal."""
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.library.mark_invalid(here.library.entry_id(KEY))
    lose(tmp_path / "cache")

    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_byte_flipped_in_the_log_of_the_journal_is_noticed(tmp_path: Path) -> None:
    """SQLite ignores what follows, without an error. The cache of such a copy must be revalidated."""
    async with site(tmp_path):
        pass  # closed in order: now the journal's id is in the database, and not in its log
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.purge(here.library.entry_id(KEY))
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        shutil.copytree(tmp_path / "cache", tmp_path / "crashed", ignore=shutil.ignore_patterns("*-shm"))
    log = tmp_path / "crashed" / "journal.sqlite-wal"
    assert not has_damaged_tail(log)
    size_bytes = log.stat().st_size
    for at in range(40, size_bytes, size_bytes // 50):
        flip(log, at)
        assert has_damaged_tail(log), at
        flip(log, at)
    flip(log, size_bytes // 2)
    shutil.rmtree(tmp_path / "cache")
    os.rename(tmp_path / "crashed", tmp_path / "cache")

    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        assert here.metric("imgproxy_journal_damaged") == 1
        here.library.faults.fail_rate = 1.0
        assert (await here.get(f"/{KEY}?w=50")).status == 502


async def test_a_disk_that_is_full_at_the_start_does_not_cost_the_journal(tmp_path: Path) -> None:
    """The service does not start. When it starts later, the journal is complete."""
    with small_disk(tmp_path / "cache", 4_000_000):
        cache = Cache(CacheSettings(dir=tmp_path / "cache", min_free_bytes=0))
        await cache.start()
        journal_id = cache.epochs.journal_id
        await cache.close()
        filler = fill(tmp_path / "cache")
        cache = Cache(CacheSettings(dir=tmp_path / "cache", min_free_bytes=0))
        with pytest.raises(CacheUnavailable):
            await cache.start()
        filler.unlink()

        cache = Cache(CacheSettings(dir=tmp_path / "cache", min_free_bytes=0))
        await cache.start()
        assert (cache.epochs.journal_id, cache.is_journal_damaged) == (journal_id, False)
        await cache.close()


# --- a directory that refuses ----------------------------------------------------------------------------------------


async def test_a_service_with_a_read_only_cache_does_not_start(tmp_path: Path) -> None:
    """It could not make a purge durable."""
    with small_disk(tmp_path / "cache", 4_000_000) as disk:
        make_read_only(disk)
        with pytest.raises(CacheUnavailable) as refused:
            await Cache(CacheSettings(dir=disk, min_free_bytes=0)).start()

    assert "Read-only" in str(refused.value.__cause__)


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Make the directory immutable, even for root (chattr(1), attribute i)."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", directory], check=False).returncode != 0:
        pytest.skip("a directory cannot be made immutable here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", directory], check=True)


async def test_files_that_cannot_be_taken_away_are_not_served_all_the_same(tmp_path: Path) -> None:
    """Files that the disk does not rename are not served, also after a restart, because the purge is recorded."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        targets = (f"/{KEY}?w=50", f"/{KEY}")
        for target in targets:
            assert (await here.get(target)).status == 200
        key_dir = here.edge.cache.store.key_dir(HASHED)
        with immutable(key_dir):
            await here.library.put(KEY, jpeg(NEW))
            assert (await here.purge(here.library.entry_id(KEY))).status == 200
            assert [(await here.get(target)).status for target in targets] == [503, 503]
            await here.edge.stop()

            async with site(tmp_path, freshness=NOT_SETTLING) as again:
                assert [(await again.get(target)).status for target in targets] == [503, 503]
                assert key_dir.exists()

    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        for target in targets:
            assert red_of((await here.get(target)).body) == pytest.approx(NEW, abs=4)


async def test_a_trash_directory_that_is_gone_does_not_undo_a_purge(tmp_path: Path) -> None:
    """A rename fails with "not found" for a missing target, too. That must not be taken for missing files."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        shutil.rmtree(tmp_path / "cache" / "trash")
        await here.library.put(KEY, jpeg(NEW))
        assert (await here.purge(here.library.entry_id(KEY))).status == 200
        assert not here.edge.cache.store.key_dir(HASHED).exists()

    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        assert red_of((await here.get(f"/{KEY}?w=50")).body) == pytest.approx(NEW, abs=4)


# --- torn and foreign files ------------------------------------------------------------------------------------------


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def garble_middle(path: Path) -> None:
    flip(path, path.stat().st_size // 3)


def put_foreign(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(3000))


def put_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [tear, garble_middle, put_foreign, put_directory], ids=lambda item: item.__name__)
@pytest.mark.parametrize("name", ["facts", "original", "v-*"])
async def test_a_damaged_file_is_a_miss(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    """Whatever the damage, the answer is the right picture."""
    async with site(tmp_path) as here:
        good = await here.get(f"/{KEY}?w=50")
        (path,) = here.edge.cache.store.key_dir(HASHED).glob(name)
    damage(path)

    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).body == good.body
        assert (await here.get(f"/{KEY}")).body == jpeg(OLD)
        assert (await here.get(f"/{KEY}?w=60")).status == 200


# --- the clock -------------------------------------------------------------------------------------------------------


async def asked_again(here: Site, seconds: float) -> bool:
    """Whether the origin is asked, before or after the next answer, when the clock is off by so many seconds."""
    asked_before = here.probe.count("serveImage")
    real_time = time.time
    here.edge.originals._now = lambda: real_time() + seconds
    with patch("time.time", here.edge.originals._now):
        here.edge.originals._retry_at_s.clear()
        reply = await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)
    assert reply.status == 200
    return here.probe.count("serveImage") > asked_before


async def test_a_clock_that_jumps_leads_to_a_revalidation(tmp_path: Path) -> None:
    """After a jump forward proofs are too old. After a jump back they lie in the future. Both are asked for again."""
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        assert not await asked_again(here, 0)
        assert not await asked_again(here, -10)
        assert await asked_again(here, 3_600)
        assert await asked_again(here, -3_600)
