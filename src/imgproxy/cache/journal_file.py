"""
The journal's file: an SQLite database, written by one thread and read by another.

Every write is one transaction in WAL mode with synchronous=FULL: when it returns, it is on disk
(https://sqlite.org/pragma.html#pragma_synchronous). A read never waits for a write's sync.

The file is checked when it is opened. A damaged one is renamed, and replaced by a new one with another id. An older one
is migrated (journal_versions.py). For the tables see journal.py and outbox.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgproxy.cache.journal_versions import NewerJournal, migrate, refuse_newer
from imgproxy.cache.threads import yielding_thread
from imgproxy.cache.wal import has_damaged_tail
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

# SQLite's error codes for a damaged or foreign file. Other codes (full, locked) do not mean damage. READONLY also means
# a file of an unknown version: the directory was found to be writable before.
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_READONLY,
    }
)
# Of the journal's threads, below the event loop and above the threads that delete files: purges wait for them.
NICENESS = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PurgedKey:
    """A key whose files from before purge `seq` may still be on disk."""

    key_hash: str
    seq: int


@dataclass(frozen=True, slots=True)
class UnprovedKey:
    """A key that is to be proved since order `seq`. Its proof may not be on disk."""

    key_hash: str
    seq: int


@dataclass(frozen=True, slots=True)
class JournalState:
    """What is read from the journal once, at start."""

    journal_id: str
    seq: int
    purged: tuple[PurgedKey, ...]  # files may be left of these
    all_purged: int  # the number of the last purge of everything; 0: none
    is_all_open: bool  # it may have left files
    unproved: tuple[UnprovedKey, ...]
    is_doubtful: bool  # purges may have been lost


class JournalFile:
    """The database in one cache directory. `schema` creates the tables that are missing."""

    def __init__(self, directory: Path, schema: str) -> None:
        self._directory = directory
        self._schema = schema
        self._path = directory / "journal.sqlite"
        self._thread = yielding_thread("journal", NICENESS)
        self._reading_thread = yielding_thread("journal reader", NICENESS)
        self._database: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._last_refusal = ""  # SQLite's text, until a write succeeds

    async def open(self) -> JournalState:
        """
        Open or create the journal. A damaged one is set aside and replaced.

        Raises:
            CacheUnavailable: it cannot be read or written, for another reason than damage, or is of a later version.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except (sqlite3.Error, OSError, NewerJournal) as exc:
            await self.close()
            raise CacheUnavailable from exc

    def _open(self) -> JournalState:
        is_damaged = False
        is_tail_lost = has_damaged_tail(Path(f"{self._path}-wal"))
        try:
            self._database = self._connect()
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            self._set_aside(exc)
            is_damaged = True
            self._database = self._connect()
        is_new = not self._has_id()
        has_content = is_new and _has_subdirectory(self._directory / "keys")
        if is_tail_lost and not is_new:
            log.critical("the end of the purge journal is damaged: every original is asked for again before it is used")
            self._forget_id()
        elif has_content and not is_damaged:
            log.critical("the purge journal is gone: every original is asked for again before it is used")
        _sync_directory(self._directory)
        self._reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._reader.execute("PRAGMA query_only = ON")
        purged = self._database.execute("SELECT key_hash, seq FROM purged_key").fetchall()
        unproved = self._database.execute("SELECT key_hash, seq FROM unproved_key").fetchall()
        return JournalState(
            journal_id=self._fact("journal_id", new_journal_id()),
            seq=self._sequence(),
            all_purged=int(self._fact("all_purged", "0")),
            is_all_open=self._fact("is_all_open", "0") != "0",
            purged=tuple(PurgedKey(*row) for row in purged),
            unproved=tuple(UnprovedKey(*row) for row in unproved),
            is_doubtful=is_damaged or is_tail_lost or has_content,
        )

    def _set_aside(self, reason: Exception) -> None:
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

    def _has_id(self) -> bool:
        return self._require().execute("SELECT 1 FROM facts WHERE name = 'journal_id'").fetchone() is not None

    def _forget_id(self) -> None:
        self._require().execute("DELETE FROM facts WHERE name = 'journal_id'")

    def _connect(self) -> sqlite3.Connection:
        refuse_newer(self._path)
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            # It reads every page. The journal is small.
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(str(found))
            migrate(database, self._schema)
            # This also fails if the database cannot be written.
            database.execute("INSERT OR REPLACE INTO facts VALUES ('opened_at_s', ?)", (str(time.time()),))
        except (sqlite3.Error, NewerJournal):
            database.close()
            raise
        return database

    def _fact(self, name: str, default: str) -> str:
        database = self._require()
        database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
        row = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def _sequence(self) -> int:
        """The highest number ever used. AUTOINCREMENT never uses a number twice, even after rows are deleted."""
        row = self._require().execute("SELECT seq FROM sqlite_sequence WHERE name = 'purge'").fetchone()
        return int(row[0]) if row else 0

    async def close(self) -> None:
        """Close the database and end the threads."""
        loop = asyncio.get_running_loop()
        # The writer last: the last connection to close copies the write-ahead log into the database.
        for thread, database in ((self._reading_thread, self._reader), (self._thread, self._database)):
            if database is not None:
                await loop.run_in_executor(thread, database.close)
            thread.shutdown()
        self._database = self._reader = None

    def _require(self) -> sqlite3.Connection:
        assert self._database is not None, "the journal is open from start to close"
        return self._database

    def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` in a thread. The future raises CacheUnavailable for every error of SQLite."""

        def call() -> T:
            try:
                return work()
            except sqlite3.Error as exc:
                # Once: a full disk refuses every write of a purge that is tried again.
                if str(exc) != self._last_refusal:
                    self._last_refusal = str(exc)
                    log.error("the purge journal refuses: %s", exc)  # noqa: TRY400 SQLite's text is enough
                raise CacheUnavailable from exc

        return asyncio.get_running_loop().run_in_executor(thread, call)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run `work` as one transaction, and return its result. It goes on if the caller is cancelled.

        The result must hold no cursor: the loop would end it, and reset a statement that a later write may be using.

        Raises:
            CacheUnavailable: the disk refuses. Nothing of the transaction was written.
        """

        def call() -> T:
            database = self._require()
            database.execute("BEGIN IMMEDIATE")
            try:
                result = work(database)
                database.execute("COMMIT")
                self._last_refusal = ""
            except BaseException:
                if database.in_transaction:  # if the disk is full, SQLite has rolled back itself
                    database.execute("ROLLBACK")
                raise
            return result

        return await asyncio.shield(self._run(self._thread, call))

    async def execute(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of these rows of values, as one transaction. Raises as `write`."""

        def work(database: sqlite3.Connection) -> None:
            database.executemany(statement, rows)

        await self.write(work)

    async def read(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Run one query; it sees every write that has returned. Raises CacheUnavailable."""

        def call() -> list[tuple[Any, ...]]:
            assert self._reader is not None, "the journal is open from start to close"
            return self._reader.execute(query, values).fetchall()

        return await self._run(self._reading_thread, call)


def new_journal_id() -> str:
    """Make the id of a new journal. Facts of another id count as unproved."""
    return secrets.token_hex(4)


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. SQLite syncs the content of its files, not the name of a new one."""
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
