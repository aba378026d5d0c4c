"""
The journal: what a crash must not undo, in SQLite.

It holds the purges (which keys, under which number, whether their files are gone), the keys last seen for each entry
(a deleted entry can no longer be asked), webhook deliveries already handled, originals to be checked when their settle
time ends, and downstream purges not yet acknowledged (outbox.py). Every write is one transaction in WAL mode with
synchronous=FULL: when it returns, it is on disk (https://sqlite.org/pragma.html#pragma_synchronous). It is never on the
way of a hit.

One thread writes, another reads, so that a question does not wait for a sync; the event loop awaits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgproxy.cache.outbox import OUTBOX_SCHEMA, record_lines
from imgproxy.cache.wal import has_damaged_tail
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.outbox import OutboxLine

log = logging.getLogger(__name__)

# SQLite's words for a file that is damaged, or is none of ours. Others (full, locked) say nothing of it. "Read-only" is
# also what it calls a file of a version it does not know; the directory itself was found to be writable before.
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_READONLY,
    }
)
# Livingdocs repeats a delivery for hours at most; a month is far beyond.
DELIVERIES_KEPT_S = 30 * 86_400
RECEIPTS_KEPT_S = 366 * 86_400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS purge (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT, reason TEXT NOT NULL,
    is_pending INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, received_at_s REAL NOT NULL);
CREATE INDEX IF NOT EXISTS purge_pending ON purge (entry) WHERE is_pending;
CREATE INDEX IF NOT EXISTS purge_entry ON purge (entry, seq);
CREATE TABLE IF NOT EXISTS purged_key (
    key_hash TEXT PRIMARY KEY, key TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry_key (
    entry TEXT NOT NULL, key TEXT NOT NULL, seen_at_s REAL NOT NULL, PRIMARY KEY (entry, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_key_seen ON entry_key (seen_at_s);
CREATE TABLE IF NOT EXISTS delivery (id TEXT PRIMARY KEY, at_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (seq INTEGER PRIMARY KEY, at_s REAL NOT NULL, receipt TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS receipt_at ON receipt (at_s);
CREATE TABLE IF NOT EXISTS settling (key TEXT PRIMARY KEY, due_at_s REAL NOT NULL) WITHOUT ROWID;
"""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PurgedKey:
    """A key whose files of before purge `seq` may still be on disk."""

    key_hash: str
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class PendingPurge:
    """A purge of an entry that could not be expanded by the keys API yet."""

    seq: int
    entry: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class JournalState:
    """What is read once, before the port opens."""

    journal_id: str
    seq: int
    purged: tuple[PurgedKey, ...]  # not yet collected
    is_new: bool  # it has another id than the cache's facts may have: none of them is proved
    set_aside: Path | None  # the damaged journal this one replaces
    is_doubtful: bool  # purges may have been lost


