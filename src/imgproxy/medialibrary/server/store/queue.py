"""The outbox: webhook calls that are due, in order per entry, until they are delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.medialibrary.server.state import Delivery

if TYPE_CHECKING:
    import sqlite3

# The oldest call of each entry, if it is due: a later one of the same entry waits for it.
_DUE = """
SELECT id, entry_id, event, body, attempts FROM outbox AS o
WHERE not_before_s <= ? AND seq = (SELECT min(seq) FROM outbox WHERE entry_id = o.entry_id)
ORDER BY seq LIMIT ?
"""


def is_due(db: sqlite3.Connection, now_s: float) -> bool:
    """Whether there is anything to deliver now."""
    return db.execute(_DUE, (now_s, 1)).fetchone() is not None


def claim(db: sqlite3.Connection, now_s: float, *, limit: int, lease_s: float) -> list[Delivery]:
    """Take calls that are due; until `lease_s` from now no other process will take them."""
    due = [Delivery(*row) for row in db.execute(_DUE, (now_s, limit))]
    db.executemany("UPDATE outbox SET not_before_s = ? WHERE id = ?", [(now_s + lease_s, each.id) for each in due])
    return due


def forget(db: sqlite3.Connection, delivery_id: str) -> None:
    """A call was delivered."""
    db.execute("DELETE FROM outbox WHERE id = ?", (delivery_id,))


def postpone(db: sqlite3.Connection, delivery_id: str, until_s: float) -> None:
    """A call failed; it is due again at `until_s`."""
    db.execute("UPDATE outbox SET attempts = attempts + 1, not_before_s = ? WHERE id = ?", (until_s, delivery_id))


def count(db: sqlite3.Connection) -> int:
    """Return how many calls are not delivered yet."""
    return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])
