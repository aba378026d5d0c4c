"""Cache directories of earlier and later versions: migrated, asked again, or refused; never a wrong answer."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.journal import Journal
from imgproxy.cache.journal_versions import JOURNAL_VERSION
from imgproxy.cache.outbox import Outbox, OutboxLine, Subject
from imgproxy.cli.process import why_unavailable
from imgproxy.config.sections import CacheSettings
from imgproxy.errors import CacheUnavailable
from tests.support.cache import HASHED, KEY, PLAN, opened, provenance
from tests.support.cli import NOBODY, run

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.cache.journal_file import JournalState

COMMON = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE purge (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT, reason TEXT NOT NULL,
    is_pending INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, received_at_s REAL NOT NULL);
CREATE INDEX purge_pending ON purge (entry) WHERE is_pending;
CREATE INDEX purge_entry ON purge (entry, seq);
CREATE TABLE entry_key (
    entry TEXT NOT NULL, key TEXT NOT NULL, seen_at_s REAL NOT NULL, PRIMARY KEY (entry, key)) WITHOUT ROWID;
CREATE TABLE delivery (id TEXT PRIMARY KEY, at_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE settling (key TEXT PRIMARY KEY, due_at_s REAL NOT NULL) WITHOUT ROWID;
INSERT INTO facts VALUES ('journal_id', 'abcd1234');
INSERT INTO purge (entry, reason, is_pending, received_at_s) VALUES ('e1', 'revoke', 0, 1.0), (NULL, 'manual', 0, 2.0),
    ('e2', 'delete', 1, 3.0), ('gone', 'delete', 0, 4.0);
DELETE FROM purge WHERE entry = 'gone';
INSERT INTO entry_key VALUES ('e1', 'a.jpg', 1.0);
INSERT INTO delivery VALUES ('d1', 1.0);
INSERT INTO settling VALUES ('a.jpg', 9.0);
"""
MARKED_KEYS = """
CREATE TABLE purged_key (
    key_hash TEXT PRIMARY KEY, key TEXT NOT NULL, seq INTEGER NOT NULL, is_collected INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX purged_key_open ON purged_key (seq) WHERE NOT is_collected;
INSERT INTO purged_key VALUES ('aa', 'a.jpg', 1, 0), ('bb', 'b.jpg', 2, 1);
"""
PLAIN_KEYS = """
CREATE TABLE purged_key (key_hash TEXT PRIMARY KEY, key TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO purged_key VALUES ('aa', 'a.jpg', 1);
"""
FIRST_OUTBOX = """
CREATE INDEX entry_of_key ON entry_key (key);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, seq INTEGER NOT NULL, round INTEGER NOT NULL,
    payload TEXT NOT NULL, due_at_s REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT);
CREATE INDEX outbox_due ON outbox (target, due_at_s);
"""
OUTBOX = """
CREATE INDEX entry_key_seen ON entry_key (seen_at_s);
CREATE TABLE outbox (
    target TEXT NOT NULL, is_entry INTEGER NOT NULL, name TEXT NOT NULL, round INTEGER NOT NULL, seq INTEGER NOT NULL,
    recorded_at_s REAL NOT NULL, due_at_s REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, is_entry, name, round)) WITHOUT ROWID;
CREATE INDEX outbox_due ON outbox (target, due_at_s);
INSERT INTO outbox VALUES ('cdn', 0, 'a.jpg', 1, 1, 1.0, 1.0, 0);
"""
# The formats of before the journal had a version, as this service wrote them, the oldest first.
FORMATS = {
    "marked keys, unused outbox": COMMON + MARKED_KEYS + FIRST_OUTBOX,
    "marked keys, outbox": COMMON + MARKED_KEYS + OUTBOX,
    "no receipts": COMMON + PLAIN_KEYS + OUTBOX,
}
formats = pytest.mark.parametrize("sql", FORMATS.values(), ids=FORMATS)


