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
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.frontends import free_port
from tests.support.line import line_to
from tests.support.process_node import ProcessNode
from tests.support.site import KEY, SECRET, jpeg
from tests.support.visitors import Visitors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.postgres import PostgresServer

# Long enough that a busy machine keeps it most times, short enough to wait for its end.
LEASE_S = 2.0
PROOF_S = 0.5
FIRST_RED = 200
TOKEN = "library-token"

Sections = dict[str, dict[str, Any]]


class ProcessCluster:
    """The nodes, the library and the database of a test. `entry` is the entry of the one picture, `KEY`."""

    def __init__(self, folder: Path, library: EmbeddedLibrary, probe: Probe, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.library = library
        self.probe = probe
        self.red = FIRST_RED
        self.entry = library.entry_id(KEY)
        self.nodes: list[ProcessNode] = []

    async def add(self, name: str, database_url: str, database_port: int, sections: Sections) -> ProcessNode:
        """
        Make a node. The test starts it.

        Args:
            name: of the node, and of its folder. `sections` may give it another `[cluster] node`.
            database_url: with any host and port: `database_port` of the loopback is used, through a line.
            database_port: of the PostgreSQL.
            sections: settings that replace those of `_configuration`, by section and name.
        """
        database = await self._stack.enter_async_context(line_to(database_port))
        origin = await self._stack.enter_async_context(line_to(self.library.port))
        url = f"{database_url.rpartition('@')[0]}@127.0.0.1:{database.port}/{database_url.rpartition('/')[2]}"
        folder, port = self._folder / name, free_port()
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

    async def put(self, red: int) -> None:
        """Give the picture new bytes: of one colour, known by its red. The library sends no webhook."""
        await self.library.put(KEY, jpeg(red))
        self.red = red

    @asynccontextmanager
    async def visitors(self, targets: Sequence[str] | None = None) -> AsyncIterator[Visitors]:
        """Let visitors come while the block runs. At its end every answer is looked at."""
        visitors = Visitors(self, targets) if targets else Visitors(self)
        try:
            await visitors.begin()
            yield visitors
        finally:
            await visitors.end()
        visitors.expect_promises()


def _configuration(name: str, port: int, folder: Path, database_url: str, origin_url: str) -> Sections:
    return {
        "server": {"host": "127.0.0.1", "port": port, "shutdown_timeout_s": 5.0},
        "origin": {"url": origin_url, "token": TOKEN, "timeout_s": 20.0},
        "admin": {"token": "admin-token"},
        "webhook": {"secrets": [SECRET]},
        "cache": {"dir": str(folder / "cache"), "min_free_bytes": 0},
        "render": {"processes": 1, "timeout_s": 60.0},
        "freshness": {"settle_s": 0.0},
        "purge": {"drain_s": 0.05, "retry_max_s": 1.0},
        "log": {"format": "json", "access": "none"},
        "cluster": {"node": name, "database_url": database_url, "lease_s": LEASE_S, "proof_s": PROOF_S},
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
    probe = Probe()
    tokens = [AccessToken(TOKEN)]
    async with (
        EmbeddedLibrary(tmp_path / "photos", probe=probe, tokens=tokens, scan_interval_s=3600.0) as library,
        AsyncExitStack() as stack,
    ):
        here = ProcessCluster(tmp_path, library, probe, stack)
        url = server.url(await asyncio.to_thread(server.new_database))
        for name in names:
            await here.add(name, url, server.port, sections)
        if is_started:
            await asyncio.gather(*(node.start() for node in here.nodes))
        yield here
