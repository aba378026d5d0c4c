"""
The schema `imgproxy`: its tables, and how it is made and migrated.

An edge makes or migrates it when it connects, under an advisory lock. The row of `edge_schema` has two numbers:

    version      of the tables
    min_reader   the oldest version of this file that can use them

The rule for a rolling deploy: a step only adds tables, or columns with a default. Then `min_reader` stays, and edges of
the version before go on beside the new ones. Whatever else must change takes two releases. The first one works with
both forms. The second one changes the form, and sets `min_reader` to the version of the first. An edge that is older
than `min_reader` refuses the schema. One that is already connected finds out at its next renewal.

`number` of a line, a receipt and a call is the same number: that of the purge. All texts that an index holds sort by
bytes ("C"), so an upgrade of the system's libraries breaks no index.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from imgproxy.cluster.log import LogUnavailable

SCHEMA: Final = "imgproxy"
PROGRAM: Final = "imgproxy-edge"
# A number that no other program uses: the first 63 bits of BLAKE2b("imgproxy-edge schema").
SCHEMA_LOCK: Final = 0x10D03AAB55D887DB

_FIRST: Final = """
CREATE TABLE imgproxy.edge_schema (
    is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    program text NOT NULL, version int NOT NULL, min_reader int NOT NULL);

-- Never updated in normal use. Its id, its table's oid or its row's transaction differs after a restore from a dump.
CREATE TABLE imgproxy.identity (
    is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one), id text NOT NULL DEFAULT gen_random_uuid()::text);
INSERT INTO imgproxy.identity DEFAULT VALUES;

-- One row, locked by each append until its commit, and shared by each renewal. It has room for its own updates.
CREATE TABLE imgproxy.head (
    is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one), number bigint NOT NULL, oldest bigint NOT NULL)
    WITH (fillfactor = 10);
INSERT INTO imgproxy.head (number, oldest) VALUES (0, 1);

CREATE TABLE imgproxy.line (
    number bigint PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT clock_timestamp(), run text NOT NULL,
    kind text NOT NULL, entry text COLLATE "C", change jsonb NOT NULL);
CREATE INDEX line_entry ON imgproxy.line (entry, number) WHERE entry IS NOT NULL;

CREATE TABLE imgproxy.member (
    run text COLLATE "C" PRIMARY KEY, name text NOT NULL, history text NOT NULL, applied bigint NOT NULL,
    renewals bigint NOT NULL, lease_s float8 NOT NULL, proof_s float8,
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 50);

