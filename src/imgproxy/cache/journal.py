"""
The journal: what a crash must not undo.

    purge, purged_key   the purges: their number, their keys, and which of these may still have files
    unproved_key        keys that are to be proved before they are served: their number is of the same count
    entry_key           the keys last seen for each entry, as a deleted entry can no longer be asked for them
    delivery            webhook deliveries that were handled, each by its id and the digest of its body
    settling            originals to be checked when their settle time ends
    receipt             what purges did
    outbox              calls that downstream caches have not confirmed yet (outbox.py)
    spreading           purges that the other nodes of a cluster have not all applied yet (spreading.py)

When a write returns, it is on disk (journal_file.py). A hit never uses the journal.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.cache.journal_file import JournalFile, PurgedKey, UnprovedKey, new_journal_id
from imgproxy.cache.outbox import OUTBOX_SCHEMA, record_lines
from imgproxy.cache.spreading import SPREADING_SCHEMA, record_place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.spreading import Also

# Livingdocs repeats a delivery for hours at most.
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
CREATE TABLE IF NOT EXISTS unproved_key (key_hash TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry_key (
    entry TEXT NOT NULL, key TEXT NOT NULL, seen_at_s REAL NOT NULL, PRIMARY KEY (entry, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_key_seen ON entry_key (seen_at_s);
CREATE TABLE IF NOT EXISTS delivery (id TEXT PRIMARY KEY, at_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (seq INTEGER PRIMARY KEY, at_s REAL NOT NULL, receipt TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS receipt_at ON receipt (at_s);
CREATE TABLE IF NOT EXISTS settling (key TEXT PRIMARY KEY, due_at_s REAL NOT NULL) WITHOUT ROWID;
"""
_UNSHARED = "entry_keys_unshared_since"
_INSERT_PURGE = "INSERT INTO purge (entry, reason, is_pending, received_at_s) VALUES (?, ?, ?, ?)"
_INSERT_PURGES = (
    "INSERT INTO purge (entry, reason, is_pending, received_at_s) SELECT value, ?, 0, ? FROM json_each(?) WHERE true"
)
_INSERT_ENTRY_KEY = "INSERT OR REPLACE INTO entry_key VALUES (?, ?, ?)"
_FINISH_PENDING = "UPDATE purge SET is_pending = 0 WHERE is_pending AND entry = ? AND seq <= ?"


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt as it was given, as JSON, at the Unix time `at_s`. `is_pending`: its entry is not expanded yet."""

    seq: int
    at_s: float
    receipt: str
    is_pending: bool


class Journal(JournalFile):
    """The journal of one cache directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, _SCHEMA + OUTBOX_SCHEMA + SPREADING_SCHEMA)

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
        also: Also | None = None,
    ) -> int:
        """
        Write a purge of these (key hash, key) pairs. Return its number. It is on disk when this returns.

        Args:
            keys: what is purged.
            entry: the entry that was to be purged; None if only keys were.
            reason: the event or command that caused it.
            is_pending: the keys API has not listed the entry's keys yet.
            settle_at_s: Unix time at which originals fetched since are to be checked again.
            outbox: the calls for the downstream caches.
            expanded: all keys of the entry as the keys API lists them. They are remembered, and its purges up to this
                one are no longer pending.
            also: writes more in the same transaction.
        """

        def write(database: sqlite3.Connection) -> int:
            seq = _next_number(database, entry, reason, is_pending=is_pending)
            database.executemany(
                "INSERT INTO purged_key VALUES (?, ?, ?) ON CONFLICT (key_hash) DO UPDATE SET seq = excluded.seq",
                [(hashed, key, seq) for hashed, key in keys],
            )
            database.executemany("DELETE FROM unproved_key WHERE key_hash = ?", [(hashed,) for hashed, _ in keys])
            _record_checks(database, keys, settle_at_s)
            record_lines(database, seq, outbox)
            if entry is not None and expanded:
                _remember_keys(database, entry, expanded)
                database.execute(_FINISH_PENDING, (entry, seq))
            if also is not None:
                also(database, seq)
            return seq

        return await self.write(write)

    async def record_purge_all(
        self, *, reason: str, outbox: Sequence[OutboxLine] = (), also: Also | None = None
    ) -> int:
        """Write a purge of everything. Return its number. The arguments are those of `record_purge`."""

        def write(database: sqlite3.Connection) -> int:
            seq = _next_number(database, None, reason, is_pending=False)
            database.execute("DELETE FROM purged_key")
            database.execute("DELETE FROM unproved_key")
            database.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)", [("all_purged", str(seq)), ("is_all_open", "1")]
            )
            record_lines(database, seq, outbox)
            if also is not None:
                also(database, seq)
            return seq

        return await self.write(write)

    async def record_order(
        self,
        keys: Sequence[tuple[str, str]],
        *,
        entry: str | None,
        reason: str,
        is_pending: bool = False,
        settle_at_s: float | None = None,
        also: Also | None = None,
    ) -> int:
        """
        Write an order to prove these (key hash, key) pairs. Return its number. It is on disk when this returns.

        The arguments are those of `record_purge`.
        """

        def write(database: sqlite3.Connection) -> int:
            seq = _next_number(database, entry, reason, is_pending=is_pending)
            database.executemany(
                "INSERT OR REPLACE INTO unproved_key VALUES (?, ?)", [(hashed, seq) for hashed, _ in keys]
            )
            _record_checks(database, keys, settle_at_s)
            if also is not None:
                also(database, seq)
            return seq

        return await self.write(write)

    async def finish_purge_all(self) -> None:
        """Note that the last purge of everything has left no file in reach."""
        await self.execute("UPDATE facts SET value = ? WHERE name = 'is_all_open'", [("0",)])

    async def mark_obeyed(self, obeyed: Iterable[UnprovedKey]) -> None:
        """Note that the facts on disk are of a proof after these orders, and that they were synced."""
        rows = [(item.key_hash, item.seq) for item in obeyed]
        await self.execute("DELETE FROM unproved_key WHERE key_hash = ? AND seq = ?", rows)

    async def renew_id(self, reason: str) -> tuple[str, int]:
        """
        Give the journal another id: everything cached counts as unproved. Return the id, and the number of this.

        It is on disk when this returns.
        """
        journal_id = new_journal_id()

        def write(database: sqlite3.Connection) -> int:
            seq = _next_number(database, None, reason, is_pending=False)
            database.execute("UPDATE facts SET value = ? WHERE name = 'journal_id'", (journal_id,))
            database.execute("DELETE FROM unproved_key")
            return seq

        return journal_id, await self.write(write)

    async def finish_pending(self, entry: str, *, up_to_seq: int) -> None:
        """Note that the entry was expanded, or is gone: its pending purges up to this number are done."""
        await self.execute(_FINISH_PENDING, [(entry, up_to_seq)])

    async def pending_entries(self) -> tuple[str, ...]:
        """The entries that are still to be expanded, the longest pending first."""
        rows = await self.read(
            "SELECT entry FROM purge WHERE is_pending AND entry IS NOT NULL GROUP BY entry ORDER BY min(seq)"
        )
        return tuple(entry for (entry,) in rows)

    async def last_purge_of_entry(self, entry: str) -> int:
        """The number of the entry's last purge; 0 if it was never purged."""
        rows = await self.read("SELECT max(seq) FROM purge WHERE entry = ?", (entry,))
        return int(rows[0][0] or 0)

    async def keep_receipts(self, receipts: Sequence[tuple[int, float, str]]) -> None:
        """Keep receipts: number of the purge, Unix time, receipt as JSON. Delete those that are a year old."""

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO receipt VALUES (?, ?, ?)", receipts)
            database.execute("DELETE FROM receipt WHERE at_s < ?", (time.time() - RECEIPTS_KEPT_S,))

        await self.write(write)

    async def receipts(
        self, *, entry: str | None, key: str | None, seq: int | None, count: int
    ) -> tuple[KeptReceipt, ...]:
        """The latest receipts, at most `count`. None for entry, key or seq means any."""
        rows = await self.read(
            "SELECT receipt.seq, at_s, receipt, coalesce(purge.is_pending, 0) "
            "FROM receipt LEFT JOIN purge ON purge.seq = receipt.seq "
            "WHERE (:entry IS NULL OR purge.entry = :entry) AND (:seq IS NULL OR receipt.seq = :seq) "
            "AND (:key IS NULL OR EXISTS (SELECT 1 FROM json_each(receipt, '$.keys') WHERE value = :key)) "
            "ORDER BY receipt.seq DESC LIMIT :count",
            {"entry": entry, "key": key, "seq": seq, "count": count},
        )
        return tuple(KeptReceipt(found, at_s, receipt, bool(is_pending)) for found, at_s, receipt, is_pending in rows)

    async def mark_collected(self, purged: Iterable[PurgedKey]) -> None:
        """Note that no file from before these purges is left, and that the directories were synced."""
        rows = [(item.key_hash, item.seq) for item in purged]
        await self.execute("DELETE FROM purged_key WHERE key_hash = ? AND seq = ?", rows)

    # --- entries and their keys --------------------------------------------------------------------------------

    async def remember_keys(
        self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None
    ) -> tuple[str, ...]:
        """
        Remember the keys of an entry. Return those that were not known before.

        With `finished_seq` these are all its keys: its pending purges up to this number are done.
        """
        seen = list(dict.fromkeys(keys))

        def write(database: sqlite3.Connection) -> tuple[str, ...]:
            known = {row[0] for row in database.execute("SELECT key FROM entry_key WHERE entry = ?", (entry,))}
            _remember_keys(database, entry, seen)
            if finished_seq is not None:
                database.execute(_FINISH_PENDING, (entry, finished_seq))
            return tuple(key for key in seen if key not in known)

        return await self.write(write)

    async def keys_of(self, entry: str) -> tuple[str, ...]:
        """The keys last seen for an entry."""
        return tuple(row[0] for row in await self.read("SELECT key FROM entry_key WHERE entry = ?", (entry,)))

    async def recent_entry_keys(self, count: int) -> dict[str, str]:
        """The keys seen last, at most `count`, each with its entry."""
        return dict(await self.read("SELECT key, entry FROM entry_key ORDER BY seen_at_s DESC LIMIT ?", (count,)))

    async def keys_seen_since(self, since_s: float, *, after: tuple[str, str], count: int) -> list[tuple[str, str]]:
        """The (entry, key) pairs seen since a Unix time, in order, at most `count` of those after this one."""
        rows = await self.read(
            "SELECT entry, key FROM entry_key WHERE seen_at_s >= ? AND (entry, key) > (?, ?) "
            "ORDER BY entry, key LIMIT ?",
            (since_s, *after, count),
        )
        return [(entry, key) for entry, key in rows]

    async def unshared_since(self) -> float:
        """The Unix time since when keys were seen that the cluster does not know; 0: it knows none."""
        rows = await self.read("SELECT value FROM facts WHERE name = ?", (_UNSHARED,))
        return float(rows[0][0]) if rows else 0.0

    async def set_unshared_since(self, since_s: float) -> None:
        """Note since when the cluster does not know what was seen. Infinite: it knows everything."""
        await self.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(_UNSHARED, str(since_s))])

    # --- webhook deliveries ------------------------------------------------------------------------------------

    async def has_delivery(self, delivery: str) -> bool:
        """Whether this delivery was handled before."""
        return bool(await self.read("SELECT 1 FROM delivery WHERE id = ?", (delivery,)))

    async def remember_delivery(self, delivery: str) -> None:
        """Note that the delivery was handled. Delete those that are a month old."""
        now_s = time.time()

        def write(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR IGNORE INTO delivery VALUES (?, ?)", (delivery, now_s))
            database.execute("DELETE FROM delivery WHERE at_s < ?", (now_s - DELIVERIES_KEPT_S,))

        await self.write(write)

    # --- settling ----------------------------------------------------------------------------------------------

    async def settling(self) -> dict[str, float]:
        """Every key to be checked, with the Unix time at which it is due."""
        return dict(await self.read("SELECT key, due_at_s FROM settling"))

    async def settled(self, key: str, due_at_s: float) -> None:
        """Note that the key was checked. A later time, set by a later purge, stays."""
        await self.execute("DELETE FROM settling WHERE key = ? AND due_at_s <= ?", [(key, due_at_s)])


@dataclass(frozen=True, slots=True)
class SpreadEntry:
    """An entry that another node has purged. `keys`: all its keys if the keys API has listed them, else none."""

    entry: str
    reason: str
    keys: tuple[str, ...]


def placing(history: str, number: int, entries: Sequence[SpreadEntry]) -> Also:
    """Return what writes how far the shared log is applied, and which entries it purged, with the purge of the keys."""
    record_entries = purged_entries(entries)

    def also(database: sqlite3.Connection, seq: int) -> None:
        record_entries(database, seq)
        record_place(database, history, number)

    return also


def purged_entries(entries: Sequence[SpreadEntry]) -> Also:
    """Return what writes which entries other nodes have purged, with the purge of the keys."""
    now_s = time.time()
    purged = [(item.entry, item.reason, False, now_s) for item in entries]
    seen = [(item.entry, key, now_s) for item in entries for key in item.keys]

    def also(database: sqlite3.Connection, seq: int) -> None:
        del seq
        database.executemany(_INSERT_PURGE, purged)
        database.executemany(_INSERT_ENTRY_KEY, seen)

    return also


def many_entries_purged(entries: Sequence[str], reason: str) -> Also:
    """As `purged_entries`, for many entries whose keys are not written. SQLite makes the rows, outside of Python."""
    text, now_s = json.dumps(entries), time.time()

    def also(database: sqlite3.Connection, seq: int) -> None:
        del seq
        database.execute(_INSERT_PURGES, (reason, now_s, text))

    return also


def _next_number(database: sqlite3.Connection, entry: str | None, reason: str, *, is_pending: bool) -> int:
    """Write the row of a purge, or of an order to prove. Return its number."""
    seq = database.execute(_INSERT_PURGE, (entry, reason, is_pending, time.time())).lastrowid
    assert seq is not None
    return seq


def _record_checks(database: sqlite3.Connection, keys: Sequence[tuple[str, str]], settle_at_s: float | None) -> None:
    """Write that these keys are to be checked at this Unix time; None: no check."""
    if settle_at_s is not None:
        database.executemany("INSERT OR REPLACE INTO settling VALUES (?, ?)", [(key, settle_at_s) for _, key in keys])


def _remember_keys(database: sqlite3.Connection, entry: str, keys: Iterable[str]) -> None:
    now_s = time.time()
    database.executemany(_INSERT_ENTRY_KEY, [(entry, key, now_s) for key in keys])
