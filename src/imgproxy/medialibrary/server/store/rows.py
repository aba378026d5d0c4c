"""Reads and writes entries as rows, and queues their events. Runs inside a transaction."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from imgproxy.medialibrary.server.events import event_body
from imgproxy.medialibrary.server.patches import media_references
from imgproxy.medialibrary.server.state import Asset, EntryState, Event, FileFacts, UsageEntry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

WEBHOOK_SETTING: Final = "webhook"
_ALPHABET: Final = string.ascii_letters + string.digits
ID_CHARS: Final = 12
DELIVERY_ID_CHARS: Final = 21


def new_id(chars: int = ID_CHARS) -> str:
    """Return a random id. 12 characters have 71 bits of entropy."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def entry_of(body: str) -> EntryState:
    """Return the entry in a row's JSON."""
    values: dict[str, Any] = json.loads(body)
    values["asset"] = Asset(**values["asset"])
    values["translations"] = {locale: Asset(**asset) for locale, asset in values["translations"].items()}
    values["usage_log"] = tuple(UsageEntry(**usage) for usage in values["usage_log"])
    values["keys"] = tuple(values["keys"])
    return EntryState(**values)


def load(db: sqlite3.Connection, entry_id: str) -> EntryState | None:
    """Return an entry, or None if it is unknown or deleted."""
    row = db.execute("SELECT body FROM entries WHERE id = ? AND NOT is_deleted", (entry_id,)).fetchone()
    return None if row is None else entry_of(row[0])


def owners(db: sqlite3.Connection, key: str) -> list[EntryState]:
    """Return the entries that have or had this key, oldest first. Deleted entries are left out."""
    rows = db.execute(
        "SELECT e.body FROM keys k JOIN entries e ON e.id = k.entry_id"
        " WHERE k.key = ? AND NOT e.is_deleted ORDER BY e.seq",
        (key,),
    )
    return [entry_of(body) for (body,) in rows]


def save(db: sqlite3.Connection, entry: EntryState, events: Iterable[Event] = ()) -> None:
    """Insert or update an entry, its keys and its references, and queue its events."""
    columns = (entry.asset.key, entry.is_served, entry.system_name, entry.external_id, json.dumps(asdict(entry)))
    db.execute(
        "INSERT INTO entries (id, asset_key, is_served, system_name, external_id, body) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET asset_key = excluded.asset_key, is_served = excluded.is_served,"
        " system_name = excluded.system_name, external_id = excluded.external_id, body = excluded.body",
        (entry.id, *columns),
    )
    db.executemany("INSERT OR IGNORE INTO keys (key, entry_id) VALUES (?, ?)", [(key, entry.id) for key in entry.keys])
    _save_media_references(db, entry)
    emit(db, entry.id, events)


def delete(db: sqlite3.Connection, entry: EntryState) -> None:
    """Delete an entry. Its keys become free for other entries."""
    db.execute("UPDATE entries SET is_deleted = 1 WHERE id = ?", (entry.id,))
    db.execute("DELETE FROM media_references WHERE referrer_id = ?", (entry.id,))
    emit(db, entry.id, ["delete"])


def emit(db: sqlite3.Connection, entry_id: str, events: Iterable[Event]) -> None:
    """Queue webhook calls in order, if the library has a webhook."""
    if db.execute("SELECT 1 FROM settings WHERE name = ?", (WEBHOOK_SETTING,)).fetchone() is None:
        return
    for event in events:
        delivery_id = new_id(DELIVERY_ID_CHARS)
        body = event_body(event, delivery_id=delivery_id, entry_id=entry_id)
        db.execute(
            "INSERT INTO outbox (id, entry_id, event, body) VALUES (?, ?, ?, ?)", (delivery_id, entry_id, event, body)
        )


def save_file(db: sqlite3.Connection, facts: FileFacts) -> None:
    """Store the facts of a file."""
    picture, fingerprint = facts.picture, facts.fingerprint
    db.execute(
        "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            facts.key,
            fingerprint.size_bytes,
            fingerprint.mtime_ns,
            fingerprint.inode,
            picture.mime_type if picture else None,
            picture.width_px if picture else None,
            picture.height_px if picture else None,
            facts.digest,
            facts.is_settled,
        ),
    )


def asset_of(facts: FileFacts) -> Asset:
    """Make the asset of a file."""
    picture = facts.picture
    return Asset(
        key=facts.key,
        url=None,
        mime_type=picture.mime_type if picture else "application/octet-stream",
        width_px=picture.width_px if picture else 0,
        height_px=picture.height_px if picture else 0,
        size_bytes=facts.fingerprint.size_bytes,
        filename=facts.key.rpartition("/")[2],
    )


def _save_media_references(db: sqlite3.Connection, entry: EntryState) -> None:
    wanted: dict[str, list[dict[str, str]]] = {}
    for property_name, target in media_references(entry):
        reference = {"id": target, "type": "image", "location": "metadata", "propertyName": property_name}
        wanted.setdefault(target, []).append(reference)
    known = dict(db.execute("SELECT entry_id, position FROM media_references WHERE referrer_id = ?", (entry.id,)))
    for target in known.keys() - wanted.keys():
        db.execute("DELETE FROM media_references WHERE entry_id = ? AND position = ?", (target, known[target]))
    for target, references in wanted.items():
        # A referrer keeps its position when its references change, so that cursors stay valid.
        position = known.get(target) or next_position(db, "media_references")
        db.execute(
            "INSERT OR REPLACE INTO media_references VALUES (?, ?, ?, ?)",
            (target, position, entry.id, json.dumps(references)),
        )


def next_position(db: sqlite3.Connection, table: str) -> int:
    """Return the next free position. What is added later comes later in every list."""
    name = f"last_{table}_position"
    db.execute(
        "INSERT INTO settings VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (name,),
    )
    return int(db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()[0])
