"""Connections to a real PostgreSQL: passwords, TLS, and what an operator reads when one fails."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from imgproxy.cluster import postgres_database
from imgproxy.cluster.engine import open_engine, try_database
from imgproxy.cluster.log import LogUnavailable
from imgproxy.errors import ConfigError
from tests.support.certificates import Authority, needs_openssl
from tests.support.cluster import edge
from tests.support.postgres import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer


async def refusal(url: str) -> str:
    """Return the one line that says why there is no connection. It never has the password."""
    async with edge(url, is_member=False) as a:
        with pytest.raises(LogUnavailable) as caught:
            await a.log.members()
    words = str(caught.value)
    assert "\n" not in words
    assert PASSWORD not in words
    return words


async def test_each_reason_has_its_words(postgres_server: PostgresServer, database_url: str) -> None:
    """An operator reads what is wrong, and where."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]
        assert await refusal(postgres_server.url(port=free)) == (
            "the cluster's database (127.0.0.1): the connection is refused: is PostgreSQL running there?"
        )
    here = "the cluster's database (127.0.0.1): "
    assert await refusal(postgres_server.url(password="wrong")) == here + "the password is wrong"
    assert await refusal(postgres_server.url("nowhere")) == here + 'database "nowhere" does not exist'
    assert await refusal(postgres_server.url(user="nobody-there")) == here + "the password is wrong"
    assert (await refusal("postgresql://x@name.invalid/db")).endswith("(name.invalid): the name is not known (DNS)")
    assert (await refusal("postgresql://x@/db?host=/missing")).endswith("is PostgreSQL running on this machine?")


async def test_a_database_that_is_read_only_says_so(postgres_server: PostgresServer, database_url: str) -> None:
    """A server that takes no writes is named as such, whoever made it so."""
    database = database_url.rpartition("/")[2]
    async with edge(database_url):
        pass
    postgres_server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    report = await try_database(database_url)
    assert report.problems == (
        "[cluster] the cluster's database (127.0.0.1): the server takes no writes: it is a standby, or set to read-only",
    )


async def test_a_server_that_is_too_old_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version is named. (This server counts as too old for the test.)"""
    monkeypatch.setattr(postgres_database, "OLDEST_SERVER", 99)
    words = await refusal(database_url)
    assert re.fullmatch(r".*: PostgreSQL \d+ is too old; 99 or later is needed", words)


async def test_a_host_that_is_silent_does_not_hide_the_next(postgres_server: PostgresServer, database_url: str) -> None:
    """The first host takes connections and never answers: the second one is asked, and from then on first."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        hosts = f"127.0.0.1:{port},127.0.0.1:{postgres_server.port}"
        url = database_url.replace(f"127.0.0.1:{postgres_server.port}", hosts)
        async with edge(url, is_member=False, timeout_s=4.0) as a:
            assert await a.log.members() == ()
            silent.setblocking(False)
            asked, _ = silent.accept()
            asked.close()
            (await a.database.connect()).driver.terminate()
            with pytest.raises(BlockingIOError):
                silent.accept()