def write_journal(directory: Path, sql: str, *, version: int = 0) -> None:
    directory.mkdir(exist_ok=True)
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(f"{sql}; PRAGMA user_version = {version}")


async def reopened(directory: Path) -> tuple[Journal, JournalState]:
    journal = Journal(directory)
    return journal, await journal.open()


@formats
async def test_an_older_journal_is_migrated_with_all_it_knows(sql: str, tmp_path: Path) -> None:
    """Purges, pending entries, keys, deliveries, settle times, outbox and numbers stay; new purges can be recorded."""
    write_journal(tmp_path, sql)
    for _ in range(2):  # the second time there is nothing to migrate
        journal, state = await reopened(tmp_path)
        assert (state.journal_id, state.seq, state.is_doubtful) == ("abcd1234", 4, False)
        assert [(item.key_hash, item.seq) for item in state.purged] == [("aa", 1)]
        assert await journal.pending_entries() == ("e2",)
        assert await journal.keys_of("e1") == ("a.jpg",)
        assert await journal.has_delivery("d1")
        assert await journal.settling() == {"a.jpg": 9.0}
        due = await Outbox(journal).due("cdn", time.time(), 10)
        assert [line.subject for line in due] == ([Subject("a.jpg")] if "'cdn'" in sql else [])
        await journal.close()

    journal, _ = await reopened(tmp_path)
    line = OutboxLine("cdn", Subject("c.jpg"), 1, 5.0)
    assert await journal.record_purge([("cc", "c.jpg")], entry="e3", reason="test", outbox=[line]) == 5
    await journal.keep_receipts([(5, time.time(), "{}")])
    await journal.close()


@formats
async def test_a_migrated_journal_has_the_tables_of_a_new_one(sql: str, tmp_path: Path) -> None:
    """Same version, same columns, same indexes: later steps find one form."""
    write_journal(tmp_path / "old", sql)
    (tmp_path / "new").mkdir()
    found = []
    for name in ("old", "new"):
        journal, _ = await reopened(tmp_path / name)
        await journal.close()
        with closing(sqlite3.connect(tmp_path / name / "journal.sqlite")) as database:
            tables = {
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")
            }
            columns = {table: database.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}
            found.append((columns, database.execute("PRAGMA user_version").fetchone()))

    assert found[0] == found[1]
    assert found[0][1] == (JOURNAL_VERSION,)


@formats
async def test_a_purge_of_an_older_version_holds_after_the_migration(sql: str, tmp_path: Path) -> None:
    """A picture that was purged before the update, and whose files a crash left, is not served after it."""
    write_journal(tmp_path, sql.replace("'aa', 'a.jpg'", f"'{HASHED}', '{KEY}'"))
    write_picture(tmp_path, seq=0)
    async with opened(tmp_path) as cache:
        assert cache.facts(HASHED) is None

    write_picture(tmp_path, seq=4)
    async with opened(tmp_path) as cache:
        facts = cache.facts(HASHED)
        assert facts is not None
        assert cache.is_proved(facts)


