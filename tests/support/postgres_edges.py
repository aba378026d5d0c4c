"""Several edges in this process over one library and one real PostgreSQL, and a CDN if there is one."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from pydantic import SecretStr

from imgproxy.config.cluster import ClusterSettings
from imgproxy.edge.app import Edge
from tests.support.kept_processes import KeptProcess
from tests.support.many_edges import NO_SETTLING, cluster
from tests.support.site import Site, settings_for, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.many_edges import Cluster

LEASE_S = 3.0


class SharedEdges:
    """Starts and stops edges."""

    def __init__(self, here: Cluster, tmp_path: Path, url: str, sections: dict[str, Any]) -> None:
        self.library = here.library
        self.probe = here.probe
        self._tmp_path = tmp_path
        self._url = url
        self._sections = sections
        self._stacks: dict[str, AsyncExitStack] = {}

    async def start(self, name: str, *, is_joined: bool = True, lease_s: float = LEASE_S, **sections: Any) -> Site:
        """
        Start the edge of this name over its own cache, and wait until it is current.

        A longer lease is for a test in which no lease may run out, however slow the machine is.
        """
        chosen = ClusterSettings(node=name, database_url=SecretStr(self._url), lease_s=lease_s, proof_s=0.5, wait_s=5)
        options = {"freshness": NO_SETTLING, "cluster": chosen, **self._sections, **sections}
        settings = settings_for(self.library, self._tmp_path / f"cache-{name}", **options)
        stack = self._stacks[name] = AsyncExitStack()
        edge = await stack.enter_async_context(Edge(settings, process_class=KeptProcess))
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        node = edge.node
        assert node is not None
        if is_joined:
            await until(lambda: node.is_current)
        return Site(edge, self.library, self.probe, session)

    async def stop(self, name: str) -> None:
        """Stop the edge of this name."""
        await self._stacks.pop(name).aclose()

    async def stop_all(self) -> None:
        """Stop every edge."""
        for name in list(self._stacks):
            await self.stop(name)


@asynccontextmanager
async def shared_edges(
    tmp_path: Path, url: str, *, pictures: dict[str, bytes] | None = None, **sections: Any
) -> AsyncIterator[SharedEdges]:
    """Start a library. The test starts the edges."""
    async with cluster(tmp_path, pictures=pictures) as here:
        edges = SharedEdges(here, tmp_path, url, sections)
        try:
            yield edges
        finally:
            await edges.stop_all()
