"""Edges of a cluster as far as the database sees them, for tests over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from imgproxy.cluster.log import Change, Kind, LogUnavailable, Member, Position
from imgproxy.cluster.postgres_database import Database
from imgproxy.cluster.postgres_facts import PostgresFacts
from imgproxy.cluster.postgres_listener import Listener
from imgproxy.cluster.postgres_log import PostgresLog
from imgproxy.cluster.postgres_outbox import PostgresOutbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOWHERE = Position("", 0)


class Edge:
    """A log with its connections, as one edge has them. `news` is set by each notification."""

    def __init__(self, url: str, name: str, timeout_s: float) -> None:
        self.database = Database(url, name=f"imgproxy {name}", size=2, timeout_s=timeout_s)
        self.listener = Listener(self.database)
        self.log = PostgresLog(self.database, self.listener)
        self.facts = PostgresFacts(self.database, f"run-of-{name}")
        self.outbox = PostgresOutbox(self.database, self.listener, f"run-of-{name}")
        self.member = Member(name, f"run-of-{name}", 0, 0, 5.0, 2.0)
        self.news = asyncio.Event()

    async def join(self) -> None:
        """Become a member, and wait until this edge hears of news."""
        await self.log.join(self.member, on_lines=self.news.set, on_applied=self.news.set)
        await self.hears()

    async def hears(self) -> None:
        """Wait for the next news, or for a new connection that listens."""
        async with asyncio.timeout(20):
            await self.news.wait()
        self.news.clear()

    async def position(self) -> Position:
        """Return where the log is now, for an edge that has applied nothing."""
        renewal = await self.log.renew(NOWHERE)
        return Position(renewal.history, 0)


@asynccontextmanager
async def edge(url: str, name: str = "a", *, is_member: bool = True, timeout_s: float = 10.0) -> AsyncIterator[Edge]:
    """Run one, as a member unless told otherwise."""
    running = Edge(url, name, timeout_s)
    try:
        if is_member:
            await eventually(running.join)  # on a busy machine, tables may take longer than a call
        yield running
    finally:
        await running.log.close()


def purge(*keys: str, reason: str = "manual") -> Change:
    """Make a purge of keys."""
    return Change(Kind.PURGE, keys, reason)


async def eventually(call: Any) -> Any:
    """Repeat a call until the database takes it."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except LogUnavailable:
                await asyncio.sleep(0.02)
