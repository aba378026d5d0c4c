"""A site with a real cache in front of its edge, which the edge purges where it can be purged."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr
from yarl import URL

from imgproxy.config.downstream import DownstreamSettings
from tests.support.frontends import PURGE_TOKEN, binary, free_port, nginx, varnish
from tests.support.relay import Relay, relay
from tests.support.site import Reply, Site, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Kind = Literal["varnish", "nginx"]


@dataclass(frozen=True, slots=True)
class Fronted:
    """The site, the cache in front of it, and the network between them."""

    here: Site
    url: str
    network: Relay

    async def send(self, method: str, target: str, **headers: str) -> Reply:
        """Send a request to the cache in front."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self.url + target, encoded=True)
        async with self.here.session.request(method, url, headers=named) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, target: str, **headers: str) -> Reply:
        """GET from the cache in front."""
        return await self.send("GET", target, **headers)

    async def has_hit(self, target: str, **headers: str) -> bool:
        """Whether the cache in front answers this from its store."""
        reply = await self.get(target, **headers)
        assert reply.status == 200
        return reply.cache_status.endswith("varnish; hit") or reply.headers.get("X-Cache") == "REVALIDATED"


@asynccontextmanager
async def fronted(tmp_path: Path, kind: Kind, **options: Any) -> AsyncIterator[Fronted]:
    """Start library, edge and cache. The options are those of `site`. Skips the test if the program is not installed."""
    binary({"varnish": "varnishd", "nginx": "nginx"}[kind])
    port = free_port()
    if kind == "varnish":
        settings = DownstreamSettings(
            kind="varnish", url=f"http://127.0.0.1:{port}/", token=SecretStr(PURGE_TOKEN), wait_s=10
        )
        options.setdefault("downstream", (settings,))
    async with site(tmp_path, **options) as here:
        edge_port = int(here.edge.url.rsplit(":", 1)[1])
        async with relay(edge_port) as network:
            if kind == "varnish":
                async with varnish(tmp_path / "varnish", network.port, port=port) as url:
                    yield Fronted(here, url, network)
            else:
                async with nginx(tmp_path / "nginx", network.port) as url:
                    yield Fronted(here, url, network)
