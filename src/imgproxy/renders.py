"""Renders: each variant that is missing is made once, by the pool, and committed if its original still stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from imgproxy.barriers import Barriers, Point
from imgproxy.cache.entry import Variant, VariantFacts
from imgproxy.errors import (
    CacheUnavailable,
    DecodeFailed,
    ImageRefused,
    NotAnImage,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.flights import Flights
from imgproxy.originals import Original, Originals, Overtaken
from imgproxy.render.job import Lane, Rendered, RenderJob, RenderReport, RenderTarget

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.cache.cache import Cache
    from imgproxy.metrics import Metrics
    from imgproxy.params.plan import RenderPlan
    from imgproxy.render.pool import RenderPool

REFUSALS_MAX = 10_000
# What makes a picture unfit is its bytes: trying again soon only costs another process.
_REFUSALS = (DecodeFailed, NotAnImage, TooManyPixels, RenderTimeout, RenderOutOfMemory, RenderCrashed)


@dataclass(frozen=True, slots=True)
class Made:
    """A variant that was just made, and what it took."""

    variant: Variant
    fetch_s: float
    queue_s: float
    render_s: float
    is_collapsed: bool = False


class Renders:
    """Makes variants, each in one flight however many wait for it."""

    def __init__(
        self,
        cache: Cache,
        originals: Originals,
        pool: RenderPool,
        metrics: Metrics,
        barriers: Barriers,
        *,
        refusal_ttl_s: float,
    ) -> None:
        self._cache = cache
        self._originals = originals
        self._pool = pool
        self._metrics = metrics
        self._barriers = barriers
        self._flights: Flights[Made] = Flights()
        self._refusals: TTLCache[tuple[str, str], ImageRefused] = TTLCache(REFUSALS_MAX, max(refusal_ttl_s, 0.001))
        cache.watch_purges(self._forget)

    async def make(self, original: Original, plan: RenderPlan, *, lane: Lane = Lane.VISITOR) -> Made:
        """
        Make a variant of this original.

        Raises:
            Overtaken: a purge came by.
            ImageRefused: the picture cannot be rendered; remembered for a while.
            Overloaded: shed.
        """
        refused = self._refusals.get((original.facts.digest, plan.digest))
        if refused is not None:
            raise refused
        name = (original.key_hash, original.facts.digest, plan.digest)
        made, joined = await self._flights.join(name, lambda: self._make(original, plan, lane))
        return replace(made, is_collapsed=True) if joined else made

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    @property
    def under_way(self) -> int:
        """Variants being made."""
        return len(self._flights)

    def _forget(self, hashed: str) -> None:
        self._flights.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)

    async def _make(self, original: Original, plan: RenderPlan, lane: Lane) -> Made:
        with self._cache.epochs.at_work():
            return await self._make_at_work(original, plan, lane)

    async def _make_at_work(self, original: Original, plan: RenderPlan, lane: Lane) -> Made:
        source, path = await self._originals.file(original)
        fetch_s = source.fetch_s if source is not original else 0.0
        temp = self._cache.store.temp_path(source.key_hash)
        try:
            report = await self._render(source, plan, path, temp, lane)
            await self._barriers.reach(Point.AFTER_RENDER, source.facts.key)
            variant = await self._commit(source, plan, report.rendered[0], temp)
        except (OSError, CacheUnavailable) as exc:
            # A purge takes the directory away under the render: that is no fault of the disk.
            if not self._cache.epochs.holds(source.key_hash, source.facts.seq):
                raise Overtaken from None
            raise CacheUnavailable from exc
        finally:
            self._cache.store.discard(temp)
        await self._barriers.reach(Point.AFTER_RENAME, source.facts.key)
        return Made(variant, fetch_s, report.queue_s, report.open_s + report.render_s)

    async def _render(self, source: Original, plan: RenderPlan, path: Path, temp: Path, lane: Lane) -> RenderReport:
        try:
            report = await self._pool.render(RenderJob(path, (RenderTarget(plan, temp),)), lane=lane)
        except _REFUSALS as error:
            if not self._cache.epochs.holds(source.key_hash, source.facts.seq):
                raise Overtaken from None
            self._refusals[source.facts.digest, plan.digest] = error
            raise
        self._metrics.stage_duration_s.labels(stage="queue").observe(report.queue_s)
        self._metrics.stage_duration_s.labels(stage="render").observe(report.open_s + report.render_s)
        return report

    async def _commit(self, source: Original, plan: RenderPlan, rendered: Rendered, temp: Path) -> Variant:
        """Put the variant on disk and in memory; between the last check and the rename nothing is awaited."""
        facts = VariantFacts(
            key=source.facts.key,
            plan=plan.digest,
            original=source.facts.digest,
            content_type=rendered.content_type,
            size_bytes=rendered.size_bytes,
            digest=rendered.digest,
            width_px=rendered.width_px,
            height_px=rendered.height_px,
            frames=rendered.frames,
            is_first_frame_only=rendered.is_first_frame_only,
        )
        body = _read(temp) if self._cache.hot.accepts(rendered.size_bytes) else None
        self._cache.store.seal_variant(temp, facts)
        await self._barriers.reach(Point.BEFORE_COMMIT, source.facts.key)
        path = self._cache.commit_variant(temp, facts, seq=source.facts.seq)
        if path is None:
            self._metrics.overtaken.labels(point="commit").inc()
            raise Overtaken
        variant = Variant(facts, source.key_hash, source.facts.seq, body=body, path=None if body is not None else path)
        self._cache.hot.put(variant)
        return variant


def _read(path: Path) -> bytes:
    """Read a small file that was written just now, and so is in the page cache."""
    return path.read_bytes()
