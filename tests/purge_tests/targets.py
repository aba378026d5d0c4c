"""The proxies that can be put to the test: where they listen, and how they are told to purge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from yarl import URL

from .origin import tag_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

# How a proxy is purged: by the method PURGE or BAN on the picture's URL, by PURGE with the picture's tag, or not at all.
PurgeBy = Literal["PURGE", "BAN", "xkey", "none"]


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy. `purge_url` is where purges go, if not to the proxy itself."""

    name: str
    url: str
    purge_by: PurgeBy = "PURGE"
    purge_url: str | None = None
    purge_headers: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    async def purge(self, session: aiohttp.ClientSession, name: str, query: str = "") -> int | None:
        """Purge a picture by its URL or tag; the status of the answer, None where there is no purge."""
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