async def test_tables_of_no_known_version_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table that every purge would fail on counts as damage: the service starts with a new journal, and says so."""
    write_journal(tmp_path, FORMATS["no receipts"].replace("seq INTEGER NOT NULL) WITHOUT", "number INTEGER) WITHOUT"))

    journal, state = await reopened(tmp_path)
    assert state.is_doubtful
    assert state.journal_id != "abcd1234"
    await journal.record_purge([("cc", "c.jpg")], entry=None, reason="test")
    await journal.close()
    assert "unknown columns in purged_key" in caplog.text


async def test_a_newer_journal_is_refused_in_words(tmp_path: Path) -> None:
    """Neither `serve` nor `check` accepts it; both name the versions, and the file is not changed."""
    write_journal(tmp_path, "CREATE TABLE purge (later TEXT)", version=JOURNAL_VERSION + 1)
    before = (tmp_path / "journal.sqlite").read_bytes()
    words = f"its journal has version {JOURNAL_VERSION + 1}, and this imgproxy knows versions up to {JOURNAL_VERSION}"

    with pytest.raises(CacheUnavailable) as refused:
        await Cache(CacheSettings(dir=tmp_path, min_free_bytes=0)).start()
    assert words in why_unavailable(refused.value)
    assert (tmp_path / "journal.sqlite").read_bytes() == before


@pytest.mark.usefixtures("no_libraries_tried")
def test_check_refuses_a_newer_journal(tmp_path: Path) -> None:
    """`imgproxy check` finds it before the service is started, and writes nothing beside it."""
    write_journal(tmp_path, "CREATE TABLE purge (later TEXT)", version=JOURNAL_VERSION + 1)
    before = sorted(tmp_path.iterdir())

    code, out, _ = run("check", IMGPROXY_CACHE__DIR=str(tmp_path), IMGPROXY_ORIGIN__URL=NOBODY)

    assert code == 1
    assert f"its journal has version {JOURNAL_VERSION + 1}" in out
    assert sorted(tmp_path.iterdir()) == before


# --- files of originals and variants -----------------------------------------------------------------------------------

MAGIC = b"imgpxy\x00"
ORIGINAL, VARIANT = b"the original", b"the variant"


def older_digest(data: bytes) -> str:
    """Contents were named by BLAKE2b-128 in the first version."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def framed(body: bytes, record: dict[str, object], version: int) -> bytes:
    """A file of the cache, written byte by byte as the first version did."""
    text = json.dumps(record).encode()
    fixed = struct.pack(">8sQI16s", MAGIC + bytes((version,)), len(body), len(text), bytes.fromhex(older_digest(body)))
    return body + text + fixed + bytes.fromhex(older_digest(text + fixed))


def write_picture(directory: Path, *, seq: int, version: int = 1, **added: object) -> None:
    """An original and a variant as the first version wrote them; `added` are fields of a later one."""
    folder = directory / "keys" / HASHED[:2] / HASHED
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"key": KEY, "digest": older_digest(ORIGINAL), "size_bytes": len(ORIGINAL), "content_type": "image/jpeg"}
    facts |= {"etag": '"e"', "last_modified": None, "journal_id": "abcd1234", "seq": seq}
    variant = {"key": KEY, "plan": PLAN, "original": facts["digest"], "content_type": "image/webp"}
    variant |= {"size_bytes": len(VARIANT), "digest": older_digest(VARIANT), "width_px": 1, "height_px": 1}
    facts |= {"fetched_at_s": 1.0, "validated_at_s": 2.0}
    (folder / "facts").write_bytes(framed(b"", facts | added, version))
    (folder / "original").write_bytes(ORIGINAL)
    (folder / f"v-{PLAN}").write_bytes(framed(VARIANT, variant | added, version))


async def test_files_of_the_first_version_are_still_hits(tmp_path: Path) -> None:
    """An update does not empty the cache."""
    write_journal(tmp_path, FORMATS["no receipts"])
    write_picture(tmp_path, seq=4)
    async with opened(tmp_path) as cache:
        facts = cache.facts(HASHED)
        assert facts is not None
        found = await cache.find(provenance(facts), PLAN)
        assert found is not None
        assert found.variant.body == VARIANT
        assert await cache.verified_original(facts) is not None


@pytest.mark.parametrize("case", [{"version": 2}, {"version": 0}, {"of_a_later_version": 1}], ids=str)
async def test_files_of_another_version_are_a_miss(case: dict[str, int], tmp_path: Path) -> None:
    """A later or unknown format, or a record with other fields, is neither read nor a fault."""
    write_journal(tmp_path, FORMATS["no receipts"])
    write_picture(tmp_path, seq=4)
    async with opened(tmp_path) as cache:
        facts = cache.facts(HASHED)
        assert facts is not None

    write_picture(tmp_path, seq=4, **case)
    async with opened(tmp_path) as cache:
        assert cache.facts(HASHED) is None
        assert await cache.find(provenance(facts), PLAN) is None
