"""The engine of the cluster, by the URL of its database. Its driver is loaded here, and only when there is a URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from imgproxy.cluster.facts import SharedFacts, SharedOutbox
    from imgproxy.cluster.log import PurgeLog

# Connections of one edge: those of the log (a renewal never waits for a query of shared facts), of the facts, and one
# that listens.
LOG_CONNECTIONS: Final = 2
FACTS_CONNECTIONS: Final = 2


@dataclass(frozen=True, slots=True)
class Engine:
    """What the edges share, as one run of one edge uses it."""

    log: PurgeLog
    facts: SharedFacts
    outbox: SharedOutbox

    async def close(self) -> None:
        """End every connection."""
        await self.log.close()
        await self.facts.close()


def open_engine(url: str, *, node: str, run: str, timeout_s: float) -> Engine:
    """
    Make the engine, without a connection.

    Args:
        url: of the database.
        node: the name of this edge, for the database's list of sessions.
        run: the run of this process, as in its `Member`.
        timeout_s: how long a call may take before it counts as failed. Less than a lease.

    Raises:
        ConfigError: the driver is not installed, or cannot do what the URL asks for.
    """
    try:
        from imgproxy.cluster.postgres_database import Database  # noqa: PLC0415 an edge alone has no driver
        from imgproxy.cluster.postgres_facts import PostgresFacts  # noqa: PLC0415
        from imgproxy.cluster.postgres_listener import Listener  # noqa: PLC0415
        from imgproxy.cluster.postgres_log import PostgresLog  # noqa: PLC0415
        from imgproxy.cluster.postgres_outbox import PostgresOutbox  # noqa: PLC0415
    except ModuleNotFoundError:
        problem = "the driver of PostgreSQL is not installed (extra `cluster`): pip install 'imgproxy[cluster]'"
        raise ConfigError((f"[cluster] database_url: {problem}",)) from None
    name = f"imgproxy {node}"
    of_log = Database(url, name=name, size=LOG_CONNECTIONS, timeout_s=timeout_s)
    of_facts = Database(url, name=name, size=FACTS_CONNECTIONS, timeout_s=timeout_s)
    listener = Listener(of_log)
    return Engine(PostgresLog(of_log, listener), PostgresFacts(of_facts, run), PostgresOutbox(of_facts, listener, run))
