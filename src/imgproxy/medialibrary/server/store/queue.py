"""The outbox: webhook calls that are not delivered yet, in order for each entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.medialibrary.server.state import Delivery

if TYPE_CHECKING:
    import sqlite3

# The oldest call of each entry, if it is due. Later calls of the entry wait for it.
_DUE = """
SELECT id, entry_id, event, body, attempts FROM outbox AS o
WHERE not_before_s <= ? AND seq = (SELECT min(seq) FROM outbox WHERE entry_id = o.entry_id)
ORDER BY seq LIMIT ?
"""


def is_due(db: sqlite3.Connection, now_s: float) -> bool:
    """Return whether a call is due."""
    return db.execute(_DUE, (now_s, 1)).fetchone() is not None


def claim(db: sqlite3.Connection, now_s: float, *, limit: int, lease_s: float) -> list[Delivery]:
    """Return calls that are due. No other process gets them for the next `lease_s`."""
    due = [Delivery(*row) for row in db.execute(_DUE, (now_s, limit))]
    db.executemany("UPDATE outbox SET not_before_s = ? WHERE id = ?", [(now_s + lease_s, each.id) for each in due])
    return due


def forget(db: sqlite3.Connection, delivery_id: str) -> None:
    """Delete a call that was delivered."""
    db.execute("DELETE FROM outbox WHERE id = ?", (delivery_id,))


def postpone(db: sqlite3.Connection, delivery_id: str, until_s: float) -> None:
    """Count a failed attempt. The call is due again at `until_s` (Unix time)."""
    db.execute("UPDATE outbox SET attempts = attempts + 1, not_before_s = ? WHERE id = ?", (until_s, delivery_id))
