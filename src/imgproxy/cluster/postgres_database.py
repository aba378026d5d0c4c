"""
Connections to the database: few, each checked when it is made, and every use with a time limit.

The driver is asyncpg. It speaks the protocol itself, on the event loop, with Python's own TLS. So a fix of OpenSSL
comes with the system, not with a wheel. Its calls can be cancelled, it hears notifications without a poll, and it reads
libpq's files of passwords and services. Wheels exist for Python 3.11 to 3.14 on amd64 and arm64. psycopg 3, the other
candidate, brings a libpq and an OpenSSL of its own in its wheel, is under the LGPL, and needs a poll for notifications.

Each statement here is a transaction of its own, so no lock of ours ever waits for an edge that hangs. A connection that
failed is thrown away, together with all that are idle: after a failover they lead to the old server.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from imgproxy.cluster.log import LogUnavailable
from imgproxy.cluster.postgres_errors import DRIVER_ERRORS, is_answer, is_lost, is_retried, unavailable
from imgproxy.cluster.postgres_schema import ensure_schema, is_up_to_date
from imgproxy.cluster.postgres_url import connection_arguments, place_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OLDEST_SERVER: Final = 14
# A busy moment needs more connections than the time after it. A server has few: 100 by default, for everybody.
IDLE_KEPT_S: Final = 60.0
# The first statement on a connection. Whatever the defaults of the role are, renewals and appends are on disk when they
# return, and a statement that waited for a lock goes on with what was committed meanwhile. To compile a statement takes
# longer than to run it.
_PREPARE: Final = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS is_standby,
    current_setting('server_encoding') AS encoding,
    set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false),
    set_config('idle_in_transaction_session_timeout', $1, false), set_config('search_path', 'pg_catalog', false),
    set_config('default_transaction_isolation', 'read committed', false), set_config('jit', 'off', false),
    set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
        ELSE current_setting('synchronous_commit') END, false),
    has_function_privilege('pg_control_system()', 'EXECUTE') AS may_identify
"""
_SYSTEM: Final = "SELECT system_identifier::text FROM pg_control_system()"
_DATABASE: Final = "SELECT 'database' || oid::text FROM pg_database WHERE datname = current_database()"
# The first 8 characters of a WAL file's name are its timeline. Each promotion begins another one.
_TIMELINE: Final = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
_ATTEMPTS: Final = 3


@dataclass(eq=False, slots=True)
class Session:
    """One connection. `server` says which server and timeline it leads to: these never change while it lasts."""

    driver: Any
    server: str
    used_at_s: float = 0.0  # monotonic


