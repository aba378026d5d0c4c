"""The last step of a miss: what was rendered becomes a variant of the cache, if its originals still stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgproxy.cache.entry import Provenance, Variant, VariantFacts
from imgproxy.delivery.originals import Original, StaleGeneration
from imgproxy.failpoints import Failpoints, Point

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.metrics import Metrics
    from imgproxy.workers.job import Rendered


@dataclass(frozen=True, slots=True)
class Sources:
    """The originals of a variant, current now: the picture's, and its watermark's where there is one."""

    original: Original
    mark: Original | None = None
    wants_mark: bool = False
    provenance: Provenance = field(init=False)  # what the cache needs to know of them

    def __post_init__(self) -> None:
        mark = self.mark.facts if self.mark is not None else None
        known = Provenance(self.original.facts, self.original.key_hash, self.wants_mark, mark)
        object.__setattr__(self, "provenance", known)  # the way of a frozen dataclass


@dataclass(frozen=True, slots=True)
class Made:
    """A variant that was just made, and what it took; or, as a stand-in, one that was there (`is_new` False)."""

    variant: Variant
    fetch_s: float = 0.0
    queue_s: float = 0.0
    render_s: float = 0.0
    is_collapsed: bool = False
    is_new: bool = True


class Commits:
    """Puts variants into the cache."""

    def __init__(self, cache: Cache, metrics: Metrics, failpoints: Failpoints) -> None:
        self._cache = cache
        self._metrics = metrics
        self._failpoints = failpoints

    async def commit(self, sources: Sources, name: str, rendered: Rendered) -> Variant:
        """
        Put a variant on disk and in memory; between the last check and the rename nothing is awaited.

        `name` is the one that it has among the variants of its originals: 32 hex digits.

        Raises:
            StaleGeneration: a purge came by.
            CacheUnavailable, OSError: the disk refused it.
        """
        original, source = sources.original, sources.provenance
        facts = VariantFacts(
            key=original.facts.key,
            plan=name,
            original=source.digest,
            content_type=rendered.content_type,
            size_bytes=rendered.size_bytes,
            digest=rendered.digest,
            width_px=rendered.width_px,
            height_px=rendered.height_px,
            frames=rendered.frames,
            is_first_frame_only=rendered.is_first_frame_only,
            is_mark_missing=rendered.is_mark_missing,
            shared_decode=rendered.shared_decode,
        )
        temp = rendered.path
        is_hot = self._cache.hot.accepts(rendered.size_bytes)
        body = self._cache.store.seal_variant(temp, facts, with_body=is_hot)
        await self._failpoints.reach(Point.BEFORE_COMMIT, original.facts.key)
        path = self._cache.commit_variant(temp, facts, seq=original.facts.seq, also=source.also)
        if path is None:
            self._metrics.overtaken.labels(point="commit").inc()
            raise StaleGeneration
        where = None if body is not None else path
        variant = Variant(facts, original.key_hash, original.facts.seq, body=body, path=where, also=source.also)
        self._cache.hot.put(variant)
        return variant
