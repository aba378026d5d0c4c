"""The URL of the cluster's database, and its settings, without a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from imgproxy.cluster.postgres_url import connection_arguments, place_of, tls_notice
from imgproxy.config.cluster import ClusterSettings
from imgproxy.config.load import load
from imgproxy.config.secrets import database_url
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "environ", "said"),
    [
        ("postgresql://u:p@127.0.0.1/d", {}, None),
        ("postgresql://u:p@[::1]:5432/d", {}, None),
        ("postgresql://u:p@localhost:5432/d?sslmode=disable", {}, None),
        ("postgresql:///d", {}, None),
        ("postgresql:///d?host=/run/postgresql", {}, None),
        ("postgresql://u@%2Frun%2Fpostgresql/d", {}, None),
        ("postgresql://u:p@db/d?sslmode=verify-full", {}, None),
        ("postgresql://u:p@db/d", {"PGSSLMODE": "verify-full"}, None),
        ("postgresql://u:p@db/d?sslrootcert=system", {}, None),
        ("postgresql://u:p@db/d", {}, "without TLS (sslmode=prefer)"),
        ("postgresql:///d", {"PGHOST": "db"}, "without TLS (sslmode=prefer)"),
        ("postgresql://u:p@db/d?sslmode=disable", {}, "without TLS (sslmode=disable)"),
        ("postgresql://u:p@db/d?sslmode=require", {}, "nobody checks whose certificate"),
        ("postgresql://u:p@db/d?sslmode=verify-ca", {}, "the name in the server's certificate is not checked"),
        ("postgresql://u:p@127.0.0.1,db:5433/d", {}, "without TLS"),
    ],
)
def test_weak_tls_has_a_line(url: str, environ: dict[str, str], said: str | None) -> None:
    """TLS that is off or not verified is told, for hosts that are not this machine. The password is not repeated."""
    notice = tls_notice(url, environ)
    assert (notice is None) == (said is None)
    if notice is not None and said is not None:
        assert said in notice
        assert ":p@" not in notice


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:p@db.example:5432/d", "db.example"),
        ("postgresql://u:p%40x@a:1,b:2/d", "a, b"),
        ("postgresql://u:p@x@[2001:db8::1]:5432/d", "2001:db8::1"),
        ("postgresql:///d", "the local socket"),
        ("postgresql:///d?host=/run/postgresql", "/run/postgresql"),
    ],
)
def test_messages_name_the_server_only(url: str, place: str) -> None:
    """Hosts, without user, password and database."""
    assert place_of(url, {}) == place


def test_each_host_is_asked_by_itself() -> None:
    """With the same user, password, database and parameters; those that only libpq knows are left out."""
    found = connection_arguments("postgresql://u:p%40x@a:1,[::1]:2/d?sslmode=disable&connect_timeout=3", {})
    assert found == (
        {"dsn": "postgresql://u:p%40x@a:1/d?sslmode=disable"},
        {"dsn": "postgresql://u:p%40x@[::1]:2/d?sslmode=disable"},
    )
    assert connection_arguments("postgresql:///d?host=/run", {}) == ({"dsn": "postgresql:///d?host=%2Frun"},)


def cluster(**values: object) -> str:
    return "\n".join(["[cluster]", *(f"{name} = {value!r}" for name, value in values.items())])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (cluster(database_url="postgresql://h/d", database_url_file="f"), "give one of them"),
        (cluster(lease_s=60, proof_s=10, forget_s=60), "expected more than lease_s + proof_s = 70"),
        (cluster(node="two words"), "[cluster] node"),
    ],
)
def test_contradictions_have_a_line(tmp_path: Path, text: str, said: str) -> None:
    """Two sources of the URL; a node that is forgotten while it may still serve; a name that is none."""
    file = tmp_path / "edge.toml"
    file.write_text(text.replace("'", '"'))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert len(caught.value.problems) == 1
    assert said in caught.value.problems[0]


def test_the_url_comes_from_the_configuration_or_a_file(tmp_path: Path) -> None:
    """Without one there is no cluster. A text that is no URL of PostgreSQL is refused and not repeated."""
    file = tmp_path / "url"
    file.write_text("postgres://u:p@h/d\n")
    assert database_url(ClusterSettings()) is None
    assert database_url(ClusterSettings(database_url=SecretStr("postgresql://h/d"))) == "postgresql://h/d"
    assert database_url(ClusterSettings(database_url_file=file)) == "postgres://u:p@h/d"
    file.write_text("mysql://secret@h/d")
    with pytest.raises(ConfigError, match=r"\[cluster\] database_url_file: expected a URL") as caught:
        database_url(ClusterSettings(database_url_file=file))
    assert "secret" not in str(caught.value)
