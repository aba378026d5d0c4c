"""Look at the cluster's database without being an edge: its state, and whether everything works with these rights."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cluster.log import LogUnavailable
from imgproxy.cluster.postgres_database import Database, fetch_in
from imgproxy.cluster.postgres_errors import DRIVER_ERRORS, unavailable
from imgproxy.cluster.postgres_schema import with_history
from imgproxy.cluster.postgres_url import tls_notice
from imgproxy.cluster.status import ClusterStatus, DatabaseReport, NodeStatus, shared_name_words

if TYPE_CHECKING:
    from imgproxy.cluster.postgres_database import Session

TIMEOUT_S: Final = 10.0
NEWS_TIMEOUT_S: Final = 3.0
_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
# The rights that an edge needs, when the schema is of its own version.
RIGHTS: Final = {
    "edge_schema": ("SELECT",),
    "identity": ("SELECT", "UPDATE"),
    "head": ("SELECT", "UPDATE"),
    "line": ("SELECT", "INSERT", "DELETE"),
    **dict.fromkeys(("member", "delivery", "entry_key", "receipt", "pending"), _ALL),
    **dict.fromkeys(("outbox", "outbox_turn", "validator"), _ALL),
}
_HEAD: Final = with_history("""
SELECT HISTORY AS history, head.number AS head, greatest(head.number - head.oldest + 1, 0) AS lines, version,
    extract(epoch FROM clock_timestamp() - (SELECT written_at FROM imgproxy.line ORDER BY number LIMIT 1))::float8
        AS oldest_age_s
FROM imgproxy.head, imgproxy.edge_schema
""")
_NODES: Final = with_history("""
SELECT name, run, head.number - CASE WHEN member.history = HISTORY THEN applied ELSE 0 END AS lag_lines,
    extract(epoch FROM clock_timestamp() - renewed_at)::float8 AS renewed_ago_s, lease_s, proof_s
FROM imgproxy.member, imgproxy.head ORDER BY name, run
""")
_MISSING: Final = """
SELECT given.name, array_agg(given.privilege ORDER BY given.place) AS rights, current_user::text AS role
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (name, privilege, place)
WHERE NOT has_table_privilege('imgproxy.' || given.name, given.privilege) GROUP BY given.name ORDER BY given.name
"""
_SERVER: Final = """
SELECT current_setting('server_version') AS version, current_setting('fsync') = 'on' AS has_fsync,
    current_setting('full_page_writes') = 'on' AS has_full_pages, (SELECT count(*) FROM imgproxy.member) AS edges,
    ARRAY(SELECT name FROM imgproxy.member WHERE renewed_at > clock_timestamp() - make_interval(secs => lease_s)
        GROUP BY name HAVING count(*) > 1 ORDER BY name) AS shared_names
"""


async def read_status(url: str) -> ClusterStatus:
    """Read the state of the cluster. Raises LogUnavailable, and ConfigError for a URL that the driver cannot use."""
    database = Database(url, name="imgproxy cluster status", size=1, timeout_s=TIMEOUT_S)
    try:
        async with database.session() as session:
            [head] = await fetch_in(session, _HEAD, session.server)
            nodes = await fetch_in(session, _NODES, session.server)
    finally:
        await database.close()
    return ClusterStatus(
        head["history"],
        head["head"],
        head["lines"],
        head["oldest_age_s"],
        head["version"],
        tuple(NodeStatus(**node) for node in nodes),
    )


async def try_database(url: str) -> DatabaseReport:
    """
    Connect, make the schema if it is missing, write, read, and listen.

    Raises:
        ConfigError: the driver cannot use this URL.
    """
    database = Database(url, name="imgproxy check", size=1, timeout_s=TIMEOUT_S)
    notices = [notice] if (notice := tls_notice(url, os.environ)) is not None else []
    try:
        async with database.session() as session:
            problems = await _missing_rights(session)
            if problems:
                return DatabaseReport(notices=tuple(notices), problems=tuple(problems))
            [server] = await fetch_in(session, _SERVER)
            took_ms = await _write_and_read(session) * 1000
        if not server["has_fsync"] or not server["has_full_pages"]:
            notices.append("[cluster] the server runs with fsync or full_page_writes off: a crash may lose purges")
        notices += map(shared_name_words, server["shared_names"])
        if not await _hears_news(database):
            notices.append(
                "[cluster] database_url: notifications do not arrive, so purges wait for the next renewal of each "
                "edge; connect to PostgreSQL itself, not to a pooler in transaction mode"
            )
    except LogUnavailable as error:
        return DatabaseReport(notices=tuple(notices), problems=(f"[cluster] {error}",))
    finally:
        await database.close()
    good = (
        f"the cluster's database ({database.place}) can be written and read: PostgreSQL {server['version']}, "
        f"{took_ms:.0f} ms, {server['edges']} edges"
    )
    return DatabaseReport(good=(good,), notices=tuple(notices))


async def _missing_rights(session: Session) -> list[str]:
    pairs = [(table, right) for table, rights in RIGHTS.items() for right in rights]
    rows = await fetch_in(session, _MISSING, [table for table, _ in pairs], [right for _, right in pairs])
    return [
        f'[cluster] a right is missing: GRANT {", ".join(row["rights"])} ON imgproxy.{row["name"]} TO "{row["role"]}"'
        for row in rows
    ]


async def _write_and_read(session: Session) -> float:
    """Write a row, read it, delete it. Return how long the write took, in seconds."""
    name = f"imgproxy check {secrets.token_hex(8)}"
    began_s = time.monotonic()
    await fetch_in(session, "INSERT INTO imgproxy.delivery (id, run) VALUES ($1, 'check')", name)
    took_s = time.monotonic() - began_s
    found = await fetch_in(session, "SELECT FROM imgproxy.delivery WHERE id = $1", name)
    await fetch_in(session, "DELETE FROM imgproxy.delivery WHERE id = $1", name)
    if len(found) != 1:
        raise LogUnavailable("what was written to the cluster's database cannot be read")
    return took_s


async def _hears_news(database: Database) -> bool:
    """Whether a notification arrives at another connection."""
    channel = f"imgproxy_check_{secrets.token_hex(8)}"
    heard = asyncio.Event()

    def hear(*_notification: Any) -> None:
        heard.set()

    driver = (await database.connect()).driver
    try:
        async with asyncio.timeout(NEWS_TIMEOUT_S):
            await driver.add_listener(channel, hear)
            await database.fetch("SELECT pg_notify($1, '')", channel)
            await heard.wait()
    except TimeoutError:
        return False
    except DRIVER_ERRORS as error:
        raise unavailable(error, database.place) from error
    finally:
        driver.terminate()
    return True
