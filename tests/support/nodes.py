"""Several edges in front of one embedded library, each on a port of its own that it keeps when it is started again."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from imgproxy.config.sections import ServerSettings
from imgproxy.edge.app import Edge
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.frontends import free_port
from tests.support.kept_processes import KeptProcess
from tests.support.site import Reply, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from imgproxy.config.settings import Settings
    from imgproxy.edge.exchange import Served


class Node:
    """One edge. `heard`: the method and path of each request that it answered itself, except hits of the fast path."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._edge: Edge | None = None
        self.port = settings.server.port
        self.heard: list[tuple[str, str]] = []

    @property
    def edge(self) -> Edge:
        """The running edge."""
        assert self._edge is not None
        return self._edge

    async def start(self) -> None:
        """Start the edge, over what its disk has."""
        edge = Edge(self._settings, process_class=KeptProcess)

        def hear(request: web.BaseRequest, target: str, started_s: float, served: Served) -> None:
            self.heard.append((request.method, target.partition("?")[0]))

        edge.access.write = hear  # type: ignore[method-assign]
        await edge.__aenter__()
        self._edge = edge

    async def stop(self) -> None:
        """Stop the edge. Its port is closed."""
        edge, self._edge = self._edge, None
        if edge is not None:
            await edge.stop()


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes, their library, and a client."""

    all: tuple[Node, ...]
    library: EmbeddedLibrary
    probe: Probe
    session: aiohttp.ClientSession

    @property
    def ports(self) -> list[int]:
        """The ports of the nodes."""
        return [node.port for node in self.all]

    async def send(self, method: str, url: str, **options: Any) -> Reply:
        """Send a request; the URL goes over the wire byte for byte."""
        async with self.session.request(method, URL(url, encoded=True), **options) as response:
            return Reply(response.status, response.headers, await response.read())


@asynccontextmanager
async def nodes(tmp_path: Path, pictures: dict[str, bytes], *, count: int = 3, **sections: Any) -> AsyncIterator[Nodes]:
    """Start a library over these pictures, and the nodes. The sections of their settings are those of `site`."""
    folder = tmp_path / "photos"
    folder.mkdir(parents=True)
    for key, data in pictures.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    probe = Probe()
    tokens = [AccessToken("library-token")]
    async with AsyncExitStack() as stack:
        library = EmbeddedLibrary(folder, probe=probe, tokens=tokens, scan_interval_s=3600.0)
        await stack.enter_async_context(library)
        started: list[Node] = []
        for number in range(count):
            server = ServerSettings(port=free_port(), shutdown_timeout_s=5.0)
            node = Node(settings_for(library, tmp_path / f"cache-{number}", server=server, **sections))
            stack.push_async_callback(node.stop)
            await node.start()
            started.append(node)
        connector = aiohttp.TCPConnector(limit=20)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, auto_decompress=False))
        yield Nodes(tuple(started), library, probe, session)
