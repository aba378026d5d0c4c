"""Errors of PostgreSQL and of the way to it, in words for an operator."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

import asyncpg
from asyncpg import exceptions as pg

from imgproxy.cluster.log import LogUnavailable

# What the driver raises. Everything else is a bug of ours.
DRIVER_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_WORDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (pg.InvalidPasswordError, "the password is wrong"),
    (pg.InvalidAuthorizationSpecificationError, "the server does not let us in: {said}"),
    (pg.InvalidCatalogNameError, "{said}"),  # database "x" does not exist
    (pg.InsufficientPrivilegeError, "a right is missing: {said}; see docs/cluster.md"),
    (pg.ReadOnlySQLTransactionError, "the server takes no writes: it is a standby, or set to read-only"),
    (pg.TargetServerAttributeNotMatched, "none of the hosts is a primary that takes writes"),
    (pg.TooManyConnectionsError, "the server has no connection left: {said}"),
    (pg.CannotConnectNowError, "the server is starting or stopping: {said}"),
    (pg.AdminShutdownError, "the server was stopped"),
    (pg.CrashShutdownError, "the server has crashed"),
    (pg.LockNotAvailableError, "another session holds a lock for too long"),
    (pg.QueryCanceledError, "a statement took too long"),
    (pg.DiskFullError, "the server's disk is full"),
    (pg.UndefinedTableError, "{said}: the schema was dropped or restored in part"),
    (pg.UndefinedColumnError, "{said}: the schema is not the one that this imgproxy made"),
    (pg.InvalidSchemaNameError, "{said}"),
    (pg.ClientConfigurationError, "{said}"),
    (ssl.SSLCertVerificationError, "the server's certificate is not accepted: {verify}"),
    (ssl.SSLError, "TLS failed: {said}"),
    (socket.gaierror, "the name is not known (DNS)"),
    (ConnectionRefusedError, "the connection is refused: is PostgreSQL running there?"),
    (FileNotFoundError, "there is no socket: is PostgreSQL running on this machine?"),
    (TimeoutError, "no answer in time"),
    (pg.ConnectionDoesNotExistError, "the connection was lost"),
    (ConnectionError, "the connection was lost"),
    (pg.PostgresError, "{said} (SQLSTATE {state})"),
    (pg.InterfaceError, "the connection was lost: {said}"),
    (OSError, "no connection: {said}"),
)
# After these another server may have to be found.
_ENDING: Final = (
    pg.PostgresConnectionError,
    pg.OperatorInterventionError,
    pg.ReadOnlySQLTransactionError,
    pg.InternalServerError,
)


def unavailable(error: BaseException, place: str) -> LogUnavailable:
    """Make the error of the log from one of the driver. `place` names the server."""
    if isinstance(error, LogUnavailable):
        return error
    return LogUnavailable(f"the cluster's database ({place}): {words(error)}")


def words(error: BaseException) -> str:
    """Say what an error of the driver means, on one line, without secrets."""
    if isinstance(error, OSError) and f"[Errno {errno.ECONNREFUSED}]" in str(error):
        error = ConnectionRefusedError()  # a name with several addresses: their errors are joined to one text
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return "the server has no TLS, and sslmode asks for it"
    template = next((text for kind, text in _WORDS if isinstance(error, kind)), "{said}")
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return template.format(
        said=said,
        state=getattr(error, "sqlstate", None) or "unknown",
        verify=getattr(error, "verify_message", said),
    )


def is_answer(error: BaseException) -> bool:
    """Whether the server refused one statement, so that the connection can go on being used."""
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, _ENDING)


def is_lost(error: BaseException | None) -> bool:
    """Whether the connection has ended. A new one may work at once."""
    return isinstance(error, pg.PostgresConnectionError | asyncpg.InterfaceError | ConnectionError)


def is_retried(error: BaseException) -> bool:
    """Whether nothing was committed, and the same statement may succeed at once."""
    return isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError)