CREATE TABLE imgproxy.delivery (
    id text COLLATE "C" PRIMARY KEY, run text NOT NULL, is_handled boolean NOT NULL DEFAULT false,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX delivery_claimed ON imgproxy.delivery (claimed_at);

CREATE TABLE imgproxy.entry_key (
    entry text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (entry, key));
CREATE INDEX entry_key_key ON imgproxy.entry_key (key);
CREATE INDEX entry_key_seen ON imgproxy.entry_key (seen_at);

CREATE TABLE imgproxy.receipt (
    number bigint PRIMARY KEY, given_at timestamptz NOT NULL, entry text COLLATE "C", keys text[] NOT NULL,
    receipt text NOT NULL);
CREATE INDEX receipt_entry ON imgproxy.receipt (entry, number);
CREATE INDEX receipt_keys ON imgproxy.receipt USING gin (keys);
CREATE INDEX receipt_given ON imgproxy.receipt (given_at);

-- Entries whose keys could not be listed: the first and the last of their purges that wait for it, and who does it.
CREATE TABLE imgproxy.pending (
    entry text COLLATE "C" PRIMARY KEY, first bigint NOT NULL, last bigint NOT NULL, run text NOT NULL);

CREATE TABLE imgproxy.outbox (
    target text COLLATE "C" NOT NULL, is_entry boolean NOT NULL, name text COLLATE "C" NOT NULL, round int NOT NULL,
    number bigint NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(), due_at timestamptz NOT NULL,
    attempts int NOT NULL DEFAULT 0, PRIMARY KEY (target, is_entry, name, round));
CREATE INDEX outbox_due ON imgproxy.outbox (target, due_at);
CREATE TABLE imgproxy.outbox_turn (
    target text COLLATE "C" PRIMARY KEY, run text NOT NULL, ends_at timestamptz NOT NULL);

CREATE TABLE imgproxy.validator (
    key text COLLATE "C" PRIMARY KEY, digest text NOT NULL, etag text, last_modified text,
    fetched_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX validator_fetched ON imgproxy.validator (fetched_at);
"""
# A step leads to the next version: its statements, and the `min_reader` from then on.
STEPS: Final[tuple[tuple[str, int], ...]] = ((_FIRST, 1),)
SCHEMA_VERSION: Final = len(STEPS)
TABLES: Final = (
    *("edge_schema", "identity", "head", "line", "member", "delivery", "entry_key", "receipt", "pending"),
    *("outbox", "outbox_turn", "validator"),
)

_INSPECT: Final = """
SELECT n.oid IS NOT NULL AS is_there, coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use,
    coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_make_tables,
    has_database_privilege(current_database(), 'CREATE') AS may_make_schema,
    current_user::text AS role, current_database()::text AS database,
    EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid) AS has_content,
    (SELECT string_agg(a.attname, ' ' ORDER BY a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = n.oid AND c.relname = 'edge_schema' AND a.attnum > 0) AS columns
FROM (SELECT) AS nothing LEFT JOIN pg_namespace n ON n.nspname = 'imgproxy'
"""
_COLUMNS: Final = "is_one min_reader program version"
_READ: Final = "SELECT program, version, min_reader FROM imgproxy.edge_schema"


_HISTORY: Final = (
    "(SELECT SERVER::text || '.' || identity.id || '.' || identity.tableoid::text || '.' || identity.xmin::text "
    "FROM imgproxy.identity)"
)


def with_history(statement: str, server: str = "$1") -> str:
    """Replace the word HISTORY in a statement. `server` is the parameter with the server and its timeline."""
    return statement.replace("HISTORY", _HISTORY.replace("SERVER", server))


async def is_up_to_date(driver: Any, place: str) -> bool:
    """
    Return whether the schema can be used as it is. If not, it is missing or older.

    Raises:
        LogUnavailable: it is of another program, too new, or a right is missing.
    """
    return await _read_version(driver, place) >= SCHEMA_VERSION


async def ensure_schema(driver: Any, place: str) -> None:
    """
    Make the schema if it is missing, migrate it if it is older. The session has no time limit.

    Raises:
        LogUnavailable: as `is_up_to_date`. Nothing was changed then.
    """
    async with driver.transaction():
        await driver.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
        # Another edge may have done it meanwhile.
        version = await _read_version(driver, place)
        if version >= SCHEMA_VERSION:
            return
        if version == 0 and not (await driver.fetchrow(_INSPECT))["is_there"]:
            await driver.execute(f"CREATE SCHEMA {SCHEMA}")
        try:
            for statements, _ in STEPS[version:]:
                await driver.execute(statements)
            await driver.execute(
                "INSERT INTO imgproxy.edge_schema (program, version, min_reader) VALUES ($1, $2, $3) "
                "ON CONFLICT (is_one) DO UPDATE SET version = excluded.version, min_reader = excluded.min_reader",
                *(PROGRAM, SCHEMA_VERSION, STEPS[-1][1]),
            )
        except asyncpg.InsufficientPrivilegeError as error:
            raise _refusal(
                place,
                f"the schema {SCHEMA} is of version {version}, and the role may not migrate it to {SCHEMA_VERSION}; "
                "run `imgproxy check` once with the role that owns it",
            ) from error


async def _read_version(driver: Any, place: str) -> int:
    """Return the version of the tables that can be used as they are; 0: there are none. Raises LogUnavailable."""
    found = await driver.fetchrow(_INSPECT)
    role = found["role"]
    if not found["is_there"]:
        if not found["may_make_schema"]:
            raise _refusal(
                place,
                f"there is no schema {SCHEMA}, and the role {role} may not make one: "
                f'CREATE SCHEMA {SCHEMA} AUTHORIZATION "{role}", or GRANT CREATE ON DATABASE "{found["database"]}" '
                f'TO "{role}"',
            )
        return 0
    if found["columns"] is None and not found["has_content"]:
        if not found["may_make_tables"]:
            raise _refusal(
                place,
                f"the schema {SCHEMA} is empty, and the role {role} may not make tables in it: "
                f'GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO "{role}"',
            )
        return 0
    if found["columns"] != _COLUMNS:
        raise _refusal(place, f"its schema {SCHEMA} belongs to another program; nothing in it was touched")
    if not found["may_use"]:
        raise _refusal(place, f'the role {role} may not use it: GRANT USAGE ON SCHEMA {SCHEMA} TO "{role}"')
    row = await driver.fetchrow(_READ)
    if row is None or row["program"] != PROGRAM:
        raise _refusal(place, f"its schema {SCHEMA} belongs to another program; nothing in it was touched")
    if row["min_reader"] > SCHEMA_VERSION:
        raise _refusal(place, newer_words(row["version"]))
    return int(row["version"])


def newer_words(version: int) -> str:
    """Say that the tables are too new for this edge."""
    return (
        f"its schema {SCHEMA} has version {version}, and this imgproxy knows {SCHEMA_VERSION}; "
        "run the imgproxy that wrote it, or a later one"
    )


def _refusal(place: str, reason: str) -> LogUnavailable:
    return LogUnavailable(f"the cluster's database ({place}): {reason}")
