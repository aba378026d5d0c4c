"""
What a node of a cluster keeps in the journal: how far it has applied the shared log, and what it still has to spread.

A change is written in the transaction of its purge, so no crash can come in between. It stays until every node has
taken part and the caches in front are told. A run that ended before leaves its changes to the next one, which spreads
them again: a second time does no harm.

With a change, its lines of the outbox here are deleted: the cluster's outbox has them, or every cache is told. Until
then they are a reserve. If the log cannot be reached for long, they come due here.

The place in the log is written in the transaction of the purge that leads there. So a crash never loses one of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from imgproxy.cache.runs import begin_run

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection

    from imgproxy.cache.journal_file import JournalFile

    # Writes more rows in the transaction of a purge, which has this number.
    Also: TypeAlias = Callable[[sqlite3.Connection, int], None]

SPREADING_SCHEMA = """
CREATE TABLE IF NOT EXISTS spreading (
    id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, change TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS spreading_seq ON spreading (seq);
"""
_PLACE = "cluster_place"
# Only the lines that the change has, too: those of the shared store are this node's own.
_DELETE_HANDED_OVER = """
DELETE FROM outbox WHERE seq = (SELECT seq FROM spreading WHERE id = :row) AND target IN (
    SELECT json_extract(each.value, '$[0]') FROM spreading, json_each(change, '$.outbox') AS each
    WHERE spreading.id = :row)
"""


def recording(change: str) -> Also:
    """Return what writes a change that is to be spread, in the transaction of its purge."""

    def also(database: sqlite3.Connection, seq: int) -> None:
        record_change(database, seq, change)

    return also


@dataclass(frozen=True, slots=True)
class Unspread:
    """A change that is still to be spread: its row, the number of its purge here (0: none), and its text."""

    row: int
    seq: int
    change: str


def record_change(database: sqlite3.Connection, seq: int, change: str) -> None:
    """Write a change that is to be spread. Call it inside the transaction of its purge."""
    database.execute("INSERT INTO spreading (seq, change) VALUES (?, ?)", (seq, change))


def record_place(database: sqlite3.Connection, history: str, number: int) -> None:
    """Write how far the shared log is applied. Call it inside the transaction of the purge that leads there."""
    database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (_PLACE, f"{number} {history}"))


class Spreading:
    """The changes and the place, in one journal. Every method raises CacheUnavailable if the disk refuses."""

    def __init__(self, journal: JournalFile) -> None:
        self._journal = journal

    async def add(self, change: str) -> None:
        """Write a change that belongs to no purge here."""

        def write(database: sqlite3.Connection) -> None:
            record_change(database, 0, change)

        await self._journal.write(write)

    async def after(self, row: int, count: int) -> tuple[Unspread, ...]:
        """The changes after this row, at most `count`, in the order in which they were written."""
        rows = await self._journal.read(
            "SELECT id, seq, change FROM spreading WHERE id > ? ORDER BY id LIMIT ?", (row, count)
        )
        return tuple(Unspread(*found) for found in rows)

    async def seqs(self) -> frozenset[int]:
        """The numbers of all purges that are still to be spread."""
        return frozenset(seq for (seq,) in await self._journal.read("SELECT seq FROM spreading"))

    async def place(self) -> tuple[str, int] | None:
        """The history and the number up to which the log is applied. None: this journal was never in a cluster."""
        rows = await self._journal.read("SELECT value FROM facts WHERE name = ?", (_PLACE,))
        if not rows:
            return None
        number, _, history = rows[0][0].partition(" ")
        return history, int(number)

    async def begin_run(self, run: str, lock: str | None) -> tuple[str, ...]:
        """Write down that this run begins, with the lock that it holds. Return the runs that have ended (runs.py)."""

        def write(database: sqlite3.Connection) -> tuple[str, ...]:
            return begin_run(database, run, lock)

        return await self._journal.write(write)

    async def set_place(self, history: str, number: int, *, done: Collection[int] = ()) -> None:
        """Write the place. Delete the changes of these rows, which are spread."""

        def write(database: sqlite3.Connection) -> None:
            record_place(database, history, number)
            _delete(database, done)

        await self._journal.write(write)

    async def done(self, rows: Collection[int]) -> None:
        """Delete the changes of these rows, which are spread."""
        await self._journal.write(partial(_delete, rows=rows))


def _delete(database: sqlite3.Connection, rows: Collection[int]) -> None:
    database.executemany(_DELETE_HANDED_OVER, [{"row": row} for row in rows])
    database.executemany("DELETE FROM spreading WHERE id = ?", [(row,) for row in rows])
