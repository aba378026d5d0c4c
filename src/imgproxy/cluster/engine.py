"""The engine of the cluster, by the URL of its database. Its driver is loaded here, and only when there is a URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from imgproxy.cluster.log import PurgeLog

# Connections of one edge: those of the log (a renewal never waits for a query of shared facts), of the facts, and one
# that listens.
LOG_CONNECTIONS: Final = 2
FACTS_CONNECTIONS: Final = 2


@dataclass(frozen=True, slots=True)
class Engine:
    """What the edges share."""

    log: PurgeLog


def open_engine(url: str, *, node: str, timeout_s: float) -> Engine:
    """
    Make the engine, without a connection.

    Args:
        url: of the database.
        node: the name of this edge, for the database's list of sessions.
        timeout_s: how long a call may take before it counts as failed. Less than a lease.

    Raises:
        ConfigError: the driver is not installed, or cannot do what the URL asks for.
    """
    try:
        from imgproxy.cluster.postgres_database import Database  # noqa: PLC0415 an edge alone has no driver
        from imgproxy.cluster.postgres_listener import Listener  # noqa: PLC0415
        from imgproxy.cluster.postgres_log import PostgresLog  # noqa: PLC0415
    except ModuleNotFoundError:
        problem = "the driver of PostgreSQL is not installed (extra `cluster`): pip install 'imgproxy[cluster]'"
        raise ConfigError((f"[cluster] database_url: {problem}",)) from None
    database = Database(url, name=f"imgproxy {node}", size=LOG_CONNECTIONS, timeout_s=timeout_s)
    return Engine(PostgresLog(database, Listener(database)))
