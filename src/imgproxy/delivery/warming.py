"""Warming: the configured variants of a picture, made behind everyone's back, before the first reader comes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from imgproxy.delivery.commits import Sources
from imgproxy.delivery.originals import StaleGeneration
from imgproxy.errors import ImgproxyError
from imgproxy.params.negotiate import ClientHeaders
from imgproxy.params.plan import Metadata, RenderPlan
from imgproxy.params.request import build_request
from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.config.load import Settings
    from imgproxy.delivery.originals import Originals
    from imgproxy.delivery.variants import Renders

log = logging.getLogger(__name__)

_ACCEPT = {"avif": "image/avif,image/webp", "webp": "image/webp", "legacy": None}
# Keys that are warmed at once; their renders queue in the background lane anyway.
PARALLEL = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A key that could not be warmed, and why."""

    key: str
    code: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was made, what was there already, and what failed."""

    keys: tuple[str, ...]
    made: int
    had: int
    failed: tuple[Failure, ...]

    def as_json(self) -> dict[str, Any]:
        """The public form."""
        failed = [{"key": item.key, "code": item.code} for item in self.failed]
        return {"keys": list(self.keys), "made": self.made, "had": self.had, "failed": failed}


class Warming:
    """Makes the configured variants of keys."""

    def __init__(self, settings: Settings, cache: Cache, originals: Originals, renders: Renders) -> None:
        self._settings = settings
        self._cache = cache
        self._originals = originals
        self._renders = renders

    @property
    def is_on_create(self) -> bool:
        """Whether a new entry is to be warmed."""
        return self._settings.warm.on_create and bool(self._settings.warm.queries)

    def plans(self, key: str) -> tuple[RenderPlan, ...]:
        """
        The plans of the configured queries for a key, each once.

        Raises:
            ImgproxyError: a query is not valid.
        """
        warm = self._settings.warm
        found: dict[str, RenderPlan] = {}
        for query in warm.queries:
            for client in warm.accept:
                headers = ClientHeaders(accept=_ACCEPT[client])
                metadata = Metadata(self._settings.render.metadata)
                request = build_request(f"/{quote(key)}?{query}", headers, self._settings.url, metadata=metadata)
                # One with a watermark is made when it is asked for: its mark may not be there yet.
                if request.plan is not None and request.plan.mark is None:
                    found[request.plan.digest] = request.plan
        return tuple(found.values())

    async def warm(self, keys: Sequence[str]) -> Warmed:
        """Make what is missing of these keys; a key that fails does not stop the others."""
        gate = asyncio.Semaphore(PARALLEL)

        async def one(key: str) -> tuple[int, int, Failure | None]:
            async with gate:
                try:
                    made, had = await self._warm_key(key)
                except (ImgproxyError, StaleGeneration) as error:
                    log.info("warming %s: %s", key, error)
                    return 0, 0, Failure(key, getattr(error, "code", "purged_meanwhile"))
                return made, had, None

        results = await asyncio.gather(*(one(key) for key in dict.fromkeys(keys)))
        failed = tuple(failure for _, _, failure in results if failure is not None)
        return Warmed(
            tuple(dict.fromkeys(keys)), sum(row[0] for row in results), sum(row[1] for row in results), failed
        )

    async def _warm_key(self, key: str) -> tuple[int, int]:
        """How many variants of a key were made, and how many were there."""
        sources = Sources(await self._originals.current(key))
        plans = self.plans(key)
        missing = [plan for plan in plans if not await self._has(sources, plan)]
        # Together, so that they share a decode.
        await asyncio.gather(*(self._renders.make(sources, plan, lane=Lane.BACKGROUND) for plan in missing))
        return len(missing), len(plans) - len(missing)

    async def _has(self, sources: Sources, plan: RenderPlan) -> bool:
        return await self._cache.find(sources.provenance, plan.digest) is not None