async def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    """Keys may have any letter, so the database must be able to keep it."""
    database = postgres_server.new_database()
    postgres_server.sql(f"DROP DATABASE {database}")
    postgres_server.sql(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
    assert (await refusal(postgres_server.url(database))).endswith("the database's encoding is LATIN1; UTF8 is needed")


async def test_connections_that_are_not_needed_are_ended(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls at once need two connections. Later one is enough, and the other is given back."""
    async with edge(database_url, is_member=False) as a:
        async with a.database.session() as one, a.database.session() as other:
            pass
        assert [one.driver.is_closed(), other.driver.is_closed()] == [False, False]
        monkeypatch.setattr(postgres_database, "IDLE_KEPT_S", 0.0)
        await a.log.members()
        assert sorted([one.driver.is_closed(), other.driver.is_closed()]) == [False, True]


async def test_a_password_comes_by_libpqs_own_ways(
    postgres_server: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a password in the URL: PGPASSWORD, then a password file; and a service file for all of it."""
    bare = database_url.replace(f":{PASSWORD}@", "@")
    database = database_url.rpartition("/")[2]
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    async with edge(bare, "by variable"):
        pass
    monkeypatch.delenv("PGPASSWORD")
    passwords = tmp_path / "passwords"
    passwords.write_text(f"127.0.0.1:{postgres_server.port}:*:postgres:{PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    async with edge(bare, "by file"):
        pass
    services = tmp_path / "services"
    services.write_text(
        f"[edges]\nhost=127.0.0.1\nport={postgres_server.port}\nuser=postgres\ndbname={database}\npassword={PASSWORD}\n"
    )
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    async with edge("postgresql://?service=edges", "by service"):
        pass


async def test_a_socket_needs_no_password(postgres_server: PostgresServer, database_url: str) -> None:
    """A folder as the host means the server's socket there."""
    database = database_url.rpartition("/")[2]
    url = f"postgresql://postgres@/{database}?host={postgres_server.folder}&port={postgres_server.port}"
    async with edge(url) as a:
        assert [member.name for member in await a.log.members()] == ["a"]
    assert (await try_database(url)).notices == ()


async def test_parameters_of_libpq_that_change_no_promise_are_accepted(database_url: str) -> None:
    """URLs of hosted databases have such parameters; the server would refuse the connection because of them."""
    async with edge(f"{database_url}?connect_timeout=5&keepalives=1&gssencmode=disable&channel_binding=prefer"):
        pass


@needs_openssl
async def test_tls_is_verified(own_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be for the name in the URL, and by a known authority."""
    own_server.expect_tls()
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    authority, stranger = map(Authority, folders)
    signed = authority.sign("server", subject="DNS:localhost")
    own_server.write("server.pem", signed.certificate.read_text("ascii"))
    own_server.write("server.key", signed.key.read_text("ascii"))
    own_server.restart(
        ssl="on",
        ssl_cert_file=str(own_server.folder / "server.pem"),
        ssl_key_file=str(own_server.folder / "server.key"),
    )
    url = own_server.url(own_server.new_database())
    named = url.replace("127.0.0.1", "localhost")
    ours, theirs = f"sslrootcert={authority.own.certificate}", f"sslrootcert={stranger.own.certificate}"

    async with edge(f"{named}?sslmode=verify-full&{ours}", "verified") as a:
        [row] = await a.database.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert row["ssl"]
    other = await refusal(f"{url}?sslmode=verify-full&{ours}")
    assert "the server's certificate is not accepted: IP address mismatch" in other
    async with edge(f"{url}?sslmode=verify-ca&{ours}", "the name is not checked"):
        pass
    unknown = await refusal(f"{named}?sslmode=verify-full&{theirs}")
    assert "the server's certificate is not accepted: unable to get local issuer certificate" in unknown

    # Without a file, or with `system`, the authorities are those of the system.
    monkeypatch.setenv("HOME", str(tmp_path))
    for ending in ("", "&sslrootcert=system"):
        assert "the server's certificate is not accepted" in await refusal(f"{named}?sslmode=verify-full{ending}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.own.certificate))
    for ending in ("", "&sslrootcert=system"):
        async with edge(f"{named}?sslmode=verify-full{ending}", f"system{ending}"):
            pass
        assert "certificate is not accepted" in await refusal(f"{url}?sslmode=verify-full{ending}")


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(database_url: str) -> None:
    """`sslmode=require` never goes on in the clear."""
    assert "the server has no TLS, and sslmode asks for it" in await refusal(f"{database_url}?sslmode=require")


async def test_the_whole_engine_opens_and_closes(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What an edge uses, by its URL. For a local server no TLS is needed, so there is no warning."""
    engine = open_engine(database_url, node="a", run="r", timeout_s=5.0)
    assert await engine.facts.pending_entries() == ()
    assert (await engine.outbox.figures("cdn")).lines == 0
    assert await engine.log.members() == ()
    await engine.close()
    assert caplog.text == ""


async def test_weak_tls_is_warned_of_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """A server elsewhere without verified TLS: one line in the log."""
    engine = open_engine("postgresql://u:p@db.example.com/x", node="a", run="r", timeout_s=5.0)
    await engine.close()
    assert [record.message for record in caplog.records] == [
        "[cluster] database_url: db.example.com: connections may be without TLS (sslmode=prefer); use sslmode=verify-full"
    ]


def test_what_the_driver_cannot_do_is_refused() -> None:
    """A URL that demands channel binding is not used without it, nor one whose file of authorities is missing."""
    with pytest.raises(ConfigError, match="the driver has no channel_binding=require"):
        open_engine("postgresql://u@h/d?channel_binding=require", node="a", run="r", timeout_s=1.0)
    with pytest.raises(ConfigError, match=r"sslrootcert=/missing/ca\.pem: the file cannot be read"):
        open_engine("postgresql://u@h/d?sslrootcert=/missing/ca.pem", node="a", run="r", timeout_s=1.0)
