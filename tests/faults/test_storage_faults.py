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
    """Not one cached byte is served before the origin was asked; what is right is then used, what is not is gone."""
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
    """The purge that the lost journal held is made up for by the question."""
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.library.mark_invalid(here.library.entry_id(KEY))
    lose(tmp_path / "cache")

    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_byte_flipped_in_the_log_of_the_journal_is_noticed(tmp_path: Path) -> None:
    """SQLite drops what follows without a word; a copy taken as by a crash, damaged anywhere, is proved anew."""
    async with site(tmp_path):
        pass  # closed in order: from here on the journal's identity is in the database, and not in its log
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
    """Full is not damaged: the service does not start, and everything is there when it can."""
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


async def test_a_read_only_cache_is_said_at_the_start(tmp_path: Path) -> None:
    """A service that could not make a purge durable does not begin to serve."""
    with small_disk(tmp_path / "cache", 4_000_000) as disk:
        make_read_only(disk)
        with pytest.raises(CacheUnavailable) as refused:
            await Cache(CacheSettings(dir=disk, min_free_bytes=0)).start()

    assert "Read-only" in str(refused.value.__cause__)


@contextmanager
def immovable(directory: Path) -> Iterator[None]:
    """Let nobody rename the directory or change what is in it, not even root (chattr(1), attribute i)."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", directory], check=False).returncode != 0:
        pytest.skip("a directory cannot be made immovable here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", directory], check=True)


async def test_files_that_cannot_be_taken_away_are_not_served_all_the_same(tmp_path: Path) -> None:
    """The record is the purge: what the disk will not let go of stays unreachable, after a restart as well."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        targets = (f"/{KEY}?w=50", f"/{KEY}")
        for target in targets:
            assert (await here.get(target)).status == 200
        key_dir = here.edge.cache.store.key_dir(HASHED)
        with immovable(key_dir):
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
    """Rename says "not found" for its target as well; the files must not be taken for gone."""
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
    """Whatever a file of the cache has become, the answer is the right picture."""
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
    """Whether, with the clock this far off, the origin is asked before or behind the next answer."""
    asked_before = here.probe.count("serveImage")
    real_time = time.time
    with patch("time.time", lambda: real_time() + seconds):
        here.edge.originals._retry_at_s.clear()
        reply = await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)
    assert reply.status == 200
    return here.probe.count("serveImage") > asked_before


async def test_a_clock_that_jumps_leads_to_a_question_not_to_trust(tmp_path: Path) -> None:
    """Forward, proofs are old; back, they come from a future that nobody can know: both are asked for again."""
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        assert not await asked_again(here, 0)
        assert not await asked_again(here, -10)
        assert await asked_again(here, 3_600)
        assert await asked_again(here, -3_600)
