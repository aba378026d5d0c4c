"""
Applies changes of the folder to the library. Runs inside a transaction.

- A new picture makes a new entry. A new picture under `v/` is a variant of the entry with the same name.
- Other bytes under a key update the entries that own the key.
- An entry whose own picture was deleted is deleted.

Each file is checked again inside the transaction: another process may have scanned the folder at the same time and
have applied a newer change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.server.folder import current_fingerprint
from imgproxy.medialibrary.server.keys import owner_of_variant, stem_of
from imgproxy.medialibrary.server.pictures import Picture
from imgproxy.medialibrary.server.state import VARIANT_PREFIX, Asset, EntryState, FileFacts, Fingerprint
from imgproxy.medialibrary.server.store import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from datetime import datetime


@dataclass(slots=True)
class Merge:
    """One merge of the folder into the library. `changes` counts the changed entries."""

    db: sqlite3.Connection
    folder: str
    now: datetime
    is_first: bool  # the first scan of a library queues no webhook calls
    is_lenient: bool  # make entries of files that are not pictures, too
    warnings: list[str] = field(default_factory=list)
    changes: int = 0

    def run(self, read: Iterable[FileFacts], gone: Iterable[str]) -> None:
        """Apply new and changed files (`read`), and keys whose file was deleted (`gone`)."""
        for key in sorted(gone):
            if current_fingerprint(self.folder, key) is None:
                self._remove(key)
        for facts in sorted(read, key=lambda facts: (facts.key.startswith(VARIANT_PREFIX), facts.key)):
            self._apply(facts)

    def _apply(self, facts: FileFacts) -> None:
        known = stored_file(self.db, facts.key)
        if current_fingerprint(self.folder, facts.key) != facts.fingerprint:
            return  # it has changed again; the next scan finds it
        if known is not None and known.fingerprint == facts.fingerprint and known.digest == facts.digest:
            if known.is_settled != facts.is_settled:
                rows.save_file(self.db, facts)
            return
        if known is None:
            if facts.picture is None and not self.is_lenient:
                self.warnings.append(f"{facts.key}: skipped, it is not a readable picture")
                return
            if not self._add(facts):
                return
        elif not _has_same_bytes(known, facts):
            self._update(facts)  # also if the new bytes are not a readable picture
        rows.save_file(self.db, facts)

    def _add(self, facts: FileFacts) -> bool:
        if rows.owners(self.db, facts.key):
            self._update(facts)
            return True
        if facts.key.startswith(VARIANT_PREFIX):
            return self._add_variant(facts)
        now = iso_ms(self.now)
        entry = EntryState(
            id=rows.new_id(),
            version=1,
            asset=rows.asset_of(facts),
            created_at=now,
            updated_at=now,
            metadata={"title": stem_of(facts.key).rpartition("/")[2]},
            keys=(facts.key,),
        )
        rows.save(self.db, entry, () if self.is_first else ("create",))
        self.changes += 1
        return True

    def _add_variant(self, facts: FileFacts) -> bool:
        listed = self.db.execute("SELECT asset_key, id FROM entries WHERE NOT is_deleted ORDER BY seq")
        owner_id = owner_of_variant(facts.key, {stem_of(key): entry_id for key, entry_id in listed})
        owner = None if owner_id is None else rows.load(self.db, owner_id)
        if owner is None:
            self.warnings.append(f"{facts.key}: skipped, there is no entry for this variant")
            return False
        self._change(replace(owner, keys=(*owner.keys, facts.key)))
        return True

    def _update(self, facts: FileFacts) -> None:
        for entry in rows.owners(self.db, facts.key):
            asset, translations = entry.asset, entry.translations
            if asset.key == facts.key:
                asset = _refreshed(entry.asset, facts)
            translations = {
                locale: _refreshed(asset, facts) if asset.key == facts.key else asset
                for locale, asset in translations.items()
            }
            self._change(replace(entry, asset=asset, translations=translations))

    def _remove(self, key: str) -> None:
        for entry in rows.owners(self.db, key):
            if entry.asset.key == key:
                rows.delete(self.db, entry)
                self.changes += 1
            else:
                self._change(entry)
        self.db.execute("DELETE FROM files WHERE key = ?", (key,))

    def _change(self, entry: EntryState) -> None:
        changed = replace(entry, version=entry.version + 1, updated_at=iso_ms(self.now))
        rows.save(self.db, changed, () if self.is_first else ("update",))
        self.changes += 1


def _has_same_bytes(known: FileFacts, found: FileFacts) -> bool:
    if known.digest and found.digest:
        return known.digest == found.digest
    # One of them has no digest, because its fingerprint is trusted.
    return known.fingerprint == found.fingerprint


def _refreshed(asset: Asset, facts: FileFacts) -> Asset:
    new = rows.asset_of(facts)
    if facts.picture is None:
        return replace(asset, size_bytes=new.size_bytes)
    return replace(
        asset,
        mime_type=new.mime_type,
        width_px=new.width_px,
        height_px=new.height_px,
        size_bytes=new.size_bytes,
    )


def stored_file(db: sqlite3.Connection, key: str) -> FileFacts | None:
    """Return the facts of a file when it was last read; None for a new file."""
    row = db.execute("SELECT * FROM files WHERE key = ?", (key,)).fetchone()
    return None if row is None else _facts_of(row)


def stored_files(db: sqlite3.Connection) -> Mapping[str, FileFacts]:
    """Return the facts of all files when they were last read, by key."""
    return {row[0]: _facts_of(row) for row in db.execute("SELECT * FROM files")}


def _facts_of(row: tuple[str, int, int, int, str | None, int, int, str, int]) -> FileFacts:
    key, size_bytes, mtime_ns, inode, mime_type, width_px, height_px, digest, is_settled = row
    picture = None if mime_type is None else Picture(mime_type, width_px, height_px)
    return FileFacts(key, Fingerprint(size_bytes, mtime_ns, inode), picture, digest, bool(is_settled))
