"""
Where a redirect of the Media Library may lead: to the library itself, and to hosts that the configuration names.

Without this rule, a stranger who can make the library redirect could let this service fetch from any address that it
reaches, and serve the result as a picture. The token is sent to the library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.medialibrary.errors import RedirectRefused

if TYPE_CHECKING:
    from yarl import URL


@dataclass(frozen=True, slots=True)
class RedirectRule:
    """`home` is the library. `hosts` are names in lower case, with a port if it is not that of the scheme."""

    home: URL
    hosts: frozenset[str]

    def is_home(self, url: URL) -> bool:
        """Whether a URL leads to the library, or from its http to the https of the same host."""
        if (url.host or "").lower() != (self.home.host or "").lower():
            return False
        ours, theirs = (self.home.scheme, self.home.port), (url.scheme, url.port)
        return ours == theirs or (ours, theirs) == (("http", 80), ("https", 443))

    def check(self, before: URL, url: URL, where: str) -> bool:
        """Return whether `url` leads to the library. Raise RedirectRefused if `before` may not be redirected to it."""
        if before.scheme == "https" and url.scheme == "http":
            raise RedirectRefused(message="a redirect from https to http", where=where)
        is_home = self.is_home(url)
        if not is_home and (url.host_port_subcomponent or "").lower() not in self.hosts:
            raise RedirectRefused(
                message=f"a redirect to {url.host_port_subcomponent}, which [origin] redirect_hosts does not name",
                where=where,
            )
        return is_home
