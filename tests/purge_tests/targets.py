"""The proxies under test: where they listen, and how they are purged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from yarl import URL

from .origin import tag_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

# How a proxy is purged: by method PURGE or BAN on the picture's URL, by PURGE with the picture's tag, or not at all.
PurgeBy = Literal["PURGE", "BAN", "xkey", "none"]


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy. Purges go to `purge_url`; unset: to the proxy itself. `service`: the one that it is a door of; empty: none."""

    name: str
    url: str
    purge_by: PurgeBy = "PURGE"
    purge_url: str | None = None
    purge_headers: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    service: str = ""

    async def purge(self, session: aiohttp.ClientSession, name: str, query: str = "") -> int | None:
        """Purge a picture by its URL or tag. Returns the status of the answer, or None if the proxy has no purge."""
        if self.purge_by == "none":
            return None
        base = self.purge_url or self.url
        headers = dict(self.purge_headers)
        method, path = self.purge_by, f"/{name}" + (f"?{query}" if query else "")
        if self.purge_by == "xkey":
            method, path = "PURGE", "/"
            headers["xkey-purge"] = tag_of(name)
        async with session.request(method, URL(base.rstrip("/") + path, encoded=True), headers=headers) as response:
            await response.read()
            return response.status
