"""
A whole cluster as processes: a Media Library, a real PostgreSQL, and edges with two lines each, to database and origin.

    edge a ── database line ──┐                 edge a ── origin line ──┐
    edge b ── database line ──┼── PostgreSQL    edge b ── origin line ──┼── Media Library (in the test's process)
    edge c ── database line ──┘                 edge c ── origin line ──┘

Use it so:

    async with process_cluster(tmp_path, postgres_server) as here:
        a, b, c = here.nodes                     # three nodes, all of them current
        async with here.visitors() as visitors:  # they fetch from every door, all the time
            await here.put(30)                   # the library has new bytes
            receipt = await a.purge(here.entry)
            visitors.promise(receipt)            # after a 200 no door may answer what was before
            await visitors.round()               # every door has answered every size since
        # at the end of the block every answer has been looked at

Statements about time are not needed: the promise must hold in every order of events.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp

from imgproxy.medialibrary.operations import RevokeAsset, UnrevokeAsset
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.line import line_to
from tests.support.postgres import session
from tests.support.process_node import PATIENCE_S, ProcessNode
from tests.support.site import KEY, SECRET, jpeg, poll
from tests.support.visitors import Visitors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.postgres import PostgresServer

# Long enough that a busy machine keeps it most times, short enough to wait for its end.
LEASE_S = 5.0
PROOF_S = 2.0
# A purge waits for a node that does not answer, and is not answered as pending before.
WAIT_S = 60.0
FIRST_RED = 200
NO_RED = -100
TOKEN = "library-token"

Sections = dict[str, dict[str, Any]]


class ProcessCluster:
    """The nodes, the library and the database of a test. `entry` is the entry of the one picture, `KEY`."""

    def __init__(
        self, folder: Path, library: EmbeddedLibrary, server: PostgresServer, database: str, stack: AsyncExitStack
    ) -> None:
        """`database` is the name of the nodes' database on this server."""
        self._folder = folder
        self._server = server
        self._stack = stack
        self.database = database
        self.library = library
        self.reds = [FIRST_RED]  # of all bytes that the library had, the present ones last
        self.entry = library.entry_id(KEY)
        self.nodes: list[ProcessNode] = []

    async def add(self, name: str, sections: Sections) -> ProcessNode:
        """Make a node of this name. Its sections replace settings of `_configuration`. The test starts it."""
        database = await self._stack.enter_async_context(line_to(self._server.port))
        origin = await self._stack.enter_async_context(line_to(self.library.port))
        url = self._server.url(self.database, port=database.port)
        folder, port = self._folder / name, port_to_keep()
        folder.mkdir()
        config = folder / "imgproxy.toml"
        settings = _configuration(name, port, folder, url, f"http://127.0.0.1:{origin.port}")
        for section, values in sections.items():
            settings.setdefault(section, {}).update(values)
        config.write_text(_toml(settings), "utf-8")
        session = await self._stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=50))
        )
        node = ProcessNode(name, config, port, (database, origin), session)
        self._stack.push_async_callback(node.kill)
        self.nodes.append(node)
        return node

    async def heal(self) -> None:
        """
        Undo what a test has done: lines, held points, dead and paused nodes. Then the picture has its first bytes.

        A cluster that several tests use is healed before each. Nodes have removed their runs that were killed.
        """
        await asyncio.gather(*(node.heal() for node in self.nodes))
        await self.all_seen()
        self.entry = self.library.entry_id(KEY)
        if self.reds[-1] == NO_RED:
            await self.library.patch(self.entry, UnrevokeAsset())
        await self.library.put(KEY, jpeg(FIRST_RED))
        self.reds = [FIRST_RED]
        reply = await self.nodes[0].purge(self.entry)
        assert reply.status == 200, reply.body

    async def all_seen(self) -> None:
        """Wait until each node has seen every other one. It looks at its next renewal, after a third of a lease."""
        for node in self.nodes:
            await poll(node.state, lambda found: len(found["nodes"]) == len(self.nodes), within_s=PATIENCE_S)

    def session(self) -> AbstractAsyncContextManager[Any]:
        """Open a connection of the test to the database of the cluster."""
        return session(self._server.url(self.database))

    async def sql(self, statement: str) -> str:
        """Run SQL in the database of the cluster. Return what it printed: a line a row, columns split by |."""
        return await asyncio.to_thread(self._server.sql, statement, database=self.database)

    async def put(self, red: int) -> None:
        """Give the picture new bytes: of one colour, known by its red. The library sends no webhook."""
        assert red not in self.reds, "an old red would count as the new one"
        self.reds.append(red)
        await self.library.put(KEY, jpeg(red))

    async def revoke(self) -> None:
        """Revoke the picture in the library: from now on no bytes of it count. The library sends no webhook."""
        await self.library.patch(self.entry, RevokeAsset())
        self.reds.append(NO_RED)

    @asynccontextmanager
    async def visitors(self, *, is_balanced: bool = False) -> AsyncIterator[Visitors]:
        """
        Let visitors come while the block runs. At its end every answer is looked at.

        `is_balanced`: one more comes through a balancer, which asks the next door where one is shut.
        """
        visitors = Visitors(self, is_balanced=is_balanced)
        try:
            await visitors.begin()
            yield visitors
        finally:
            await visitors.end()
        visitors.expect_promises()


