"""
The store of a library: entries, keys, references and undelivered webhook calls, over a folder of pictures.

Every method is synchronous, may be called from any thread, and is one transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from imgproxy.errors import ConfigError
from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.operations import ReplaceAsset
from imgproxy.medialibrary.server import folder as disk
from imgproxy.medialibrary.server.patches import EntryChange, PatchContext, apply, mark_invalid
from imgproxy.medialibrary.server.problems import conflict, unknown_entry
from imgproxy.medialibrary.server.store import merging, queue, references, rows
from imgproxy.medialibrary.server.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from imgproxy.medialibrary.server.patch_body import PatchBody
    from imgproxy.medialibrary.server.state import Clock, Delivery, Document, EntryState, ReferenceRows

STATE_DIR: Final = ".imgproxy-library"
FILE_NAME: Final = "library.sqlite"
WEBHOOK_FORGOTTEN_S: Final = 24 * 3600.0
IMPORTED: Final = "imported"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LibraryStore:
    """
    The store of one library. `on_commit` is called after each change that may have queued webhook calls.

    Args:
        folder: the folder of pictures.
        state_dir: the folder of the database, `FOLDER/.imgproxy-library` by default.
        default_locale: the locale of an entry's own asset.
        is_lenient: whether to make entries of files that are not pictures.
        clock: returns the time of a change.

    Raises:
        ConfigError: if the folder is missing or the database cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        state_dir: Path | None = None,
        default_locale: str = "de",
        is_lenient: bool = False,
        clock: Clock = _utc_now,
    ) -> None:
        if not folder.is_dir():
            raise ConfigError((f"{folder}: there is no such folder",))
        self.folder = str(folder)
        self._default_locale = default_locale
        self._is_lenient = is_lenient
        self._clock = clock
        self._scan_lock = threading.Lock()
        self._warned: frozenset[str] = frozenset()
        self.on_commit: Callable[[], None] = lambda: None
        directory = state_dir or folder / STATE_DIR
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._database = Database(directory / FILE_NAME)
        except (OSError, sqlite3.Error) as exc:
            raise ConfigError((f"{directory}: the state of the library cannot be kept here ({exc})",)) from exc
        self._db = self._database.connection
        self._lock = self._database.lock

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- reading -------------------------------------------------------------------------------------------------

    def entry(self, entry_id: str) -> EntryState:
        """Return an entry. Raises Problem 404 if it is unknown or deleted."""
        with self._lock:
            entry = rows.load(self._db, entry_id)
        if entry is None:
            raise unknown_entry(entry_id)
        return entry

    def entries(self, entry_ids: Iterable[str]) -> list[EntryState]:
        """Return the entries that exist, each once, in the order of the ids."""
        with self._lock:
            found = [rows.load(self._db, entry_id) for entry_id in dict.fromkeys(entry_ids)]
        return [entry for entry in found if entry is not None]

    def entries_by_external_id(self, system_name: str, external_id: str) -> list[EntryState]:
        """Return the entries with this id in an external system."""
        query = "SELECT body FROM entries WHERE system_name = ? AND external_id = ? AND NOT is_deleted ORDER BY seq"
        with self._lock:
            return [rows.entry_of(body) for (body,) in self._db.execute(query, (system_name, external_id))]

    def all_entries(self) -> list[EntryState]:
        """Return all entries, oldest first."""
        with self._lock:
            query = "SELECT body FROM entries WHERE NOT is_deleted ORDER BY seq"
            return [rows.entry_of(body) for (body,) in self._db.execute(query)]

    def may_serve(self, key: str) -> bool | None:
        """Return whether all entries with this key allow serving it; None if there is no such entry."""
        query = (
            "SELECT min(e.is_served) FROM keys k JOIN entries e ON e.id = k.entry_id"
            " WHERE k.key = ? AND NOT e.is_deleted"
        )
        with self._lock:
            row = self._db.execute(query, (key,)).fetchone()
        return None if row[0] is None else bool(row[0])

    def references(
        self, kind: references.Referrers, entry_id: str, *, limit: int, offset: int, after: int
    ) -> ReferenceRows:
        """Return a page of the referrers of an entry. Raises Problem 404 if the entry is unknown."""
        with self._database.transaction("DEFERRED"):
            if rows.load(self._db, entry_id) is None:
                raise unknown_entry(entry_id)
            return references.page(self._db, kind, entry_id, limit=limit, offset=offset, after=after)

    # --- changing ------------------------------------------------------------------------------------------------

    def patch(self, entry_id: str, body: PatchBody, api_version: str) -> None:
        """Apply a valid PATCH body. Raises Problem 404 if the entry is unknown, and see `patches.apply`."""
        keys = [each.key for each in body.operations if isinstance(each, ReplaceAsset)]
        read = (disk.read_facts(self.folder, key, is_hashed=False) for key in keys)
        files = {facts.key: facts for facts in read if facts is not None}

        def change(entry: EntryState) -> EntryChange:
            context = PatchContext(api_version, self._default_locale, self._clock(), rows.new_id, files)
            return apply(entry, body, context)

        with self._database.transaction():
            self._change(entry_id, change)
            for key, facts in files.items():
                if merging.stored_file(self._db, key) is None:
                    rows.save_file(self._db, facts)
                self._delete_duplicates(key, entry_id)
        self.on_commit()

    def _delete_duplicates(self, key: str, entry_id: str) -> None:
        # This file replaces an entry's picture. A scan may have made an entry of it before the PATCH came: delete that.
        for owner in rows.owners(self._db, key):
            if owner.id != entry_id and owner.version == 1 and owner.keys == (key,):
                rows.delete(self._db, owner)

    def mark_invalid(self, entry_id: str, *, is_invalid: bool) -> None:
        """Mark an entry as invalid, or as valid again. Raises Problem 404."""
        with self._database.transaction():
            self._change(entry_id, lambda entry: mark_invalid(entry, self._clock(), is_invalid=is_invalid))
        self.on_commit()

    def set_external_id(self, entry_id: str, system_name: str, external_id: str) -> None:
        """Set the id of an entry in an external system. Raises Problem 404, or 409 if the id is taken."""

        def change(entry: EntryState) -> EntryChange:
            changed = replace(entry, system_name=system_name, external_id=external_id, version=entry.version + 1)
            return EntryChange(replace(changed, updated_at=iso_ms(self._clock())), ("update",))

        with self._database.transaction():
            if any(taken.id != entry_id for taken in self.entries_by_external_id(system_name, external_id)):
                raise conflict(f"externalId: {external_id!r} of {system_name!r} belongs to another entry")
            self._change(entry_id, change)
        self.on_commit()

    def publish(self, document: Document) -> None:
        """Store a published document. Raises Problem 404 if it refers to an unknown entry."""
        with self._database.transaction():
            for reference in document.references:
                if rows.load(self._db, str(reference["id"])) is None:
                    raise unknown_entry(str(reference["id"]))
            references.publish(self._db, document, self._clock())

    def _change(self, entry_id: str, change: Callable[[EntryState], EntryChange]) -> None:
        entry = rows.load(self._db, entry_id)
        if entry is None:
            raise unknown_entry(entry_id)
        applied = change(entry)
        rows.save(self._db, applied.entry, applied.events)

    # --- the folder ----------------------------------------------------------------------------------------------

    def scan(self) -> tuple[str, ...]:
        """Apply changes of the folder. Return a line for each file that is unusable now and was not before."""
        with self._scan_lock:
            return self._scan()

    def _scan(self) -> tuple[str, ...]:
        walked = disk.walk(self.folder)
        with self._lock:
            known = merging.stored_files(self._db)
            is_first = self.setting(IMPORTED) is None
        changed = [
            key
            for key, fingerprint in walked.files.items()
            if key not in known or known[key].fingerprint != fingerprint or not known[key].is_settled
        ]
        read = {key: disk.read_facts(self.folder, key, is_hashed=key in known) for key in changed}
        warnings = [*walked.warnings, *(f"{key}: skipped, it cannot be read" for key in changed if read[key] is None)]
        gone = known.keys() - walked.files.keys()
        if read or gone or is_first:
            with self._database.transaction():
                merge = merging.Merge(self._db, self.folder, self._clock(), is_first, self._is_lenient)
                merge.run([facts for facts in read.values() if facts is not None], gone)
                warnings += merge.warnings
                if is_first:
                    self.set_setting(IMPORTED, "1")
            if merge.changes:
                self.on_commit()
        news = tuple(line for line in warnings if line not in self._warned)
        self._warned = frozenset(warnings)
        return news

    # --- webhooks ------------------------------------------------------------------------------------------------

    def set_webhook(self, *, is_on: bool) -> None:
        """
        Record whether this process has a webhook. Only with a webhook are calls queued.

        Several processes may share a library. One with a webhook calls this every few minutes. One without a webhook
        stops the queue, and deletes its calls, only if no process has had a webhook for `WEBHOOK_FORGOTTEN_S`.
        """
        with self._database.transaction():
            if is_on:
                self.set_setting(rows.WEBHOOK_SETTING, str(time.time()))
                return
            last_s = self.setting(rows.WEBHOOK_SETTING)
            if last_s is not None and time.time() - float(last_s) > WEBHOOK_FORGOTTEN_S:
                self._db.execute("DELETE FROM settings WHERE name = ?", (rows.WEBHOOK_SETTING,))
                self._db.execute("DELETE FROM outbox")

    def claim_deliveries(self, *, limit: int, lease_s: float) -> list[Delivery]:
        """Return webhook calls that are due, at most one per entry. No other process gets them during the lease."""
        with self._lock:
            if not queue.is_due(self._db, time.time()):
                return []  # found without a write lock, as this is called several times a second
            with self._database.transaction():
                return queue.claim(self._db, time.time(), limit=limit, lease_s=lease_s)

    def confirm_delivery(self, delivery_id: str) -> None:
        """Forget a webhook call that was accepted."""
        with self._database.transaction():
            queue.forget(self._db, delivery_id)

    def postpone_delivery(self, delivery_id: str, *, retry_in_s: float) -> None:
        """Make a failed webhook call due again in `retry_in_s`."""
        with self._database.transaction():
            queue.postpone(self._db, delivery_id, time.time() + retry_in_s)

    # --- settings ------------------------------------------------------------------------------------------------

    def setting(self, name: str) -> str | None:
        """Return a stored setting, or None."""
        with self._lock:
            row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, name: str, value: str) -> None:
        """Store a setting."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))
