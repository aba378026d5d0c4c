"""The journal: what it remembers over a restart, and what it does with a damaged file."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest

from imgproxy.cache.journal import Journal
from imgproxy.cache.journal_file import PurgedKey
from imgproxy.errors import CacheUnavailable
from tests.support.cache import HASHED, KEY

T = TypeVar("T")


async def test_a_write_of_the_journal_is_synced_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite syncs each transaction (synchronous = FULL is 2). The directory is synced when the journal is opened."""
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
    assert [item.key_hash for item in again.purged] == [HASHED]


async def test_pending_purges_last_until_they_are_finished(tmp_path: Path) -> None:
    """A pending purge is read back until it is finished."""
    journal = Journal(tmp_path)
    await journal.open()
    seq = await journal.record_purge([], entry="e", reason="revoke", is_pending=True)

    pending = await journal.pending_entries()
    await journal.finish_pending("e", up_to_seq=seq)

    assert pending == ("e",)
    assert await journal.pending_entries() == ()
    await journal.close()


async def test_keys_are_remembered_by_entry(tmp_path: Path) -> None:
    """The keys of an entry are read back, and only new ones are returned as new."""
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


async def test_a_damaged_journal_is_set_aside(tmp_path: Path) -> None:
    """The damaged file is kept, and a new journal with another id begins."""
    journal = Journal(tmp_path)
    first = await journal.open()
    await journal.close()
    (tmp_path / "journal.sqlite").write_bytes(b"garbage" * 1000)

    journal = Journal(tmp_path)
    second = await journal.open()
    await journal.close()

    (set_aside,) = tmp_path.glob("journal.damaged-*")
    assert set_aside.read_bytes().startswith(b"garbage")
    assert second.is_doubtful
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


async def test_a_refusal_is_logged_once_until_a_write_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Purges are tried again many times a second while the disk is full. The log does not grow with that."""
    journal = Journal(tmp_path)
    await journal.open()
    for _ in range(3):
        with pytest.raises(CacheUnavailable):
            await journal.execute("INSERT INTO missing VALUES (1)", [()])
    await journal.remember_delivery("d")
    with pytest.raises(CacheUnavailable):
        await journal.execute("INSERT INTO missing VALUES (1)", [()])
    await journal.close()

    assert [record.message for record in caplog.records] == ["the purge journal refuses: no such table: missing"] * 2


async def test_no_cursor_leaves_the_thread_of_the_journal(tmp_path: Path) -> None:
    """A cursor that ended on the event loop reset its statement, and with it a write that was under way."""
    results: list[object] = []

    class Watched(Journal):
        async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
            results.append(await super().write(work))
            return cast("T", results[-1])

    journal = Watched(tmp_path)
    await journal.open()
    await journal.mark_collected([PurgedKey(HASHED, 1)])
    await journal.close()

    assert results == [None]
