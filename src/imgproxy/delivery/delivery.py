"""
Delivery: the way of a request from a key and a plan to an answer. Each step bears the name it has in the metrics.

    negative?  not_modified?  hit (memory, disk)  miss: fetch -> render -> commit  ->  may it begin?  ->  answer

What a purge overtakes on the way is thrown away, and the request starts over, once, against the origin.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from imgproxy.background import Background
from imgproxy.cache.entry import Tier, Variant, VariantFacts, key_hash
from imgproxy.delivery.commits import Made, Sources
from imgproxy.delivery.originals import Original, Originals, StaleGeneration, State
from imgproxy.errors import CacheUnavailable, ImgproxyError, Overloaded, PurgedMeanwhile
from imgproxy.failpoints import Failpoints, Point
from imgproxy.params.plan import RenderPlan
from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.cache.cache import Cache
    from imgproxy.delivery.variants import Renders
    from imgproxy.metrics import Metrics

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
# Given a variant's entity tag, returns the tag of the client's copy if that copy is current.
ClientHas: TypeAlias = "Callable[[str], str | None]"

# The name of the original itself among its variants: 32 hex digits like a plan's digest, and no plan's.
ORIGINAL_PLAN = "0" * 32
SVG = "image/svg+xml"


class Outcome(StrEnum):
    """How a request was answered, in metrics, logs and headers."""

    HIT = "hit"
    STALE = "stale"
    REVALIDATED = "revalidated"
    MISS = "miss"
    PASS = "pass"  # noqa: S105 the original passed on, not a password
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each stage; 0 for one that this request did not go through."""

    fetch_s: float = 0.0
    queue_s: float = 0.0
    render_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """An answer about to begin: a variant, or the knowledge that the client has it already (`variant` None)."""

    etag: str
    original: Original
    variant: Variant | None
    outcome: Outcome
    tier: Tier
    is_collapsed: bool = False
    also: tuple[tuple[str, int], ...] = ()  # without a variant: the proof of the watermark (key hash, seq)
    is_interim: bool = False  # the next best format, while the one asked for is being made
    timings: Timings = Timings()


def etag_of(original_digest: str, plan_digest: str, shared_decode: str = "") -> str:
    """
    The strong entity tag of a variant: of its original's bytes and its plan (whose digest counts encoder versions).

    It is known before the variant exists, so a 304 costs no pixel even where the variant was evicted (RFC 9110 8.8.3).
    But for its end: made from a decode that it shared, a variant has other bytes than made alone, and a tag that says
    so (RFC 9110 8.8.1). A client's copy with either is current, see `edge.headers.current_tag`.
    """
    name = hashlib.blake2b(f"{original_digest}/{plan_digest}".encode(), digest_size=12).hexdigest()
    return f'"{name}-{shared_decode}"' if shared_decode else f'"{name}"'


def _tag(facts: VariantFacts) -> str:
    return etag_of(facts.original, facts.plan, facts.shared_decode)


