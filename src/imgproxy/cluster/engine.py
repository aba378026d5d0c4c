"""The engine of the cluster, by the URL of its database. Its driver is loaded here, and only when there is a URL."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.cluster.postgres_url import tls_notice
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from imgproxy.cluster.facts import SharedFacts, SharedOutbox
    from imgproxy.cluster.log import PurgeLog
    from imgproxy.cluster.status import ClusterStatus, DatabaseReport

log = logging.getLogger(__name__)

# Connections of one edge, besides the one that listens. The log: an append that waits for its commit, a renewal that
# waits for that append, and one for all else. The facts have their own, so that a slow query holds up no renewal.
LOG_CONNECTIONS: Final = 3
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
    _expect_driver()
    from imgproxy.cluster.postgres_database import Database  # noqa: PLC0415 an edge alone has no driver
    from imgproxy.cluster.postgres_facts import PostgresFacts  # noqa: PLC0415
    from imgproxy.cluster.postgres_listener import Listener  # noqa: PLC0415
    from imgproxy.cluster.postgres_log import PostgresLog  # noqa: PLC0415
    from imgproxy.cluster.postgres_outbox import PostgresOutbox  # noqa: PLC0415

    if (notice := tls_notice(url, os.environ)) is not None:
        log.warning("%s", notice)
    name = f"imgproxy {node}"
    of_log = Database(url, name=name, size=LOG_CONNECTIONS, timeout_s=timeout_s)
    of_facts = Database(url, name=name, size=FACTS_CONNECTIONS, timeout_s=timeout_s)
    listener = Listener(of_log)
    return Engine(PostgresLog(of_log, listener), PostgresFacts(of_facts, run), PostgresOutbox(of_facts, listener, run))


async def read_status(url: str) -> ClusterStatus:
    """
    Read the state of the cluster, without being a part of it.

    Raises:
        ConfigError: as `open_engine`.
        LogUnavailable: the database cannot be reached, or refuses.
    """
    _expect_driver()
    from imgproxy.cluster import postgres_status  # noqa: PLC0415

    return await postgres_status.read_status(url)


async def try_database(url: str) -> DatabaseReport:
    """Connect, write and read, and say what is missing. Raises ConfigError, as `open_engine`."""
    _expect_driver()
    from imgproxy.cluster import postgres_status  # noqa: PLC0415

    return await postgres_status.try_database(url)


def _expect_driver() -> None:
    """Raise ConfigError if the extra is not installed."""
    try:
        import asyncpg  # noqa: F401, PLC0415
    except ModuleNotFoundError:
        problem = "the driver of PostgreSQL is not installed (extra `cluster`): pip install 'imgproxy-edge[cluster]'"
        raise ConfigError((f"[cluster] database_url: {problem}",)) from None
