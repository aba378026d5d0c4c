"""Variants: a missing variant is made once, by a render process, and committed if no purge came meanwhile."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from cachetools import TTLCache

from imgproxy.cache.entry import Provenance, Variant, VariantFacts, latest_proofs
from imgproxy.credentials.service import Mark
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.credentials import MISSING, Attached
from imgproxy.delivery.faces import find_faces
from imgproxy.delivery.request import Timings
from imgproxy.errors import (
    CacheUnavailable,
    ColoursNotSupported,
    DecodeFailed,
    FacesUnavailable,
    ImageRefused,
    ImgproxyError,
    NotAnImage,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.failpoints import Failpoints, Point
from imgproxy.flights import Flights
from imgproxy.params.faces import needs_faces, without_faces
from imgproxy.telemetry import traces
from imgproxy.workers.job import Lane, MarkFile

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge_event import Purged, PurgedAll, PurgedMany
    from imgproxy.cluster.store.shared import SharedStore
    from imgproxy.delivery.batching import Batches
    from imgproxy.delivery.credentials import Credentials
    from imgproxy.delivery.fallback import Fallback
    from imgproxy.delivery.originals import Original, Originals
    from imgproxy.delivery.refusals import Refusals
    from imgproxy.params.plan import RenderPlan
    from imgproxy.telemetry.metrics import Metrics
    from imgproxy.workers.faces import Face
    from imgproxy.workers.job import Rendered

log = logging.getLogger(__name__)

# A second timeout of a variant within this time counts as two in a row.
TIMED_OUT_TTL_S = 600.0
TIMED_OUT_MAX = 10_000
GIF = "image/gif"
# The cause of these is in the bytes of the original: a second try would end in the same way.
_LASTING = (
    DecodeFailed,
    ColoursNotSupported,
    NotAnImage,
    TooManyPixels,
    RenderTimeout,
    RenderOutOfMemory,
    RenderCrashed,
    FacesUnavailable,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """
    The originals of a variant: the picture's, and its watermark's. `mark` is None if it failed.

    `credentials` is the mark of `delivery.credentials`; empty without Content Credentials.
    """

    original: Original
    mark: Original | None = None
    wants_mark: bool = False
    credentials: str = ""
    provenance: Provenance = field(init=False)  # the same, as the cache knows it

    def __post_init__(self) -> None:
        facts, hashed, mark = self.original.facts, self.original.key_hash, self.mark
        proofs: tuple[tuple[str, int], ...] = ((hashed, facts.seq),)
        if mark is not None:
            proofs += ((mark.key_hash, mark.facts.seq),)
        digest = f"{facts.digest}+{mark.facts.digest if mark is not None else ''}" if self.wants_mark else facts.digest
        if self.credentials:
            digest += f"~{self.credentials}"
        object.__setattr__(self, "provenance", Provenance(hashed, digest, proofs))  # the dataclass is frozen


@dataclass(frozen=True, slots=True)
class Made:
    """
    A variant that was just made, and the time that it took.

    `is_interim`: faces could not be looked for, so it is the variant for a picture without faces.
    """

    variant: Variant
    timings: Timings
    is_collapsed: bool = False
    is_interim: bool = False


class Variants:
    """Makes variants, each in a single flight."""

    def __init__(
        self,
        cache: Cache,
        originals: Originals,
        batches: Batches,
        *,
        fallback: Fallback,
        refusals: Refusals,
        metrics: Metrics,
        failpoints: Failpoints | None = None,
        refusal_ttl_s: float,
        shared: SharedStore | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._cache = cache
        self._originals = originals
        self._credentials = credentials
        self._batches = batches
        self._fallback = fallback
        self._refusals = refusals
        self._refusal_ttl_s = refusal_ttl_s
        self._metrics = metrics
        self._queue_s = metrics.queue_duration_s.observe
        self._failpoints = failpoints
        self._flights: Flights[Made] = Flights()
        self._shared = shared
        self._lookups: Flights[Variant | None] = Flights()
        self._timed_out: TTLCache[tuple[str, str], bool] = TTLCache(TIMED_OUT_MAX, TIMED_OUT_TTL_S)
        cache.purged.subscribe(self._forget)
        cache.purged_all.subscribe(self._forget_all)
        cache.purged_many.subscribe(self._forget_all)

    async def make(self, sources: Sources, plan: RenderPlan, *, lane: Lane = Lane.VISITOR) -> Made:
        """
        Make the variant of these originals, or join the flight that makes it.

        Raises:
            StaleGeneration: a purge came meanwhile.
            ImageRefused: the picture cannot be rendered. This is remembered for `refusal_ttl_s`.
            Overloaded: no process began the job in time.
        """
        digest = sources.provenance.digest
        self._refusals.raise_if_refused((digest, plan.digest))
        if lane is Lane.VISITOR and sources.original.facts.content_type == GIF:
            lane = Lane.ANIMATION
        name = (sources.original.key_hash, digest, plan.digest)
        made, joined = await self._flights.join(name, lambda: self._make(sources, plan, lane))
        return _joined(made, sources.provenance) if joined else made

    async def find_shared(self, sources: Sources, plan: RenderPlan) -> Variant | None:
        """
        Get the variant of these originals from the shared store into the cache. None if it is not there.

        Raises:
            StaleGeneration: a purge came meanwhile.
        """
        if self._shared is None:
            return None
        source = sources.provenance
        name = (source.key_hash, source.digest, plan.digest)
        look = partial(self._shared.find_variant, source, plan.digest)
        with traces.call("read shared store"):
            variant, _ = await self._lookups.join(name, look)
            traces.note({"is_found": variant is not None})
        if variant is None:
            if not self._cache.epochs.all_hold(source.proofs):
                raise StaleGeneration
            return None
        self._fallback.remember(source.key_hash, plan)
        return variant

    async def close(self) -> None:
        """Cancel flights and batches under way."""
        await self._lookups.close()
        await self._flights.close()
        await self._batches.close()

    @property
    def under_way(self) -> int:
        """Variants being made."""
        return len(self._flights)

    def _forget(self, purged: Purged) -> None:
        """After a purge: new requests do not join the flights that began before it."""
        for flights in (self._flights, self._lookups):
            flights.detach_where(lambda name: isinstance(name, tuple) and name[0] == purged.key_hash)

    def _forget_all(self, _purged: PurgedAll | PurgedMany) -> None:
        """After a purge of everything, or of many keys: as `_forget`, for every key."""
        for flights in (self._flights, self._lookups):
            flights.detach_where(lambda _name: True)

    async def _make(self, sources: Sources, plan: RenderPlan, lane: Lane) -> Made:
        original = sources.original
        faces = await self._find_faces(original, plan, lane) if needs_faces(plan) else ()
        if faces is None:
            return await self._make_without_faces(sources, without_faces(plan), lane)
        name = (sources.provenance.digest, plan.digest)
        temp = None
        try:
            with self._cache.epochs.at_work():
                sources, path, mark = await self._files(sources, plan)
                finished = await self._batches.render(
                    original.key_hash, original.facts.digest, path, plan, mark, lane, faces
                )
                temp = finished.rendered.path
                self._queue_s(finished.queue_s)
                self._metrics.rendered(finished.rendered.content_type, finished.render_s)
                traces.past("queue", ended_ago_s=finished.render_s, duration_s=finished.queue_s)
                traces.past("render", duration_s=finished.render_s)
                if self._failpoints is not None:
                    await self._failpoints.reach(Point.AFTER_RENDER, original.facts.key)
                attached, sources, credentials_s = await self._attach(sources, path, plan, finished.rendered)
                temp = attached.rendered.path
                with traces.span("commit", size_bytes=attached.rendered.size_bytes):
                    variant = self._commit(sources, plan.digest, attached)
                temp = None
        except _LASTING as error:
            self._raise_if_stale(original)
            self._note_refusal(name, error)
            raise
        except (OSError, CacheUnavailable) as exc:
            self._raise_if_stale(original)
            self._cache.housekeeping.make_room(exc)
            raise CacheUnavailable from exc
        finally:
            if temp is not None:
                self._cache.store.discard(temp)
        self._timed_out.pop(name, None)
        self._fallback.remember(original.key_hash, plan)
        if self._failpoints is not None:
            await self._failpoints.reach(Point.AFTER_RENAME, original.facts.key)
        fetch_s = sources.original.fetch_s if sources.original is not original else 0.0
        timings = Timings(fetch_s, queue_s=finished.queue_s, render_s=finished.render_s, credentials_s=credentials_s)
        return Made(variant, timings)

    async def _attach(
        self, sources: Sources, path: str, plan: RenderPlan, rendered: Rendered
    ) -> tuple[Attached, Sources, float]:
        """
        Add Content Credentials, if the originals ask for them. `path` is the original's file.

        If they cannot be had, the variant is known as one without, until they can.
        """
        if self._credentials is None or not sources.credentials:
            return Attached(rendered), sources, 0.0
        if sources.credentials == Mark.MISSING:
            return Attached(rendered, MISSING), sources, 0.0
        began_s = time.monotonic()
        with traces.span("credentials"):
            attached = await self._credentials.attach(sources.original, path, plan, rendered)
        if attached.rendered is not rendered:
            self._cache.store.discard(rendered.path)
        if attached.credentials == MISSING:
            sources = replace(sources, credentials=Mark.MISSING)
        return attached, sources, time.monotonic() - began_s

    async def _find_faces(self, original: Original, plan: RenderPlan, lane: Lane) -> tuple[Face, ...] | None:
        """Return the faces of the original, or None if they could not be looked for."""
        alone = Sources(original)

        async def make(wanted: RenderPlan) -> Variant:
            found = await self.find_shared(alone, wanted)
            return found if found is not None else (await self.make(alone, wanted, lane=lane)).variant

        return await find_faces(self._cache, original.facts.key, alone.provenance, plan, make)

    async def _make_without_faces(self, sources: Sources, plan: RenderPlan, lane: Lane) -> Made:
        """Find or make the variant for a picture without faces. It stands in until faces can be looked for."""
        found = await self._cache.find(sources.provenance, plan.digest)
        made = Made(found.variant, Timings()) if found is not None else await self.make(sources, plan, lane=lane)
        return replace(made, is_interim=True)

    async def _files(self, sources: Sources, plan: RenderPlan) -> tuple[Sources, str, MarkFile | None]:
        """Return the files of the originals. An original that was evicted is fetched again, and so has a new proof."""
        original, path = await self._originals.file(sources.original)
        mark, mark_file = sources.mark, None
        if mark is not None and plan.mark is not None:
            try:
                mark, mark_path = await self._originals.file(mark)
                mark_file = MarkFile(plan.mark.source, mark_path)
            except ImgproxyError as error:
                log.warning("the file of the watermark %s cannot be had: %s", plan.mark.source, error)
                mark = None
        if original is not sources.original or mark is not sources.mark:
            sources = replace(sources, original=original, mark=mark)
        return sources, path, mark_file

    def _commit(self, sources: Sources, name: str, attached: Attached) -> Variant:
        """
        Put the file into the cache.

        Raises:
            StaleGeneration: a purge came meanwhile.
            OSError: the disk refused.
        """
        original, source, rendered = sources.original, sources.provenance, attached.rendered
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
            credentials=attached.credentials,
            link=attached.link,
            actions=attached.actions,
        )
        variant = self._cache.commit_variant(rendered.path, facts, source)
        if variant is None:
            self._metrics.overtaken.labels(point="commit").inc()
            raise StaleGeneration
        if self._shared is not None:
            self._shared.keep_variant(facts, source)
        return variant

    def _note_refusal(self, name: tuple[str, str], error: ImageRefused) -> None:
        """
        Remember why a picture cannot be rendered.

        The first timeout may be the machine's fault, so only the second in a row counts. A crash was tried twice.
        """
        if isinstance(error, RenderTimeout) and name not in self._timed_out:
            self._timed_out[name] = True
        else:
            self._refusals.remember(name, error, self._refusal_ttl_s)

    def _raise_if_stale(self, original: Original) -> None:
        """Start over if a purge or an eviction took the file away under the render: that is no fault of the disk."""
        is_purged = not self._cache.epochs.holds(original.key_hash, original.facts.seq)
        if is_purged or self._cache.store.find_original(original.facts) is None:
            raise StaleGeneration from None


def _joined(made: Made, source: Provenance) -> Made:
    """
    Return what another request has made of the same bytes, for these originals.

    They may have been proved again since that request began, after an order. A purge would have detached its flight.
    """
    variant = made.variant
    if variant.facts.original == source.digest:
        variant = replace(variant, proofs=latest_proofs(variant.proofs, source.proofs))
    return replace(made, variant=variant, is_collapsed=True)
