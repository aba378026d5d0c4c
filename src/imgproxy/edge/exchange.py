"""Values of the edge: a request with what it asks for, what was served, and an answer that may be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from imgproxy.cache.entry import OriginalFacts, Variant
    from imgproxy.delivery.request import Outcome
    from imgproxy.edge.waiters import Waiter
    from imgproxy.params.negotiate import AcceptClass
    from imgproxy.params.plan import ImageRequest

# Longer targets are not kept in memory, which strangers must not fill. The targets of pages have a tenth of this.
TARGET_MAX_CHARS = 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and what it asks for. `started_s` is of the monotonic clock."""

    request: web.BaseRequest
    wanted: ImageRequest
    started_s: float
    waiter: Waiter | None

    @property
    def is_plain(self) -> bool:
        """Whether the answer depends only on the target and the Accept class."""
        is_short = len(self.request.raw_path) <= TARGET_MAX_CHARS
        varies_as_usual = all(name == "Accept" for name in self.wanted.vary)
        return is_short and self.request.method == "GET" and self.wanted.expires_at_s is None and varies_as_usual


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, and what the log and the metrics need to know of it."""

    response: web.StreamResponse
    outcome: Outcome
    sent_bytes: int = 0
    code: str | None = None


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer to every request with this target and Accept class, until its original is stale."""

    target: str
    accept: AcceptClass
    variant: Variant
    original: OriginalFacts
    etag: str
    headers: dict[str, str]
    fresh_until_s: float
