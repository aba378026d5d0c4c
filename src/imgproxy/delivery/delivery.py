"""
Delivery: the way of a request, from a key and a plan to an answer. Each step is a step of the code.

    deliver   Admission first, if the original is not here: the request is admitted, or refused (error, 503).
              The current original: fresh, stale (it is revalidated behind the answer), revalidated, or fetched.
    manifest  The manifest of a variant is asked for: it is here, or is made (see `delivery.credentials`).
    304       The client's copy is current.
    pass      The request has no plan: the original itself is the answer.
    hit       The variant is in memory, on disk, or in the shared store.
    interim   A WebP answers (hit or miss), and the AVIF is made behind the answer.
    miss      Admission, if it was not asked yet, then the variant is made. If it is refused: a fallback variant, or
              an error.
    begin     The answer begins. If a purge came meanwhile, or an order to prove, the request starts over.
              So does a request of a cluster's node that is fenced by now, if an original is not proved.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from imgproxy.background import Background
from imgproxy.cache.entry import Tier, Variant, VariantFacts, key_hash
from imgproxy.credentials.service import PLAN_CHARS, manifest_plan
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.request import (
    ORIGINAL_PLAN,
    Delivered,
    Outcome,
    Request,
    Timings,
    etag_of,
    hit,
    miss,
    not_modified,
)
from imgproxy.delivery.variants import Made, Sources
from imgproxy.errors import CacheUnavailable, ImgproxyError, NoManifest, Overloaded, PurgedMeanwhile
from imgproxy.failpoints import Failpoints, Point
from imgproxy.params.plan import RenderPlan
from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.admission.policy import Admission
    from imgproxy.cache.cache import Cache
    from imgproxy.cluster.fence import Fence
    from imgproxy.delivery.credentials import Credentials
    from imgproxy.delivery.fallback import Fallback
    from imgproxy.delivery.originals import Original, Originals
    from imgproxy.delivery.variants import Variants
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SVG = "image/svg+xml"
# How often a request starts over that is overtaken. An updated picture may meet one three times: ordered to be proved,
# found to be changed, purged. In a cluster two more: a stopped node wakes up without its lease, and a fetch that the
# request has joined was begun before the picture was found to be changed.
TRIES = 5


class Delivery:
    """Finds variants, and lets the missing ones be made."""

    def __init__(
        self,
        cache: Cache,
        originals: Originals,
        variants: Variants,
        *,
        fallback: Fallback,
        admission: Admission,
        metrics: Metrics,
        failpoints: Failpoints | None = None,
        fence: Fence | None = None,
        has_shared_store: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        """`fence`: that of this node, if it is in a cluster. `credentials`: None where they are stripped."""
        self._cache = cache
        self._fence = fence
        self._has_shared_store = has_shared_store
        self._originals = originals
        self._credentials = credentials
        self._variants = variants
        self._fallback = fallback
        self._admission = admission
        self._metrics = metrics
        self._failpoints = failpoints
        self.background = Background("delivery")

    async def answer(self, request: Request, begin: Callable[[Delivered], Awaitable[Answer]]) -> Answer:
        """
        Deliver, then begin the answer if no purge, and no order to prove, has come meanwhile.

        `begin` must not await before it gives the first byte to the transport. It raises FileNotFoundError if the
        variant's file is gone.

        Raises:
            ImgproxyError: the request cannot be answered.
        """
        fence = self._fence
        came_s = fence.now_s() if fence is not None else 0.0
        with self._cache.epochs.at_work():
            for _ in range(TRIES):
                try:
                    delivered = await self._deliver(request)
                    if self._failpoints is not None:
                        await self._failpoints.reach(Point.BEFORE_RESPONSE, request.key)
                    if self._cache.epochs.all_hold(delivered.proofs):  # nothing came since they were proved
                        if fence is None or fence.may_begin([hashed for hashed, _ in delivered.proofs], came_s):
                            return await begin(delivered)
                        continue  # the lease or a proof has run out meanwhile
                    self._metrics.overtaken.labels(point="response").inc()
                except (StaleGeneration, FileNotFoundError):
                    continue
        # On a full disk a variant may be evicted as soon as it is made. That looks like a purge.
        raise PurgedMeanwhile if self._cache.housekeeping.has_room else CacheUnavailable

    def refuses(self, request: Request) -> bool:
        """Whether this request is refused now, in an overload, because its original would have to be fetched."""
        if request.plan is None or not self._admission.is_overloaded or self._originals.knows(request.key):
            return False
        return self._admission.refuses(key_hash(request.key), request.plan.digest)

    async def _deliver(self, request: Request) -> Delivered:
        """Ask admission before the fetch, if the original has to be fetched. Then find or make the variant."""
        if request.plan is None or self._originals.knows(request.key):
            return await self._find_or_make(request)
        if self._has_shared_store and await self._originals.is_shared(request.key):
            return await self._find_or_make(request)
        async with self._admission.admit(key_hash(request.key), request.plan.digest, is_fetched=False):
            return await self._find_or_make(request, is_admitted=True)

    async def _find_or_make(self, request: Request, *, is_admitted: bool = False) -> Delivered:
        original = await self._originals.current(request.key)
        plan = request.plan
        if request.manifest_of:
            return await self._find_or_make_manifest(original, request.manifest_of)
        if plan is None and original.facts.content_type == SVG:
            plan = RenderPlan()  # an SVG may hold scripts: it is sanitised, never passed on as it is
        sources = await self._sources(original, plan)
        if request.client_has is not None:
            etag = etag_of(sources.provenance.digest, plan.digest if plan is not None else ORIGINAL_PLAN)
            copy = request.client_has(etag)
            if copy is not None:
                return not_modified(copy, sources)
        if plan is None:
            return await self._pass(original)
        found = await self._cache.find(sources.provenance, plan.digest)
        if found is not None:
            return hit(original, found.variant, found.tier)
        if self._has_shared_store:
            shared = await self._find_shared(sources, plan)
            if shared is not None:
                return shared
        interim = request.interim() if request.interim is not None else None
        if interim is not None:
            self.background.begin(self._make_behind, sources, plan)
            delivered = await self._find_or_make(replace(request, plan=interim, interim=None), is_admitted=is_admitted)
            return replace(delivered, is_interim=True)
        return await self._make(sources, plan, is_admitted=is_admitted)

    async def _find_shared(self, sources: Sources, plan: RenderPlan) -> Delivered | None:
        """Deliver a variant that another edge has made, from the shared store. None if it is not there."""
        began_s = time.monotonic()
        variant = await self._variants.find_shared(sources, plan)
        if variant is None:
            return None
        delivered = hit(sources.original, variant, Tier.SHARED)
        return replace(delivered, timings=replace(delivered.timings, store_s=time.monotonic() - began_s))

    async def _sources(self, original: Original, plan: RenderPlan | None) -> Sources:
        """Return the originals of a plan. If the watermark fails, the picture is served without it."""
        credentials = ""
        if plan is not None and self._credentials is not None:
            original, credentials = await self._credentials.find(original, plan)
        if plan is None or plan.mark is None:
            return Sources(original, credentials=credentials)
        try:
            mark = await self._originals.current(plan.mark.source)
        except ImgproxyError as error:
            log.warning("the watermark %s cannot be had: %s", plan.mark.source, error)
            mark = None
        return Sources(original, mark, wants_mark=True, credentials=credentials)

    async def _find_or_make_manifest(self, original: Original, name: str) -> Delivered:
        """
        Deliver the manifest of a variant. A variant that was evicted is made again, if its plan is known.

        Raises NoManifest: there is none, or no variant that it belongs to.
        """
        if self._credentials is None:
            raise NoManifest
        digest = name[:PLAN_CHARS]
        plan = self._credentials.plan_of(digest)
        sources = await self._sources(original, plan or RenderPlan())
        found = await self._cache.find(sources.provenance, manifest_plan(name))
        if found is not None:
            return hit(sources.original, found.variant, found.tier)
        of = await self._cache.find(sources.provenance, digest)
        if of is None and plan is None:
            raise NoManifest
        if of is not None:
            variant = of.variant
        else:
            assert plan is not None
            async with self._admission.admit(original.key_hash, digest, is_fetched=True):
                variant = (await self._variants.make(sources, plan)).variant
        made = await self._credentials.make_manifest(sources.original, variant, name)
        return miss(sources.original, Made(made, Timings()))

    async def _pass(self, original: Original) -> Delivered:
        """Deliver the original's own bytes, from its file."""
        current, path = await self._originals.file(original)
        facts = VariantFacts(
            key=current.facts.key,
            plan=ORIGINAL_PLAN,
            original=current.facts.digest,
            content_type=current.facts.content_type,
            size_bytes=current.facts.size_bytes,
            digest=current.facts.digest,
            width_px=0,
            height_px=0,
        )
        variant = Variant(facts, current.key_hash, ((current.key_hash, current.facts.seq),), path=path)
        return replace(hit(current, variant, Tier.DISK), outcome=Outcome.PASS)

    async def _make_behind(self, sources: Sources, plan: RenderPlan) -> None:
        """Make the variant after an interim variant has answered."""
        try:
            await self._variants.make(sources, plan, lane=Lane.BACKGROUND)
        except (ImgproxyError, StaleGeneration) as error:
            log.info("%s could not be made behind its answer: %s", sources.original.facts.key, error)

    async def _make(self, sources: Sources, plan: RenderPlan, *, is_admitted: bool) -> Delivered:
        """Make the variant. If it is refused, answer with a fallback variant if one is cached."""
        original = sources.original
        try:
            if is_admitted:
                made = await self._variants.make(sources, plan)
            else:
                async with self._admission.admit(original.key_hash, plan.digest, is_fetched=True):
                    made = await self._variants.make(sources, plan)
        except Overloaded:
            found = await self._fallback.find(sources.provenance, plan)
            if found is None:
                raise
            return replace(hit(original, found.variant, found.tier), is_interim=True)
        return miss(original, made)
