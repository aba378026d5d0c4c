"""Several edges in this process, over one library and one log in memory. Each has a clock of its own for its lease."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from imgproxy.config.cluster import ClusterSettings
from imgproxy.config.sections import FreshnessSettings
from imgproxy.edge.app import Edge
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.clock import LeaseClock
from tests.support.kept_processes import KeptProcess
from tests.support.memory_log import MemoryLog, MemoryPurgeLog
from tests.support.site import KEY, Held, Site, jpeg, settings_for, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from imgproxy.cluster.node import ClusterNode

LEASE_S, PROOF_S, FORGET_S = 5.0, 2.0, 600.0
# The part of a lease that a node uses itself, and then some: it is fenced, and the others still wait for it.
OWN_LEASE_S = 4.6
NO_SETTLING = FreshnessSettings(settle_s=0)


@dataclass(frozen=True, slots=True)
class Node(Site):
    """One edge of a cluster, with its way to the log."""

    way: MemoryPurgeLog
    clock: LeaseClock
    held: Held

    @property
    def cluster(self) -> ClusterNode:
        """The node itself."""
        assert self.edge.node is not None
        return self.edge.node

    async def current(self) -> None:
        """Wait until the node is current."""
        await until(lambda: self.cluster.is_current)

    async def renewed(self) -> None:
        """Let the node renew its lease, when it is time for that."""
        count = self.cluster.renewals
        while self.cluster.renewals == count:
            self.clock.advance(LEASE_S / 3)
            # The next one may just be planned for later, by the clock as it was set a moment ago.
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await until(lambda: self.cluster.renewals > count)

    async def fence_off(self) -> None:
        """Cut the node off from the log, and let its own lease run out."""
        self.way.is_cut = True
        self.clock.advance(OWN_LEASE_S)
        await until(lambda: not self.cluster.is_current)


class Cluster:
    """Starts and stops edges."""

    def __init__(self, tmp_path: Path, library: EmbeddedLibrary, probe: Probe, sections: dict[str, Any]) -> None:
        self.library = library
        self.probe = probe
        self.log = MemoryLog()
        self._tmp_path = tmp_path
        self._sections = sections
        self._stacks: dict[str, AsyncExitStack] = {}

    async def start(
        self, name: str, *, is_joined: bool = True, way: MemoryPurgeLog | None = None, **cluster: Any
    ) -> Node:
        """Start the edge of this name, over its own cache, and wait until it is current."""
        way, clock, held = way or self.log.way(), LeaseClock(), Held()
        chosen = {"node": name, "lease_s": LEASE_S, "proof_s": PROOF_S, "forget_s": FORGET_S, **cluster}
        sections = {"freshness": NO_SETTLING, "cluster": ClusterSettings(**chosen), **self._sections}
        settings = settings_for(self.library, self._tmp_path / f"cache-{name}", **sections)
        edge = Edge(settings, failpoints=held, purge_log=way, cluster_clock=clock, process_class=KeptProcess)
        stack = self._stacks[name] = AsyncExitStack()
        await stack.enter_async_context(edge)
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        node = Node(edge, self.library, self.probe, session, way, clock, held)
        if is_joined:
            await node.current()
        return node

    async def stop(self, name: str) -> None:
        """Stop the edge of this name."""
        await self._stacks.pop(name).aclose()

    async def stop_all(self) -> None:
        """Stop every edge."""
        for name in list(self._stacks):
            await self.stop(name)

    def serves(self) -> int:
        """How often the origin was asked for a picture."""
        return self.probe.count("serveImage")


@asynccontextmanager
async def cluster(
    tmp_path: Path, *, pictures: dict[str, bytes] | None = None, **sections: Any
) -> AsyncIterator[Cluster]:
    """Start a library. The test starts the edges."""
    folder = tmp_path / "photos"
    for key, data in (pictures if pictures is not None else {KEY: jpeg(200)}).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    probe = Probe()
    tokens = [AccessToken("library-token")]
    async with EmbeddedLibrary(folder, probe=probe, tokens=tokens, scan_interval_s=3600.0) as library:
        here = Cluster(tmp_path, library, probe, sections)
        try:
            yield here
        finally:
            await here.stop_all()


async def several(here: Cluster, names: Sequence[str]) -> list[Node]:
    """Start edges one after the other."""
    return [await here.start(name) for name in names]
