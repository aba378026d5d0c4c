"""Renders: each variant that is missing is made once, by the pool, and committed if its originals still stand."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from imgproxy.delivery.batching import RenderBatches
from imgproxy.delivery.commits import Commits, Made, Sources
from imgproxy.delivery.originals import Original, Originals, StaleGeneration
from imgproxy.delivery.reductions import Reductions
from imgproxy.errors import (
    CacheUnavailable,
    DecodeFailed,
    ImageRefused,
    NotAnImage,
    Overloaded,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.failpoints import Failpoints, Point
from imgproxy.flights import Flights
from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.cache.cache import Cache
    from imgproxy.metrics import Metrics
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.pool import RenderPool

REFUSALS_MAX = 10_000
# A second timeout within this time is one in a row.
TIMED_OUT_TTL_S = 600.0
# What makes a picture unfit is its bytes: trying again soon only costs another process.
_REFUSALS = (DecodeFailed, NotAnImage, TooManyPixels, RenderTimeout, RenderOutOfMemory, RenderCrashed)


class Renders:
    """Makes variants, each in one flight however many wait for it."""

    def __init__(
        self,
        cache: Cache,
        originals: Originals,
        pool: RenderPool,
        metrics: Metrics,
        failpoints: Failpoints,
        *,
        refusal_ttl_s: float,
    ) -> None:
        self._cache = cache
        self._originals = originals
        self._metrics = metrics
        self._queue_s = metrics.stage_duration_s.labels(stage="queue").observe
        self._render_s = metrics.stage_duration_s.labels(stage="render").observe
        self._failpoints = failpoints
        self._commits = Commits(cache, metrics, failpoints)
        self._reductions = Reductions(cache, pool, self._commits, refusal_ttl_s=refusal_ttl_s)
        self._batches = RenderBatches(cache, originals, pool)
        self._flights: Flights[Made] = Flights()
        self._refusals: TTLCache[tuple[str, str], ImageRefused] = TTLCache(REFUSALS_MAX, max(refusal_ttl_s, 0.001))
        self._timed_out: TTLCache[tuple[str, str], bool] = TTLCache(REFUSALS_MAX, TIMED_OUT_TTL_S)
        # Key hashes of pictures that visitors wait for and that had to be fetched, with when the visitor came, by the
        # loop's clock; those in no render job yet.
        self._cold: dict[str, float] = {}
        self._coming: set[str] = set()
        self._pool = pool
        originals.refuse_late_by(pool.is_late)
        originals.gate.narrow_to(self._fetches_of_use)
        cache.purged.subscribe(lambda purged: self._forget(purged.key_hash))

    @contextmanager
    def expecting(self, hashed: str) -> Iterator[None]:
        """
        Count a visitor's picture that has to be fetched first as work to come, until its render is, or the block ends.

        Raises:
            Overloaded: it could not be rendered in time.
        """
        if self.sheds():
            raise Overloaded(self._pool.retry_after_s())
        self._coming.add(hashed)
        self._cold[hashed] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._coming.discard(hashed)
            self._cold.pop(hashed, None)
            self._originals.gate.look()

    @property
    def is_overloaded(self) -> bool:
        """Whether the queue stands."""
        return self._pool.is_overloaded

    def retry_after_s(self) -> int:
        """Seconds until there may be room again."""
        return self._pool.retry_after_s()

    def sheds(self, *, is_here: bool = False) -> bool:
        """Whether a visitor is refused now, whose picture has to be fetched first or `is_here`."""
        coming = len(self._coming) + self._batches.for_visitors
        return self._pool.sheds(coming, self._originals.fetch_s, is_here=is_here)

    def _fetches_of_use(self) -> int:
        """
        How many fetches keep every process busy: what is fetched earlier would only wait, perhaps in vain.

        While no render waits one fetch is always of use: those that were fetched may all wait for a watermark's.
        """
        fetched = len(self._cold) - len(self._originals.gate)
        of_use = self._pool.enough(self._originals.fetch_s) - max(0, fetched)
        return of_use if self._pool.waiting else max(1, of_use)

    async def make(self, sources: Sources, plan: RenderPlan, *, lane: Lane = Lane.VISITOR) -> Made:
        """
        Make a variant of these originals.

        Raises:
            StaleGeneration: a purge came by.
            ImageRefused: the picture cannot be rendered; remembered for a while.
            Overloaded: shed.
        """
        digest = sources.provenance.digest
        refused = self._refusals.get((digest, plan.digest))
        if refused is not None:
            raise refused.again()
        if lane is Lane.VISITOR and sources.original.facts.content_type == "image/gif":
            lane = Lane.ANIMATION
        name = (sources.original.key_hash, digest, plan.digest)
        if lane is Lane.VISITOR and name not in self._flights and self._refuses(sources.original):
            raise Overloaded(self._pool.retry_after_s())
        made, joined = await self._flights.join(name, lambda: self._make(sources, plan, lane))
        return replace(made, is_collapsed=True) if joined else made

    def _refuses(self, original: Original) -> bool:
        """
        Whether a visitor's picture that is here is refused, as the queue stands.

        Not one that was let in to be fetched, nor a size that others wait for a decode of.
        """
        if original.key_hash in self._cold or self._batches.gathers(original):
            return False
        return self.sheds(is_here=True)

    async def stand_in(self, sources: Sources, plan: RenderPlan) -> Made | None:
        """A larger variant in place of this one, see `Reductions.stand_in`."""
        return await self._reductions.stand_in(sources, plan)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()
        await self._reductions.close()
        await self._batches.close()

    @property
    def under_way(self) -> int:
        """Variants being made."""
        return len(self._flights)

    def _forget(self, hashed: str) -> None:
        self._flights.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)

    async def _make(self, sources: Sources, plan: RenderPlan, lane: Lane) -> Made:
        try:
            with self._cache.epochs.at_work():
                return await self._make_at_work(sources, plan, lane)
        finally:
            self._originals.gate.look()

    async def _make_at_work(self, sources: Sources, plan: RenderPlan, lane: Lane) -> Made:
        original = sources.original
        temp = None
        try:
            self._coming.discard(original.key_hash)  # from here on the batch counts
            came_at = self._cold.get(original.key_hash)
            finished = await self._batches.render(original, plan, sources.mark, lane, came_at)
            temp = finished.rendered.path
            self._metrics.tally.note(self._queue_s, finished.queue_s)
            self._metrics.tally.note(self._render_s, finished.render_s)
            await self._failpoints.reach(Point.AFTER_RENDER, original.facts.key)
            # The batch may have had to fetch the original again: then its proof is the newer one.
            is_same = finished.source is original and finished.mark is sources.mark
            proved = sources if is_same else Sources(finished.source, finished.mark, sources.wants_mark)
            variant = await self._commits.commit(proved, plan.digest, finished.rendered)
            temp = None
            self._reductions.made(original.key_hash, plan)
            self._timed_out.pop((sources.provenance.digest, plan.digest), None)
        except _REFUSALS as error:
            self._raise_if_overtaken(original)
            self._note_refusal((sources.provenance.digest, plan.digest), error)
            raise
        except (OSError, CacheUnavailable) as exc:
            # A purge takes the directory away under the render: that is no fault of the disk.
            self._raise_if_overtaken(original)
            self._cache.make_room(exc)
            raise CacheUnavailable from exc
        finally:
            if temp is not None:
                self._cache.store.discard(temp)
        await self._failpoints.reach(Point.AFTER_RENAME, original.facts.key)
        return Made(variant, finished.fetch_s, finished.queue_s, finished.render_s)

    def _note_refusal(self, name: tuple[str, str], error: ImageRefused) -> None:
        """
        Remember why a picture cannot be rendered.

        A timeout may be the machine's fault: it counts the second time in a row. A crash has had its second try.
        """
        if isinstance(error, RenderTimeout) and name not in self._timed_out:
            self._timed_out[name] = True
            return
        self._refusals[name] = error.again()

    def _raise_if_overtaken(self, original: Original) -> None:
        """By a purge, or by an eviction that took the file away: whoever starts over fetches it again."""
        is_purged = not self._cache.epochs.holds(original.key_hash, original.facts.seq)
        if is_purged or self._cache.store.original_path(original.facts) is None:
            raise StaleGeneration from None
