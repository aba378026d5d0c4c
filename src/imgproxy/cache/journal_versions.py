"""
The versions of the journal's tables: an older journal is migrated step by step, a newer one is refused.

The version is SQLite's `user_version`. Steps and version are written in one transaction, so a crash leaves the old
journal or the new one. A change of the tables in journal.py or outbox.py needs a step here, and a test in
`tests/unit/test_cache_versions.py` with a journal as it was before. A new table needs no step: it is made if missing.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Where an SQLite file has its user_version: 4 bytes, big-endian (sqlite.org/fileformat2.html, section 1.3).
_HEADER_BYTES: Final = 64
_VERSION_AT: Final = 60


class NewerJournal(Exception):
    """The journal is of a later version of imgproxy."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"its journal has version {version}, and this imgproxy knows versions up to {JOURNAL_VERSION}; "
            "run the imgproxy that wrote it, or a later one, or give this one a directory of its own"
        )


def refuse_newer(path: Path) -> None:
    """Raise NewerJournal if this journal is of a later version. Its file is only read, and may be missing."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return
    version = int.from_bytes(header[_VERSION_AT:])
    if header.startswith(b"SQLite format 3\0") and version > JOURNAL_VERSION:
        raise NewerJournal(version)


def migrate(database: sqlite3.Connection, schema: str) -> None:
    """
    Bring the tables to the current version, and make those that are missing.

    Raises:
        NewerJournal: they are of a later version. Nothing was changed.
        sqlite3.Error: they are of no known version, or the disk refuses. Nothing was changed.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > JOURNAL_VERSION:
        raise NewerJournal(version)
    database.execute("BEGIN IMMEDIATE")
    try:
        for step in _STEPS[version:]:
            step(database)
        for statement in schema.split(";"):
            database.execute(statement)
        _check_columns(database, schema)
        database.execute(f"PRAGMA user_version = {JOURNAL_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    if version != JOURNAL_VERSION:
        # The version is then in the file itself, where `refuse_newer` looks for it.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _name_no_collected_keys(database: sqlite3.Connection) -> None:
    """
    Migrate the three formats that had no version.

    The first two kept purged keys whose files are gone, with a mark. The first had an outbox that nothing wrote to.
    """
    if "is_collected" in _columns(database, "purged_key"):
        database.execute("DROP INDEX IF EXISTS purged_key_open")
        database.execute("DELETE FROM purged_key WHERE is_collected")
        database.execute("ALTER TABLE purged_key DROP COLUMN is_collected")
    if "payload" in _columns(database, "outbox"):
        database.execute("DROP TABLE outbox")
    database.execute("DROP INDEX IF EXISTS entry_of_key")


def _check_columns(database: sqlite3.Connection, schema: str) -> None:
    """Raise DatabaseError if a table has other columns than the schema: each write to it would fail."""
    fresh = sqlite3.connect(":memory:")
    fresh.executescript(schema)
    tables = fresh.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    wrong = [name for (name,) in tables if _columns(database, name) != _columns(fresh, name)]
    fresh.close()
    if wrong:
        raise sqlite3.DatabaseError(f"unknown columns in {', '.join(wrong)}")


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; none if there is no such table."""
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


# The first step leads from version 0, which is every journal without a version, to 1.
_STEPS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (_name_no_collected_keys,)
JOURNAL_VERSION: Final = len(_STEPS)