class Journal:
    """The journal of one cache directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "journal.sqlite"
        self._thread = ThreadPoolExecutor(1, "journal")
        self._reading_thread = ThreadPoolExecutor(1, "journal reader")
        self._database: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    async def open(self) -> JournalState:
        """
        Open or create the journal; a damaged one is set aside and replaced, which the state says.

        Raises:
            CacheUnavailable: it cannot be read or written, which is no sign of damage.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except (sqlite3.Error, OSError) as exc:
            await self.close()
            raise CacheUnavailable from exc

    def _open(self) -> JournalState:
        set_aside = None
        is_tail_lost = has_damaged_tail(Path(f"{self._path}-wal"))
        try:
            self._database = self._connect()
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            set_aside = self._set_aside(exc)
            self._database = self._connect()
        is_new = not self._has_id()
        has_content = is_new and _has_subdirectory(self._directory / "keys")
        if is_tail_lost and not is_new:
            log.critical("the end of the purge journal is damaged: every original is asked for again before it is used")
            self._forget_id()
            is_new = True
        elif has_content and set_aside is None:
            log.critical("the purge journal is gone: every original is asked for again before it is used")
        _sync_directory(self._directory)
        self._reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._reader.execute("PRAGMA query_only = ON")
        rows = self._database.execute("SELECT key_hash, key, seq FROM purged_key").fetchall()
        return JournalState(
            journal_id=self._fact("journal_id", secrets.token_hex(4)),
            seq=self._sequence(),
            purged=tuple(PurgedKey(*row) for row in rows),
            is_new=is_new,
            set_aside=set_aside,
            is_doubtful=set_aside is not None or is_tail_lost or has_content,
        )

    def _set_aside(self, reason: Exception) -> Path:
        set_aside = self._path.with_name(f"journal.damaged-{int(time.time())}-{secrets.token_hex(2)}")
        log.critical(
            "the purge journal is damaged (%s); it is set aside as %s, and every original is asked for again",
            reason,
            set_aside.name,
        )
        for suffix in ("", "-wal", "-shm"):
            damaged = Path(f"{self._path}{suffix}")
            if damaged.exists():
                os.rename(damaged, f"{set_aside}{suffix}")
        return set_aside

    def _has_id(self) -> bool:
        return self._require().execute("SELECT 1 FROM facts WHERE name = 'journal_id'").fetchone() is not None

    def _forget_id(self) -> None:
        self._require().execute("DELETE FROM facts WHERE name = 'journal_id'")

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            # quick_check reads every page; a journal is small, and an answer built on a damaged one is worse.
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))
            database.executescript(_SCHEMA + OUTBOX_SCHEMA)
            # Also to see whether it can be written at all.
            database.execute("INSERT OR REPLACE INTO facts VALUES ('opened_at_s', ?)", (str(time.time()),))
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _fact(self, name: str, default: str) -> str:
        database = self._require()
        database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
        row = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def _sequence(self) -> int:
        """The highest number ever given; AUTOINCREMENT never gives one twice, even after rows are deleted."""
        row = self._require().execute("SELECT seq FROM sqlite_sequence WHERE name = 'purge'").fetchone()
        return int(row[0]) if row else 0

    # --- purges ------------------------------------------------------------------------------------------------

    async def record_purge(
        self,
        keys: Sequence[tuple[str, str]],
        *,
        entry: str | None,
        reason: str,
        is_pending: bool = False,
        settle_at_s: float | None = None,
        outbox: Sequence[OutboxLine] = (),
        expanded: Sequence[str] = (),
    ) -> int:
        """
        Write a purge of these (key hash, key) pairs; its number. On disk when this returns.

        Args:
            keys: what is purged.
            entry: the entry they belong to, where that is what was asked for.
            reason: the event or command behind it.
            is_pending: the entry is still to be expanded by the keys API.
            settle_at_s: Unix time at which originals fetched since are to be checked again.
            outbox: what the caches in front have to be told; see outbox.py.
            expanded: all keys of the entry as the keys API lists them: they are remembered, and its purges up to this
                one are not pending any more.
        """

        def write(database: sqlite3.Connection) -> int:
            seq = database.execute(
                "INSERT INTO purge (entry, reason, is_pending, received_at_s) VALUES (?, ?, ?, ?)",
                (entry, reason, is_pending, time.time()),
            ).lastrowid
            assert seq is not None
            database.executemany(
                "INSERT INTO purged_key VALUES (?, ?, ?) ON CONFLICT (key_hash) DO UPDATE SET seq = excluded.seq",
                [(hashed, key, seq) for hashed, key in keys],
            )
            if settle_at_s is not None:
                database.executemany(
                    "INSERT OR REPLACE INTO settling VALUES (?, ?)", [(key, settle_at_s) for _, key in keys]
                )
            record_lines(database, seq, outbox)
            if entry is not None and expanded:
                _remember_keys(database, entry, expanded)
                _finish_pending(database, entry, seq)
            return seq

        return await self.write(write)

    async def finish_pending(self, entry: str, *, up_to_seq: int) -> None:
        """The entry was expanded, or is known to be gone: its pending purges up to this number are done."""
        await self.write(lambda database: _finish_pending(database, entry, up_to_seq))

    async def pending_purges(self) -> tuple[PendingPurge, ...]:
        """Purges still to be expanded, oldest first."""
        rows = await self.read(
            "SELECT seq, entry, reason, attempts FROM purge WHERE is_pending AND entry IS NOT NULL ORDER BY seq"
        )
        return tuple(PendingPurge(*row) for row in rows)

    async def last_purge_of_entry(self, entry: str) -> int:
        """The number of the entry's last purge, 0 if it was never purged."""
        rows = await self.read("SELECT max(seq) FROM purge WHERE entry = ?", (entry,))
        return int(rows[0][0] or 0)

    async def keep_receipts(self, receipts: Sequence[tuple[int, float, str]]) -> None:
        """Keep what purges did: their number, the Unix time, the receipt as JSON; forgets those a year old."""

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO receipt VALUES (?, ?, ?)", receipts)
            database.execute("DELETE FROM receipt WHERE at_s < ?", (time.time() - RECEIPTS_KEPT_S,))

        await self.write(write)

    async def mark_collected(self, purged: Iterable[PurgedKey]) -> None:
        """These keys' files of before their purge are gone for good (the directories were synced)."""
        rows = [(item.key_hash, item.seq) for item in purged]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("DELETE FROM purged_key WHERE key_hash = ? AND seq = ?", rows)

        await self.write(write)

    # --- entries and their keys --------------------------------------------------------------------------------

    async def remember_keys(
        self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None
    ) -> tuple[str, ...]:
        """
        Note the keys seen for an entry; returns those that were not known for it before.

        With `finished_seq` the entry was expanded by them: its pending purges up to this number are done.
        """
        seen = list(dict.fromkeys(keys))

        def write(database: sqlite3.Connection) -> tuple[str, ...]:
            known = {row[0] for row in database.execute("SELECT key FROM entry_key WHERE entry = ?", (entry,))}
            _remember_keys(database, entry, seen)
            if finished_seq is not None:
                _finish_pending(database, entry, finished_seq)
            return tuple(key for key in seen if key not in known)

        return await self.write(write)

    async def keys_of(self, entry: str) -> tuple[str, ...]:
        """The keys last seen for an entry."""
        return tuple(row[0] for row in await self.read("SELECT key FROM entry_key WHERE entry = ?", (entry,)))

    async def recent_entry_keys(self, count: int) -> dict[str, str]:
        """The keys seen last, each with its entry, for the cache tags."""
        return dict(await self.read("SELECT key, entry FROM entry_key ORDER BY seen_at_s DESC LIMIT ?", (count,)))

    # --- webhook deliveries ------------------------------------------------------------------------------------

    async def has_delivery(self, delivery_id: str) -> bool:
        """Whether this delivery was handled before."""
        return bool(await self.read("SELECT 1 FROM delivery WHERE id = ?", (delivery_id,)))

    async def remember_delivery(self, delivery_id: str) -> None:
        """The delivery was handled; forgets those a month old."""

        def write(database: sqlite3.Connection) -> None:
            now_s = time.time()
            database.execute("INSERT OR IGNORE INTO delivery VALUES (?, ?)", (delivery_id, now_s))
            database.execute("DELETE FROM delivery WHERE at_s < ?", (now_s - DELIVERIES_KEPT_S,))

        await self.write(write)

    # --- settling ----------------------------------------------------------------------------------------------

    async def settling(self) -> dict[str, float]:
        """Every key to be checked, with the time it is due."""
        return dict(await self.read("SELECT key, due_at_s FROM settling"))

    async def settled(self, key: str, due_at_s: float) -> None:
        """The key was checked; a later purge may have set a later time, which stays."""

        def write(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM settling WHERE key = ? AND due_at_s <= ?", (key, due_at_s))

        await self.write(write)

    # --- the machinery -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the database and end the thread."""
        loop = asyncio.get_running_loop()
        # The writer last: who closes last copies the write-ahead log into the database.
        for thread, database in ((self._reading_thread, self._reader), (self._thread, self._database)):
            if database is not None:
                await loop.run_in_executor(thread, database.close)
            thread.shutdown()
        self._database = self._reader = None

    def _require(self) -> sqlite3.Connection:
        assert self._database is not None, "the journal is open from start to close"
        return self._database

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        def call() -> Result:
            try:
                return work()
            except sqlite3.Error as exc:
                log.error("the purge journal refuses: %s", exc)  # noqa: TRY400 SQLite's words say it all
                raise CacheUnavailable from exc

        return await asyncio.get_running_loop().run_in_executor(thread, call)

    async def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """
        Run one transaction; it is shielded, so that a client that leaves does not leave it half awaited.

        Raises:
            CacheUnavailable: the disk refuses; nothing of the transaction was written.
        """

        def call() -> Result:
            database = self._require()
            database.execute("BEGIN IMMEDIATE")
            try:
                result = work(database)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite itself rolls back where the disk is full
                    database.execute("ROLLBACK")
                raise
            return result

        return await asyncio.shield(asyncio.ensure_future(self._run(self._thread, call)))

    async def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one query; it sees every write that has returned. Raises CacheUnavailable."""

        def call() -> list[tuple[Any, ...]]:
            assert self._reader is not None, "the journal is open from start to close"
            return self._reader.execute(query, values).fetchall()

        return await self._run(self._reading_thread, call)


def _remember_keys(database: sqlite3.Connection, entry: str, keys: Iterable[str]) -> None:
    now_s = time.time()
    database.executemany("INSERT OR REPLACE INTO entry_key VALUES (?, ?, ?)", [(entry, key, now_s) for key in keys])


def _finish_pending(database: sqlite3.Connection, entry: str, up_to_seq: int) -> None:
    database.execute("UPDATE purge SET is_pending = 0 WHERE is_pending AND entry = ? AND seq <= ?", (entry, up_to_seq))


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; SQLite syncs its files, the new file's name is ours to sync."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_subdirectory(directory: Path) -> bool:
    try:
        with os.scandir(directory) as found:
            return any(item.is_dir() for item in found)
    except OSError:
        return False
