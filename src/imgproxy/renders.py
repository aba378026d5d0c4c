"""Renders: each variant that is missing is made once, by the pool, and committed if its originals still stand."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from imgproxy.barriers import Barriers, Point
from imgproxy.cache.entry import Provenance, Variant, VariantFacts
from imgproxy.errors import (
    CacheUnavailable,
    DecodeFailed,
    ImageRefused,
    ImgproxyError,
    NotAnImage,
    Overloaded,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.flights import Flights
from imgproxy.originals import Original, Originals, Overtaken
from imgproxy.render.job import Lane, Rendered, RenderJob, RenderTarget
from imgproxy.render_batches import RenderBatches
from imgproxy.stand_ins import StandIns, reduced_name, reduction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.cache.cache import Cache
    from imgproxy.metrics import Metrics
    from imgproxy.params.plan import RenderPlan
    from imgproxy.render.pool import RenderPool

log = logging.getLogger(__name__)

REFUSALS_MAX = 10_000
# A second timeout within this time is one in a row.
TIMED_OUT_TTL_S = 600.0
# What makes a picture unfit is its bytes: trying again soon only costs another process.
_REFUSALS = (DecodeFailed, NotAnImage, TooManyPixels, RenderTimeout, RenderOutOfMemory, RenderCrashed)


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
        self._metrics = metrics
        self._queue_s = metrics.stage_duration_s.labels(stage="queue").observe
        self._render_s = metrics.stage_duration_s.labels(stage="render").observe
        self._barriers = barriers
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
        self._stand_ins = StandIns()
        cache.watch_purges(self._forget)

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

    def sheds(self) -> bool:
        """Whether a visitor whose picture has to be fetched first is refused now."""
        return self._pool.sheds(len(self._coming) + self._batches.for_visitors, self._originals.fetch_s)

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
            Overtaken: a purge came by.
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
        made, joined = await self._flights.join(name, lambda: self._make(sources, plan, lane))
        return replace(made, is_collapsed=True) if joined else made

    async def stand_in(self, sources: Sources, plan: RenderPlan) -> Made | None:
        """
        The same picture from a larger variant that is there: in this size if that is quick, else as it is.

        Raises:
            Overtaken: a purge came by.
        """
        for width_px, digest in self._stand_ins.larger(sources.original.key_hash, plan):
            larger = await self._find(sources.provenance, digest)
            if larger is not None:
                return await self._reduced(sources, plan, larger, width_px) or Made(larger, is_new=False)
        return None

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()
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
            await self._barriers.reach(Point.AFTER_RENDER, original.facts.key)
            # The batch may have had to fetch the original again: then its proof is the newer one.
            is_same = finished.source is original and finished.mark is sources.mark
            proved = sources if is_same else Sources(finished.source, finished.mark, sources.wants_mark)
            variant = await self._commit(proved, plan.digest, finished.rendered)
            temp = None
            self._stand_ins.made(original.key_hash, plan)
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
        await self._barriers.reach(Point.AFTER_RENAME, original.facts.key)
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
            raise Overtaken from None

    # --- stand-ins ----------------------------------------------------------------------------------------------

    async def _find(self, source: Provenance, name: str) -> Variant | None:
        return self._cache.find_in_memory(source, name) or await self._cache.find_on_disk(source, name)

    async def _reduced(self, sources: Sources, plan: RenderPlan, larger: Variant, width_px: int) -> Made | None:
        """Bring a larger variant to the size of this plan, or find that done; None where it is to be left as it is."""
        facts, source = sources.original.facts, sources.provenance
        whole = RenderJob("", (RenderTarget(plan, ""),), original_bytes=facts.size_bytes, name=facts.digest)
        reduced = reduction(plan, larger.facts, width_px, self._pool.cost_units(whole))
        if reduced is None:
            return None
        name = reduced_name(plan, larger.facts)
        found = await self._find(source, name)
        if found is not None:
            return Made(found, is_new=False)
        flight = (sources.original.key_hash, source.digest, name)
        try:
            made, joined = await self._flights.join(flight, lambda: self._reduce(sources, reduced, larger, name))
        except (ImgproxyError, OSError) as error:
            log.info("reducing a variant of %s: %s", facts.key, error)
            return None
        return replace(made, is_collapsed=True) if joined else made

    async def _reduce(self, sources: Sources, reduced: RenderPlan, larger: Variant, name: str) -> Made:
        store, hashed = self._cache.store, sources.original.key_hash
        temp = store.temp_name(hashed)
        path = store.variant_path(hashed, larger.facts.plan)
        job = RenderJob(path, (RenderTarget(reduced, temp),), original_bytes=larger.facts.size_bytes)
        with self._cache.epochs.at_work():
            try:
                report = await self._pool.render(job, lane=Lane.STAND_IN)
                rendered = replace(report.rendered[0], is_mark_missing=larger.facts.is_mark_missing)
                variant = await self._commit(sources, name, rendered)
            except BaseException:
                store.discard(temp)
                raise
        return Made(variant, queue_s=report.queue_s, render_s=report.open_s + report.render_s)

    # --- commit -------------------------------------------------------------------------------------------------

    async def _commit(self, sources: Sources, name: str, rendered: Rendered) -> Variant:
        """Put a variant on disk and in memory; between the last check and the rename nothing is awaited."""
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
        await self._barriers.reach(Point.BEFORE_COMMIT, original.facts.key)
        path = self._cache.commit_variant(temp, facts, seq=original.facts.seq, also=source.also)
        if path is None:
            self._metrics.overtaken.labels(point="commit").inc()
            raise Overtaken
        where = None if body is not None else path
        variant = Variant(facts, original.key_hash, original.facts.seq, body=body, path=where, also=source.also)
        self._cache.hot.put(variant)
        return variant