class Database:
    """At most `size` connections. One that is idle stays open for a while. The one used last is used first."""

    def __init__(self, url: str, *, name: str, size: int, timeout_s: float) -> None:
        """
        Set up, without a connection.

        Args:
            url: of the database.
            name: of the program, for `pg_stat_activity`.
            size: connections at most.
            timeout_s: for each use, together with the wait for a connection. The server ends statements sooner.

        Raises:
            ConfigError: the URL asks for what the driver cannot do.
        """
        self.place = place_of(url, os.environ)
        self._hosts = connection_arguments(url, os.environ)
        self._first = 0  # the host that had the primary last
        self._program = name[:63]
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(size)
        self._idle: list[Session] = []
        self._used: set[Session] = set()
        self._making: asyncio.Task[None] | None = None  # the schema

    async def connect(self) -> Session:
        """
        Make a connection that the pool does not count, to the first host that is a primary. The schema is there.

        The host that had the primary last is asked first. Each host has its share of the time, so one that does not
        answer does not hide the others. Raises LogUnavailable.
        """
        failure: LogUnavailable | None = None
        for host in (*range(self._first, len(self._hosts)), *range(self._first)):
            try:
                session = await self._connect_to(self._hosts[host])
            except LogUnavailable as error:
                failure = failure or error
            else:
                self._first = host
                return session
        raise failure or self.refusal("the URL names no host")

    async def _connect_to(self, host: dict[str, Any]) -> Session:
        timeout_s = self._timeout_s / len(self._hosts)
        try:
            async with asyncio.timeout(timeout_s):
                driver = await self._open(host, timeout_s)
                try:
                    return Session(driver, await self._prepare(driver, host))
                except BaseException:
                    driver.terminate()
                    raise
        except (*DRIVER_ERRORS, ValueError) as error:
            raise unavailable(error, self.place) from error

    async def _open(self, host: dict[str, Any], timeout_s: float) -> Any:
        return await asyncpg.connect(**host, server_settings={"application_name": self._program}, timeout=timeout_s)

    async def _prepare(self, driver: Any, host: dict[str, Any]) -> str:
        statement_ms, lock_ms = int(self._timeout_s * 900), int(self._timeout_s * 700)
        found = await driver.fetchrow(_PREPARE, str(statement_ms), str(lock_ms))
        if found["version"] < OLDEST_SERVER * 10_000:
            version = found["version"] // 10_000
            raise self.refusal(f"PostgreSQL {version} is too old; {OLDEST_SERVER} or later is needed")
        if found["is_standby"]:
            raise self.refusal("this server is a standby, which takes no writes; give the address of the primary")
        if found["encoding"] != "UTF8":
            raise self.refusal(f"the database's encoding is {found['encoding']}; UTF8 is needed")
        if not await is_up_to_date(driver, self.place):
            await self._make_schema(host)
        system = await driver.fetchval(_SYSTEM if found["may_identify"] else _DATABASE)
        try:
            timeline = await driver.fetchval(_TIMELINE)
        except asyncpg.PostgresError:  # some services have no WAL of their own
            timeline = "0"
        return f"{system}.{timeline}"

    async def _make_schema(self, host: dict[str, Any]) -> None:
        """
        Make or migrate the schema, on a connection of its own.

        It may take longer than a call, and then goes on. Otherwise every call would begin it again.
        """
        if self._making is None or self._making.done():
            self._making = asyncio.get_running_loop().create_task(self._make_schema_once(host))
            self._making.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio logs it
        await asyncio.shield(self._making)

    async def _make_schema_once(self, host: dict[str, Any]) -> None:
        driver = await self._open(host, self._timeout_s)
        try:
            # Without a time limit. But statements that wait for such a lock would wait behind it.
            await driver.fetchrow(_PREPARE, "0", str(int(self._timeout_s * 700)))
            await ensure_schema(driver, self.place)
        finally:
            driver.terminate()

    def refusal(self, reason: str) -> LogUnavailable:
        """Make an error that names the server."""
        return LogUnavailable(f"the cluster's database ({self.place}): {reason}")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Use a connection. Every error of the driver becomes LogUnavailable. A broken connection is ended."""
        try:
            async with asyncio.timeout(self._timeout_s), self._free:
                session = self._take_idle() or await self.connect()
                self._used.add(session)
                try:
                    yield session
                except BaseException as error:
                    if not is_answer(error):
                        session.driver.terminate()
                        self._drop_idle()
                    raise
                finally:
                    self._used.discard(session)
                    if not session.driver.is_closed():
                        self._keep(session)
        except DRIVER_ERRORS as error:
            raise unavailable(error, self.place) from error

    async def fetch(self, query: str, *values: object) -> list[Any]:
        """Run one statement as a transaction of its own. Return its rows. Raises LogUnavailable."""
        async with self.session() as session:
            return await fetch_in(session, query, *values)

    async def read(self, query: str, *values: object) -> list[Any]:
        """As `fetch`, for a statement that only reads. It is asked once more if its connection has ended."""
        try:
            return await self.fetch(query, *values)
        except LogUnavailable as error:
            if not is_lost(error.__cause__):
                raise
        return await self.fetch(query, *values)

    def _keep(self, session: Session) -> None:
        """Keep a connection for the next use. End those that were not needed for a while."""
        session.used_at_s = time.monotonic()
        self._idle.append(session)
        while self._idle[0].used_at_s < session.used_at_s - IDLE_KEPT_S:
            self._idle.pop(0).driver.terminate()

    def _take_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session.driver.is_closed():
                return session
        return None

    def _drop_idle(self) -> None:
        for session in self._idle:
            session.driver.terminate()
        self._idle.clear()

    async def close(self) -> None:
        """End every connection, also those in use."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        idle, self._idle = self._idle, []
        for session in idle:
            try:
                await session.driver.close(timeout=1)
            except DRIVER_ERRORS:
                session.driver.terminate()
        for session in self._used:
            session.driver.terminate()


async def fetch_in(session: Session, query: str, *values: object) -> list[Any]:
    """Run one statement as a transaction of its own; again if it lost a deadlock, because then nothing was written."""
    for attempt in range(_ATTEMPTS):
        try:
            return list(await session.driver.fetch(query, *values))
        except asyncpg.PostgresError as error:
            if attempt == _ATTEMPTS - 1 or not is_retried(error):
                raise
    raise AssertionError("the last attempt returns or raises")
