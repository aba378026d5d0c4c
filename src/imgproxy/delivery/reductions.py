"""
Larger variants in place of those that cannot be made in time: reduced to their size where that is quick, else as is.

A reduction is a variant with a name of its own, found again by whoever asks while there is no room; it is never taken
for the render of its plan.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from imgproxy.delivery.commits import Made
from imgproxy.delivery.fallback import StandIns, reduced_name, reduction
from imgproxy.delivery.originals import StaleGeneration
from imgproxy.errors import CacheUnavailable, ImageRefused, Overloaded
from imgproxy.flights import Flights
from imgproxy.workers.job import Lane, RenderJob, RenderTarget

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import Provenance, Variant
    from imgproxy.delivery.commits import Commits, Sources
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.pool import RenderPool

log = logging.getLogger(__name__)

REFUSALS_MAX = 10_000


class Reductions:
    """Finds larger variants, and makes smaller ones of them, each in one flight however many wait for it."""

    def __init__(self, cache: Cache, pool: RenderPool, commits: Commits, *, refusal_ttl_s: float) -> None:
        self._cache = cache
        self._pool = pool
        self._commits = commits
        self._stand_ins = StandIns()
        self._flights: Flights[Made] = Flights()
        # What could not be reduced: to try it again soon would only cost another process.
        self._refusals: TTLCache[tuple[str, str], bool] = TTLCache(REFUSALS_MAX, max(refusal_ttl_s, 0.001))
        cache.purged.subscribe(lambda purged: self._forget(purged.key_hash))

    def made(self, key_hash: str, plan: RenderPlan) -> None:
        """Remember that this plan's variant exists."""
        self._stand_ins.made(key_hash, plan)

    async def stand_in(self, sources: Sources, plan: RenderPlan) -> Made | None:
        """
        The same picture from a larger variant that is there: in this size if that is quick, else as it is.

        Raises:
            StaleGeneration: a purge came by.
        """
        for width_px, digest in self._stand_ins.larger(sources.original.key_hash, plan):
            larger = await self._find(sources.provenance, digest)
            if larger is None:
                continue
            reduced = await self._reduced(sources, plan, larger, width_px)
            if reduced is not None:
                return reduced
            if not self._cache.epochs.holds(sources.original.key_hash, sources.original.facts.seq):
                raise StaleGeneration
            if (
                larger.body is None
            ):  # while that was tried, its file may have been evicted, or made anew with other bytes
                larger = await self._find(sources.provenance, digest)
            if larger is not None:
                return Made(larger, is_new=False)
        return None

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    def _forget(self, hashed: str) -> None:
        self._flights.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)

    async def _find(self, source: Provenance, name: str) -> Variant | None:
        found = await self._cache.find(source, name)
        return found.variant if found is not None else None

    async def _reduced(self, sources: Sources, plan: RenderPlan, larger: Variant, width_px: int) -> Made | None:
        """Bring a larger variant to the size of this plan, or find that done; None where it is to be left as it is."""
        facts, source = sources.original.facts, sources.provenance
        most_units = self._pool.worth_units(plan, facts.size_bytes, facts.digest)
        reduced = reduction(plan, larger.facts, width_px, most_units)
        name = reduced_name(plan, larger.facts)
        if reduced is None or (source.digest, name) in self._refusals:
            return None
        found = await self._find(source, name)
        if found is not None:
            return Made(found, is_new=False)
        flight = (sources.original.key_hash, source.digest, name)
        try:
            made, joined = await self._flights.join(flight, lambda: self._reduce(sources, reduced, larger, name))
        except ImageRefused as error:
            log.warning("a variant of %s cannot be reduced: %s", facts.key, error)
            self._refusals[source.digest, name] = True
            return None
        except Overloaded:
            return None
        except (OSError, CacheUnavailable) as exc:
            self._cache.make_room(exc)
            return None
        return replace(made, is_collapsed=True) if joined else made

    async def _reduce(self, sources: Sources, reduced: RenderPlan, larger: Variant, name: str) -> Made:
        store, hashed = self._cache.store, sources.original.key_hash
        temp = store.temp_name(hashed)
        path, facts = store.variant_path(hashed, larger.facts.plan), larger.facts
        job = RenderJob(path, (RenderTarget(reduced, temp),), original_bytes=facts.size_bytes)
        with self._cache.epochs.at_work():
            try:
                report = await self._pool.render(job, lane=Lane.STAND_IN)
                self._raise_if_replaced(larger)
                rendered = replace(
                    report.rendered[0],
                    is_first_frame_only=facts.is_first_frame_only,
                    is_mark_missing=facts.is_mark_missing,
                )
                variant = await self._commits.commit(sources, name, rendered)
            except BaseException:
                store.discard(temp)
                raise
        return Made(variant, queue_s=report.queue_s, render_s=report.open_s + report.render_s)

    def _raise_if_replaced(self, larger: Variant) -> None:
        """Where the larger variant's file is another by now, what was read may have been that."""
        if not self._cache.keeps(larger):
            raise CacheUnavailable
