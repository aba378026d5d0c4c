"""
The URL of the database, as far as it is read here: which hosts, how TLS is verified, and what the driver cannot do.

The driver reads the rest of it, and libpq's own ways: PGHOST, PGPASSWORD, PGPASSFILE, ~/.pgpass, PGSERVICE.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Parameters of libpq that the driver would send to the server, which refuses what it does not know. They change
# nothing about what is promised: time limits and keepalives are those of this engine.
# Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_DROPPED: Final = frozenset(
    {
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "sslcertmode",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
_REFUSED: Final = {"channel_binding": "require", "require_auth": None}


def connection_arguments(url: str, environ: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """
    Return the arguments of `asyncpg.connect` for each host of this URL.

    `verify-full` without a file of CAs means those of the system, as `sslrootcert=system` does in libpq.

    Raises:
        ConfigError: the URL asks for something that the driver cannot do.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query)
    for name, value in query:
        if name in _REFUSED and _REFUSED[name] in (None, value):
            raise ConfigError((f"[cluster] database_url: the driver has no {name}={value}; leave it out",))
    kept = [(name, value) for name, value in query if name not in _DROPPED and name not in _REFUSED]
    values = dict(kept)
    mode = values.get("sslmode") or environ.get("PGSSLMODE")
    root = values.get("sslrootcert") or environ.get("PGSSLROOTCERT")
    tls: dict[str, Any] = {}
    if root not in (None, "system") and not os.access(root, os.R_OK):
        raise ConfigError((f"[cluster] database_url: sslrootcert={root}: the file cannot be read",))
    if root == "system" or (mode == "verify-full" and root is None and not _has_own_root(environ)):
        tls = {"ssl": _system_context(values, environ)}
    user, at, hosts = parts.netloc.rpartition("@")
    return tuple(
        {"dsn": f"{parts.scheme}://{user}{at}{host}{parts.path}?{urlencode(kept)}", **tls} for host in hosts.split(",")
    )


def tls_notice(url: str, environ: Mapping[str, str]) -> str | None:
    """Say what is weak about the TLS of these connections. None: nothing, or the server is on this machine."""
    values = dict(parse_qsl(urlsplit(url).query))
    hosts = [host for host in _hosts(url, environ) if not _is_local(host)]
    mode = values.get("sslmode") or environ.get("PGSSLMODE")
    root = values.get("sslrootcert") or environ.get("PGSSLROOTCERT")
    if not hosts or mode == "verify-full" or root == "system":
        return None
    where = f"[cluster] database_url: {', '.join(hosts)}"
    if mode == "verify-ca":
        return f"{where}: the name in the server's certificate is not checked (sslmode=verify-ca); use verify-full"
    if mode == "require":
        return f"{where}: TLS, but nobody checks whose certificate it is (sslmode=require); use verify-full"
    return f"{where}: connections may be without TLS (sslmode={mode or 'prefer'}); use sslmode=verify-full"


def place_of(url: str, environ: Mapping[str, str]) -> str:
    """Name the server for messages, without user and password."""
    return ", ".join(_hosts(url, environ)) or "the local socket"


def _hosts(url: str, environ: Mapping[str, str]) -> list[str]:
    """Return the hosts of the URL; none: the local socket, or those of a service file."""
    parts = urlsplit(url)
    listed = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host") or environ.get("PGHOST") or ""
    return [_without_port(unquote(host)) for host in listed.split(",") if host]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if not host.startswith("/") else host


def _is_local(host: str) -> bool:
    return host.startswith(("/", "127.")) or host in {"localhost", "::1", ""}


def _has_own_root(environ: Mapping[str, str]) -> bool:
    home = environ.get("HOME")
    return home is not None and Path(home, ".postgresql", "root.crt").exists()


def _system_context(values: Mapping[str, str], environ: Mapping[str, str]) -> ssl.SSLContext:
    """Make a context that checks certificate and name against the CAs of the system."""
    context = ssl.create_default_context()
    certificate = values.get("sslcert") or environ.get("PGSSLCERT")
    if certificate:
        context.load_cert_chain(certificate, values.get("sslkey") or environ.get("PGSSLKEY"))
    return context
