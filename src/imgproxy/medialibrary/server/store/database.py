"""
The tables of the embedded library.

`entries` holds each entry as JSON beside the columns that are looked up; `keys` says whose each key is or was (a key
may belong to several entries); `files` is the folder as it was last read; `outbox` holds webhook calls until they
are delivered.
"""

from __future__ import annotations

from typing import Final

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