class Delivery:
    """Gets variants from wherever they are, and makes those that are nowhere."""

    def __init__(
        self, cache: Cache, originals: Originals, renders: Renders, metrics: Metrics, failpoints: Failpoints
    ) -> None:
        self._cache = cache
        self._originals = originals
        self._renders = renders
        self._metrics = metrics
        self._failpoints = failpoints
        self.background = Background("delivery")

    async def answer(
        self,
        key: str,
        plan: RenderPlan | None,
        begin: Callable[[Delivered], Awaitable[Answer]],
        *,
        client_has: ClientHas | None = None,
        interim: Callable[[], RenderPlan | None] | None = None,
    ) -> Answer:
        """
        Get the variant and begin the answer with it; `begin` is called only if no purge has overtaken it.

        Args:
            key: the picture.
            plan: what to make of it; None for the original itself.
            begin: starts the answer; nothing may be awaited in it before the first byte is written. It raises
                FileNotFoundError where the variant's file is gone.
            client_has: returns the tag of the client's copy if that copy is current; None for a client that names none.
            interim: gives the plan to answer with at once where this one is missing and slow to make; this one is
                then made behind the answer.

        Raises:
            ImgproxyError: what became of the request.
        """
        with self._cache.epochs.at_work():
            return await self._answer(key, plan, begin, client_has, interim)

    async def _answer(
        self,
        key: str,
        plan: RenderPlan | None,
        begin: Callable[[Delivered], Awaitable[Answer]],
        client_has: ClientHas | None,
        interim: Callable[[], RenderPlan | None] | None,
    ) -> Answer:
        for _ in range(2):
            try:
                delivered = await self.get(key, plan, client_has, interim)
            except StaleGeneration:
                continue
            await self._failpoints.reach(Point.BEFORE_RESPONSE, key)
            if self.may_begin(delivered):
                try:
                    return await begin(delivered)
                except FileNotFoundError:
                    continue  # evicted since it was found: make it again
            self._metrics.overtaken.labels(point="response").inc()
        # Where the disk has no room a picture is evicted as it comes, and is as gone as after a purge.
        raise PurgedMeanwhile if self._cache.housekeeping.has_room else CacheUnavailable

    @property
    def is_overloaded(self) -> bool:
        """Whether pictures that have to be fetched first may be refused."""
        return self._renders.is_overloaded

    def turns_away(self, key: str) -> bool:
        """Whether a request for a rendering of this key is refused before anything is done for it."""
        return not self._originals.knows(key) and self._renders.sheds()

    def retry_after_s(self) -> int:
        """What those who are refused are told."""
        return self._renders.retry_after_s()

    def may_begin(self, delivered: Delivered) -> bool:
        """Whether no purge has come since the originals behind this answer were proved."""
        if delivered.variant is not None:
            return self._cache.is_answerable(delivered.variant)
        proofs = ((delivered.original.key_hash, delivered.original.facts.seq), *delivered.also)
        return all(self._cache.epochs.holds(hashed, seq) for hashed, seq in proofs)

    async def get(
        self,
        key: str,
        plan: RenderPlan | None,
        client_has: ClientHas | None,
        interim: Callable[[], RenderPlan | None] | None,
    ) -> Delivered:
        """One try at `answer`, without the check at its end. Raises StaleGeneration where a purge came by."""
        if plan is None or self._originals.knows(key):
            return await self._get(key, plan, client_has, interim)
        with self._renders.expecting(key_hash(key)):
            return await self._get(key, plan, client_has, interim)

    async def _get(
        self,
        key: str,
        plan: RenderPlan | None,
        client_has: ClientHas | None,
        interim: Callable[[], RenderPlan | None] | None,
    ) -> Delivered:
        original = await self._originals.current(key)
        if plan is None and original.facts.content_type == SVG:
            plan = RenderPlan()  # an SVG can carry scripts: it is never passed on as it is
        sources = await self._with_mark(original, plan)
        source = sources.provenance
        plan_digest = plan.digest if plan is not None else ORIGINAL_PLAN
        if client_has is not None:
            known_tag = client_has(etag_of(source.digest, plan_digest))
            if known_tag is not None:
                return replace(self._delivered(known_tag, original, None, Tier.MEMORY), also=source.also)
        if plan is None:
            return await self._pass(original)
        found = await self._cache.find(source, plan_digest)
        if found is not None:
            return self._delivered(_tag(found.variant.facts), original, found.variant, found.tier)
        quicker = interim() if interim is not None else None
        if quicker is not None:
            self.background.begin(self._make_behind, sources, plan)
            return replace(await self.get(key, quicker, client_has, None), is_interim=True)
        return await self._miss(sources, plan)

    async def _with_mark(self, original: Original, plan: RenderPlan | None) -> Sources:
        """The originals of a plan; a watermark that cannot be had does not keep the picture back."""
        if plan is None or plan.mark is None:
            return Sources(original)
        try:
            mark = await self._originals.current(plan.mark.source)
        except ImgproxyError as error:
            log.warning("the watermark %s cannot be had: %s", plan.mark.source, error)
            return Sources(original, None, wants_mark=True)
        return Sources(original, mark, wants_mark=True)

    async def _make_behind(self, sources: Sources, plan: RenderPlan) -> None:
        """Make what an interim answer stands in for; who asks meanwhile is answered with the interim, too."""
        try:
            await self._renders.make(sources, plan, lane=Lane.BACKGROUND)
        except (ImgproxyError, StaleGeneration) as error:
            log.info("making %s behind its answer: %s", sources.original.facts.key, error)

    async def _miss(self, sources: Sources, plan: RenderPlan) -> Delivered:
        """Make the variant, or wait for whoever is making it."""
        original = sources.original
        try:
            made = await self._renders.make(sources, plan)
        except Overloaded:
            stand_in = await self._renders.stand_in(sources, plan)
            if stand_in is None:
                raise
            return replace(self._made(original, stand_in), is_interim=True)
        return self._made(original, made)

    def _made(self, original: Original, made: Made) -> Delivered:
        tier = Tier.ORIGIN if made.is_new else Tier.DISK
        return Delivered(
            # The watermark's file may have been lost meanwhile: the tag must say what the picture was made from.
            etag=_tag(made.variant.facts),
            original=original,
            variant=made.variant,
            outcome=_outcome(original.state, tier),
            tier=tier,
            is_collapsed=original.is_collapsed or made.is_collapsed,
            timings=Timings(original.fetch_s + made.fetch_s, made.queue_s, made.render_s),
        )

    async def _pass(self, original: Original) -> Delivered:
        """The original's own bytes, from its file."""
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
        variant = Variant(facts, current.key_hash, current.facts.seq, path=path)
        return replace(self._delivered(_tag(facts), current, variant, Tier.DISK), outcome=Outcome.PASS)

    def _delivered(self, etag: str, original: Original, variant: Variant | None, tier: Tier) -> Delivered:
        return Delivered(
            etag=etag,
            original=original,
            variant=variant,
            outcome=_outcome(original.state, tier),
            tier=tier,
            is_collapsed=original.is_collapsed,
            timings=Timings(fetch_s=original.fetch_s),
        )


def _outcome(state: State, tier: Tier) -> Outcome:
    """The word for an answer: where the variant came from decides, then how its original was found to be current."""
    if tier is Tier.ORIGIN or state is State.FETCHED:
        return Outcome.MISS
    if state is State.STALE:
        return Outcome.STALE
    return Outcome.REVALIDATED if state is State.REVALIDATED else Outcome.HIT
