"""Values of the edge: a request with what it asks for, what was served, and an answer that may be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from imgproxy.cache.entry import OriginalFacts, Variant
    from imgproxy.delivery.request import Delivered, Outcome
    from imgproxy.edge.waiters import Waiter
    from imgproxy.params.negotiate import AcceptClass, ClientHeaders
    from imgproxy.params.request import ImageRequest


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    A request, what it asks for, and what its headers mean.

    A request is plain if its answer depends only on its target and its Accept class. `waiter` is None if it needs an
    answer of its own. `started_s` is of the monotonic clock.
    """

    request: web.BaseRequest
    wanted: ImageRequest
    client: ClientHeaders
    started_s: float
    is_plain: bool
    waiter: Waiter | None


@dataclass(frozen=True, slots=True)
class Served:
    """
    An answer, and what the log and the metrics need to know of it.

    `delivered` is the picture in it, None for other answers. `cause`: why the origin gave none.
    """

    response: web.StreamResponse
    outcome: Outcome
    sent_bytes: int = 0
    code: str | None = None
    cause: str | None = None
    delivered: Delivered | None = None

    @property
    def content_type(self) -> str:
        """That of the picture; empty if there is none."""
        variant = self.delivered.variant if self.delivered is not None else None
        return variant.facts.content_type if variant is not None else ""


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
