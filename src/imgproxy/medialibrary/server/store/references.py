"""References to entries: by published documents, and by the metadata of other entries."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.server.state import Document, ReferenceRows, UsageEntry
from imgproxy.medialibrary.server.store import rows

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

Referrers = Literal["documents", "media"]

_COUNT: Final[dict[Referrers, str]] = {
    "documents": "SELECT count(*) FROM document_references WHERE entry_id = ?",
    "media": "SELECT count(*) FROM media_references WHERE entry_id = ?",
}
_PAGE: Final[dict[Referrers, str]] = {
    "documents": "SELECT position, document_id, body FROM document_references"
    " WHERE entry_id = ? AND position > ? ORDER BY position LIMIT ? OFFSET ?",
    "media": "SELECT position, referrer_id, body FROM media_references"
    " WHERE entry_id = ? AND position > ? ORDER BY position LIMIT ? OFFSET ?",
}


def page(
    db: sqlite3.Connection, kind: Referrers, entry_id: str, *, limit: int, offset: int, after: int
) -> ReferenceRows:
    """Return the referrers after the position `after`, in the order in which they were added."""
    total = int(db.execute(_COUNT[kind], (entry_id,)).fetchone()[0])
    found = db.execute(_PAGE[kind], (entry_id, after, limit, offset))
    return ReferenceRows(
        total, tuple((position, referrer, tuple(json.loads(body))) for position, referrer, body in found)
    )


def publish(db: sqlite3.Connection, document: Document, now: datetime) -> None:
    """Store a document in place of its earlier version. With a purpose, add it to the usage logs."""
    db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (document.id, json.dumps(asdict(document))))
    known: dict[str, int] = dict(
        db.execute(
            "SELECT entry_id, position FROM document_references WHERE document_id = ?", (document.id,)
        ).fetchall()
    )
    db.execute("DELETE FROM document_references WHERE document_id = ?", (document.id,))
    by_entry: dict[str, list[dict[str, Any]]] = {}
    for reference in document.references:
        by_entry.setdefault(str(reference["id"]), []).append(dict(reference))
    for entry_id, references in by_entry.items():
        position = known.get(entry_id) or rows.next_position(db, "document_references")
        db.execute(
            "INSERT INTO document_references VALUES (?, ?, ?, ?)",
            (entry_id, position, document.id, json.dumps(references)),
        )
        if document.purpose is not None:
            _report_use(db, entry_id, document, document.purpose, now)


def _report_use(db: sqlite3.Connection, entry_id: str, document: Document, purpose: str, now: datetime) -> None:
    entry = rows.load(db, entry_id)
    if entry is None or any(usage.document_id == document.id for usage in entry.usage_log):
        return
    usage = UsageEntry(
        id=rows.new_id(),
        state="confirmed",
        purpose=purpose,
        url=document.url,
        params={},
        publication_date=iso_ms(now),
        reporting_date=iso_ms(now),
        document_id=document.id,
        publication_id=document.publication_id,
    )
    rows.save(db, replace(entry, usage_log=(*entry.usage_log, usage)))