def port_to_keep() -> int:
    """
    Return a free port that a node keeps while its process is down.

    It is not one of those that the kernel gives to anybody who asks for any port (32768 and above).
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _configuration(name: str, port: int, folder: Path, database_url: str, origin_url: str) -> Sections:
    return {
        "server": {"host": "127.0.0.1", "port": port, "shutdown_timeout_s": 5.0},
        "origin": {"url": origin_url, "token": TOKEN, "timeout_s": 20.0},
        "admin": {"token": "admin-token"},
        "webhook": {"secrets": [SECRET]},
        "cache": {"dir": str(folder / "cache"), "min_free_bytes": 0},
        "render": {"processes": 1, "timeout_s": 60.0},
        "freshness": {"settle_s": 0.0},
        "purge": {"drain_s": 0.05, "expand_timeout_s": 60.0, "retry_max_s": 1.0},
        "log": {"format": "json", "access": "none"},
        "cluster": {
            "node": name,
            "database_url": database_url,
            "lease_s": LEASE_S,
            "proof_s": PROOF_S,
            "wait_s": WAIT_S,
        },
    }


def _toml(sections: Sections) -> str:
    """Write sections. Python's own writing of a text, a number and a list is TOML, too, for those of tests."""
    words = {True: "true", False: "false"}
    return "".join(
        f"[{section}]\n"
        + "".join(
            f"{name} = {words[value] if isinstance(value, bool) else repr(value)}\n" for name, value in values.items()
        )
        for section, values in sections.items()
    )


@asynccontextmanager
async def process_cluster(
    tmp_path: Path,
    server: PostgresServer,
    /,
    *,
    names: Sequence[str] = ("a", "b", "c"),
    is_started: bool = True,
    **sections: dict[str, Any],
) -> AsyncIterator[ProcessCluster]:
    """
    Run a library with one picture, and nodes over a new database of this server.

    Sections by name replace settings of every node: `cluster={"wait_s": 1}`. `is_started=False`: the test starts them.
    """
    photo = tmp_path / "photos" / KEY
    photo.parent.mkdir(parents=True)
    photo.write_bytes(jpeg(FIRST_RED))
    library = EmbeddedLibrary(tmp_path / "photos", probe=Probe(), tokens=[AccessToken(TOKEN)], scan_interval_s=3600.0)
    async with (
        library,
        AsyncExitStack() as stack,
    ):
        database = await asyncio.to_thread(server.new_database)
        here = ProcessCluster(tmp_path, library, server, database, stack)
        for name in names:
            await here.add(name, sections)
        if is_started:
            await asyncio.gather(*(node.start() for node in here.nodes))
        yield here
