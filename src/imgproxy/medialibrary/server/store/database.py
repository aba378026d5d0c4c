"""
The SQLite database of the embedded library: its tables, and transactions.

`entries` has each entry as JSON, and the columns that queries need. `keys` says which entries have or had a key; a key
may belong to several entries. `files` has the facts of each file when it was last read. `outbox` has the webhook calls
that are not delivered yet.

The database uses a write-ahead log with `synchronous=FULL`: a committed change is on the disk, and several processes
can use the same library. Sources: sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from imgproxy.medialibrary.server.problems import named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_TIMEOUT_S: Final = 15.0
SCHEMA_VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    asset_key TEXT NOT NULL,
    is_served INTEGER NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0,
    system_name TEXT,
    external_id TEXT,
    body TEXT NOT NULL
);
CREATE INDEX entries_by_asset ON entries (asset_key);
CREATE INDEX entries_by_external ON entries (system_name, external_id);
CREATE TABLE keys (key TEXT NOT NULL, entry_id TEXT NOT NULL, PRIMARY KEY (key, entry_id)) WITHOUT ROWID;
CREATE TABLE files (
    key TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    mime_type TEXT,
    width_px INTEGER,
    height_px INTEGER,
    digest TEXT NOT NULL,
    is_settled INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE document_references (
    entry_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    document_id INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (entry_id, position)
) WITHOUT ROWID;
CREATE TABLE media_references (
    entry_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    referrer_id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (entry_id, position)
) WITHOUT ROWID;
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    entry_id TEXT NOT NULL,
    event TEXT NOT NULL,
    body BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before_s REAL NOT NULL DEFAULT 0
);
CREATE INDEX outbox_by_entry ON outbox (entry_id, seq);
"""


class Database:
    """
    One connection for all threads. Hold `lock` while you use `connection`; `transaction` holds it.

    Raises:
        sqlite3.Error: if the file cannot be opened, or another version of this program wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.connection = _connect(path)
        self.lock = threading.RLock()

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """
        Run a block in a transaction. An exception rolls it back.

        Raises:
            Problem: 503 if the database is busy for `BUSY_TIMEOUT_S`, or cannot be written.
        """
        with self.lock:
            try:
                self.connection.execute(f"BEGIN {kind}")
                yield
                self.connection.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                raise named(503, "ServiceUnavailable", "The state of the library cannot be written now") from exc
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    if found not in {0, SCHEMA_VERSION}:
        db.close()
        raise sqlite3.DatabaseError(f"it was written by another version of this program: {found}")
    return db
