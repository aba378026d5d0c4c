"""Warming: the configured variants of a key are made before the first reader asks for them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from imgproxy.background import Background
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.variants import Sources
from imgproxy.errors import ConfigError, ImgproxyError
from imgproxy.params.negotiate import AcceptClass, ClientHeaders
from imgproxy.params.plan import Metadata, RenderPlan
from imgproxy.params.request import RequestReader
from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.config.sections import RenderSettings, WarmSettings
    from imgproxy.config.url import UrlSettings
    from imgproxy.delivery.credentials import Credentials
    from imgproxy.delivery.originals import Original, Originals
    from imgproxy.delivery.variants import Variants

log = logging.getLogger(__name__)

# Keys that are warmed at a time. Their renders wait in the background lane.
PARALLEL = 4
# The queries are read at the start for a key that does not matter.
ANY_KEY = "any"


@dataclass(frozen=True, slots=True)
class Failure:
    """A key that could not be warmed, and why."""

    key: str
    code: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """How many variants were made, how many existed, and which keys failed."""

    keys: tuple[str, ...]
    made: int
    had: int
    failed: tuple[Failure, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the public form."""
        failed = [{"key": item.key, "code": item.code} for item in self.failed]
        return {"keys": list(self.keys), "made": self.made, "had": self.had, "failed": failed}


class Warming:
    """Makes the configured variants of keys."""

    def __init__(
        self,
        cache: Cache,
        originals: Originals,
        variants: Variants,
        *,
        warm: WarmSettings,
        url: UrlSettings,
        render: RenderSettings,
        finds_faces: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        """
        Take the configured queries.

        Raises:
            ConfigError: a query has an unknown parameter, or a value that is not as the grammar asks.
        """
        self._warm = warm
        self._reader = RequestReader(url, metadata=Metadata(render.metadata), finds_faces=finds_faces)
        _refuse_inexact(warm, self._reader)
        self._cache = cache
        self._originals = originals
        self._variants = variants
        self._credentials = credentials
        self._background = Background("warming")

    async def close(self) -> None:
        """Cancel the warming of new entries."""
        await self._background.close()

    @property
    def is_configured(self) -> bool:
        """Whether any queries are configured."""
        return bool(self._warm.queries)

    @property
    def is_on_create(self) -> bool:
        """Whether a new entry is to be warmed."""
        return self._warm.on_create and self.is_configured

    def plans(self, key: str) -> tuple[RenderPlan, ...]:
        """
        Return the plans of the configured queries for a key, each once.

        Raises:
            ImgproxyError: a query is not valid.
        """
        found: dict[str, RenderPlan] = {}
        for query in self._warm.queries:
            for client in self._warm.accept:
                headers = ClientHeaders(accept=AcceptClass(client))
                request = self._reader.read(f"/{quote(key)}?{query}", headers)
                # A variant with a watermark is made when it is asked for: its mark may not be there yet.
                if request.plan is not None and request.plan.mark is None:
                    found[request.plan.digest] = request.plan
        return tuple(found.values())

    def warm_created(self, entry: str, keys: Sequence[str]) -> None:
        """Warm the keys of a new entry in the background, if that is configured."""
        if self.is_on_create:
            log.info("warming new entry %s", entry)
            self._background.begin(self._warm_quietly, keys)

    async def _warm_quietly(self, keys: Sequence[str]) -> None:
        await self.warm(keys)

    async def warm(self, keys: Sequence[str]) -> Warmed:
        """Make the missing variants of these keys. A key that fails does not stop the others."""
        unique = tuple(dict.fromkeys(keys))
        limit = asyncio.Semaphore(PARALLEL)

        async def warm_one(key: str) -> tuple[int, int, Failure | None]:
            async with limit:
                try:
                    made, had = await self._warm_key(key)
                except (ImgproxyError, StaleGeneration) as error:
                    log.info("warming of %s failed: %s", key, error)
                    return 0, 0, Failure(key, getattr(error, "code", "purged_meanwhile"))
                return made, had, None

        results = await asyncio.gather(*map(warm_one, unique))
        failed = tuple(failure for _, _, failure in results if failure is not None)
        return Warmed(unique, sum(row[0] for row in results), sum(row[1] for row in results), failed)

    async def _warm_key(self, key: str) -> tuple[int, int]:
        """Return how many variants of a key were made, and how many existed."""
        original = await self._originals.current(key)
        plans = self.plans(key)
        wanted = [(await self._sources(original, plan), plan) for plan in plans]
        missing = [(sources, plan) for sources, plan in wanted if not await self._has(sources, plan)]
        # All at the same time, so that they share a decode.
        await asyncio.gather(*(self._variants.make(sources, plan, lane=Lane.BACKGROUND) for sources, plan in missing))
        return len(missing), len(plans) - len(missing)

    async def _sources(self, original: Original, plan: RenderPlan) -> Sources:
        if self._credentials is None:
            return Sources(original)
        original, credentials = await self._credentials.find(original, plan)
        return Sources(original, credentials=credentials)

    async def _has(self, sources: Sources, plan: RenderPlan) -> bool:
        """Whether the cache has the variant, or has got it from the shared store."""
        if await self._cache.find(sources.provenance, plan.digest) is not None:
            return True
        return await self._variants.find_shared(sources, plan) is not None


def _refuse_inexact(warm: WarmSettings, reader: RequestReader) -> None:
    """Raise ConfigError for queries with typos: they would make variants that no page asks for."""
    problems = []
    for query in warm.queries:
        try:
            request = reader.read(f"/{ANY_KEY}?{query}", ClientHeaders(accept=AcceptClass.LEGACY), is_remembered=False)
        except ImgproxyError as error:
            problems.append(f"[warm] queries: {query!r}: {error.public}")
        else:
            words = [f"{note.name}={note.text!r}: expected {note.expected}" for note in request.notes]
            problems += [f"[warm] queries: {query!r}: {word}" for word in words]
    if problems:
        raise ConfigError(tuple(problems))
