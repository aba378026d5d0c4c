"""Several edges, each with a disk of its own, before one Media Library."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from imgproxy.edge.app import Edge
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.kept_processes import KeptProcess
from tests.support.site import KEY, Site, jpeg, settings_for, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from imgproxy.config.shared_store import SharedStoreSettings
    from imgproxy.failpoints import Failpoints

HAS_DETAIL = "detail=shared"


@dataclass
class Edges:
    """A library, and the edges before it that a test starts by name."""

    folder: Path
    library: EmbeddedLibrary
    probe: Probe
    session: aiohttp.ClientSession
    stack: AsyncExitStack

    async def start(
        self, name: str, store: SharedStoreSettings | None, *, failpoints: Failpoints | None = None, **sections: Any
    ) -> Site:
        """Start an edge with the disk of this name. It is stopped at the end."""
        return await self.stack.enter_async_context(self.running(name, store, failpoints=failpoints, **sections))

    @asynccontextmanager
    async def running(
        self, name: str, store: SharedStoreSettings | None, *, failpoints: Failpoints | None = None, **sections: Any
    ) -> AsyncIterator[Site]:
        """Run an edge with the disk of this name while the block runs."""
        more = {"shared_store": store} if store is not None else {}
        settings = settings_for(self.library, self.folder / name, **more, **sections)
        async with Edge(settings, failpoints=failpoints, process_class=KeptProcess) as edge:
            yield Site(edge, self.library, self.probe, self.session)


@asynccontextmanager
async def edges(folder: Path, pictures: dict[str, bytes] | None = None) -> AsyncIterator[Edges]:
    """Start a library over `folder/photos`."""
    for key, data in (pictures or {KEY: jpeg(200)}).items():
        path = folder / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    probe = Probe()
    async with (
        EmbeddedLibrary(
            folder / "photos", probe=probe, tokens=[AccessToken("library-token")], scan_interval_s=3600.0
        ) as library,
        aiohttp.ClientSession(auto_decompress=False) as session,
        AsyncExitStack() as stack,
    ):
        yield Edges(folder, library, probe, session, stack)


async def written(site: Site) -> None:
    """Wait until everything that this edge has for the store was written, or given up."""
    await until(lambda: not site.metric("imgproxy_shared_store_queue"))


def reads(site: Site, kind: str, result: str) -> float:
    """How many reads of the store ended so."""
    return site.metric("imgproxy_shared_store_reads_total", kind=kind, result=result)


def writes(site: Site, kind: str, result: str) -> float:
    """How many writes to the store ended so."""
    return site.metric("imgproxy_shared_store_writes_total", kind=kind, result=result)
