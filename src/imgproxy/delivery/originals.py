"""
Originals: one current original per key, fetched once, proved again in time, forgotten when the origin says so.

Every fetch notes the epoch's sequence before it starts. If a purge comes meanwhile, the result is thrown away
(StaleGeneration), and the request starts over.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from cachetools import LRUCache, TTLCache

from imgproxy.admission.fetch_gate import FetchGate
from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.cache.staging import Landings
from imgproxy.delivery.freshness import Freshness, judge
from imgproxy.errors import (
    CacheUnavailable,
    ImgproxyError,
    NotAnImage,
    NotFound,
    OriginDenied,
    OriginStatus,
    OriginUnreachable,
    Overloaded,
    Revoked,
    SourceTooLarge,
)
from imgproxy.failpoints import Failpoints, Point
from imgproxy.flights import Flights
from imgproxy.medialibrary import Validators
from imgproxy.medialibrary.errors import NotFound as LibraryNotFound
from imgproxy.workers.sniff import sniff

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.staging import Landing
    from imgproxy.config.sections import FreshnessSettings, LimitsSettings
    from imgproxy.delivery.origin import Origin, PurgeKeys
    from imgproxy.delivery.origin_health import OriginHealth
    from imgproxy.medialibrary import ServedImage
    from imgproxy.metrics import Metrics

log = logging.getLogger(__name__)

NEGATIVES_MAX = 100_000
# How fast the time of a fetch is learnt. Under load each takes longer, and to fetch more at once would only add to it.
LEARN_SLOWER = 0.05
LEARN_QUICKER = 0.5
# While the origin fails, a key is not asked for again behind an answer before this many seconds have passed.
RETRY_BEHIND_S = 5.0


class StaleGeneration(Exception):
    """A purge of the key came after this work began; its result is thrown away."""


class State(StrEnum):
    """How the original that answers a request came to be current."""

    FRESH = "fresh"
    STALE = "stale"
    REVALIDATED = "revalidated"
    FETCHED = "fetched"


@dataclass(frozen=True, slots=True)
class Original:
    """An original that may be answered with."""

    facts: OriginalFacts
    key_hash: str
    state: State
    fetch_s: float = 0.0
    is_collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """When a fetch began: the epochs' sequence and the Unix time."""

    seq: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Negative:
    """A refusal of the origin, or of the picture itself, remembered for a while. Both times are monotonic."""

    error: ImgproxyError
    since_s: float
    until_s: float

    @property
    def ttl_s(self) -> int:
        """Whole seconds it is still good for."""
        return max(0, int(self.until_s - time.monotonic()))


class Originals:
    """The current original of each key."""

    def __init__(
        self,
        cache: Cache,
        origin: Origin,
        health: OriginHealth,
        *,
        freshness: FreshnessSettings,
        limits: LimitsSettings,
        metrics: Metrics,
        failpoints: Failpoints,
        fetches_max: int = 16,
        fetch_queue_max: int = 64,
        landings: Landings | None = None,
    ) -> None:
        self._cache = cache
        self._landings = landings or Landings(0, 0)
        self._origin = origin
        self._health = health
        self._freshness = freshness
        self._limits = limits
        self._metrics = metrics
        self._fetch_duration_s = metrics.stage_duration_s.labels(stage="fetch")
        self._failpoints = failpoints
        self._fetches: Flights[Original] = Flights()
        # So many fetches at a time keep origin and loop busy; more of them would only slow each other down.
        self.gate = FetchGate(fetches_max, fetch_queue_max)
        self._is_late: Callable[[float], bool] = lambda _waited_s: False
        self._fetch_s = 0.0
        self._negatives: TTLCache[str, Negative] = TTLCache(NEGATIVES_MAX, max(freshness.negative_ttl_s, 0.001))
        self._retry_at_s: TTLCache[str, float] = TTLCache(NEGATIVES_MAX, RETRY_BEHIND_S)
        # Originals answered with beyond their time and not proved since, with the Unix time of their last proof.
        self._unproved: LRUCache[str, float] = LRUCache(NEGATIVES_MAX)
        self._purge: PurgeKeys = cache.purge
        cache.purged.subscribe(lambda purged: self._forget(purged.key_hash))

    def purge_with(self, purge: PurgeKeys) -> None:
        """Have purges that begin here, because the origin refused or changed a picture, done by the purge service."""
        self._purge = purge

    def refuse_late_by(self, is_late: Callable[[float], bool]) -> None:
        """Have fetches given up that waited so many seconds for their turn that no render would follow in time."""
        self._is_late = is_late

    def negative(self, key: str) -> Negative | None:
        """The remembered refusal of this key."""
        return self._negatives.get(key_hash(key))

    def knows(self, key: str) -> bool:
        """Whether a request for this key needs no fetch of its own: it is known, refused, or being fetched."""
        hashed = key_hash(key)
        if (known := self._cache.store.known_facts(hashed)) is not None and self._cache.is_current(hashed, known):
            return True  # as it nearly always is: the rest takes ten times as long
        return hashed in self._negatives or (hashed, False) in self._fetches or self._cache.facts(hashed) is not None

    async def current(self, key: str) -> Original:
        """
        The key's original, fetched or revalidated first where it must be.

        Raises:
            ImgproxyError: what the origin said, or that it could not be asked.
            StaleGeneration: a purge came by.
        """
        hashed = key_hash(key)
        if (negative := self._negatives.get(hashed)) is not None:
            raise negative.error.again()
        facts = self._cache.facts(hashed)
        if facts is None:
            return await self._fetch(hashed, key, None)
        freshness = judge(facts, time.time(), self._freshness, is_proved=self._cache.is_proved(facts))
        if freshness is Freshness.FRESH:
            return Original(facts, hashed, State.FRESH)
        if freshness is Freshness.STALE:
            self._unproved[hashed] = facts.validated_at_s
            self._revalidate_behind(hashed, facts)
            return Original(facts, hashed, State.STALE)
        return await self._fetch(hashed, key, facts)

    async def file(self, original: Original) -> tuple[Original, str]:
        """
        The original's bytes as a file, fetched again where they were evicted or damaged.

        Raises:
            StaleGeneration: a purge came by, or what is fetched now is another picture.
            ImgproxyError: as `current`.
        """
        path = await self._cache.verified_original(original.facts)
        if path is not None:
            return original, path
        fetched = await self._fetch(original.key_hash, original.facts.key, None)
        path = await self._cache.verified_original(fetched.facts)
        if path is None or fetched.facts.digest != original.facts.digest:
            raise StaleGeneration
        return fetched, path

    def landed(self, original: Original) -> Landing | None:
        """Borrow the memory that the original's bytes have landed in; None where they are on disk alone by now."""
        return self._landings.find(original.key_hash, original.facts.digest)

    async def revalidate(self, key: str) -> None:
        """
        Ask the origin now whether the cached original is still right; does nothing for a key that is not cached.

        A picture that changed, is revoked or is gone is purged. One that is being fetched is waited for first, and a
        revalidation under way does not count: they may have asked too early.

        Raises:
            ImgproxyError: the origin could not be asked, or refused.
        """
        hashed = key_hash(key)
        await self._fetches.ended((hashed, False))
        facts = self._cache.facts(hashed)
        if facts is None:
            return
        self._fetches.detach((hashed, True))
        with suppress(StaleGeneration):
            await self._fetch(hashed, key, facts)

    async def close(self) -> None:
        """Cancel fetches under way."""
        await self._fetches.close()

    @property
    def under_way(self) -> int:
        """Fetches and revalidations under way."""
        return len(self._fetches)

    @property
    def fetch_s(self) -> float:
        """Seconds a fetch takes where nothing is in its way: slow ones are believed reluctantly."""
        return self._fetch_s

    @property
    def oldest_unproved_s(self) -> float:
        """
        The takedown bound as it stands: seconds since the oldest proof that an answer still had to rely on.

        It is asked of what was answered, not of the disk: an original that nobody asks for harms nobody. 0 means that
        all were proved in their time, or again since.
        """
        return max(0.0, time.time() - min(self._unproved.values(), default=math.inf))

    # --- the work ----------------------------------------------------------------------------------------------

    def _forget(self, hashed: str) -> None:
        """A purge of this key: whoever comes now starts a fetch of their own, and refusals are asked for again."""
        self._negatives.pop(hashed, None)
        self._retry_at_s.pop(hashed, None)
        self._unproved.pop(hashed, None)
        self._landings.forget(hashed)
        self._fetches.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)

    async def _fetch(self, hashed: str, key: str, known: OriginalFacts | None) -> Original:
        # A conditional and an unconditional fetch are different flights: the first may come back without bytes.
        name = (hashed, known is not None)
        original, joined = await self._fetches.join(name, lambda: self._fetch_now(hashed, key, known))
        return replace(original, is_collapsed=True) if joined else original

    def _revalidate_behind(self, hashed: str, facts: OriginalFacts) -> None:
        if hashed in self._retry_at_s:
            return
        self._retry_at_s[hashed] = time.monotonic()
        self._fetches.launch((hashed, True), lambda: self._revalidate_quietly(hashed, facts))

    async def _revalidate_quietly(self, hashed: str, facts: OriginalFacts) -> Original:
        try:
            return await self._fetch_now(hashed, facts.key, facts)
        except ImgproxyError as error:
            log.info("revalidation of %s: %s", facts.key, error)
            raise

    async def _fetch_now(self, hashed: str, key: str, known: OriginalFacts | None) -> Original:
        """One trip to the origin. `known` makes it conditional, if its bytes are still here."""
        came_s = time.monotonic()
        await self.gate.enter()
        try:
            if known is None and self._is_late(time.monotonic() - came_s):
                raise Overloaded
            return await self._fetch_in_turn(hashed, key, known)
        finally:
            self.gate.leave()

    async def _fetch_in_turn(self, hashed: str, key: str, known: OriginalFacts | None) -> Original:
        with self._cache.epochs.at_work() as began_seq:
            return await self._fetch_at(began_seq, hashed, key, known)

    async def _fetch_at(self, began_seq: int, hashed: str, key: str, known: OriginalFacts | None) -> Original:
        started_s = time.monotonic()
        # What the origin says is true of the moment it was asked, however long the bytes then take.
        asked_at_s = time.time()
        if known is not None and self._cache.store.original_path(known) is None:
            known = None
        temp = self._destination(hashed)
        landing = self._landings.take() if known is None else None
        try:
            await self._failpoints.reach(Point.BEFORE_FETCH, key)
            served = await self._ask(key, temp, known, landing)
            await self._failpoints.reach(Point.AFTER_FETCH, key)
            facts = await self._accept(served, key, temp, known, Asked(began_seq, asked_at_s))
            if landing is not None and served.is_landed:
                self._landings.keep(landing, hashed, facts.digest)  # no purge can have come since it was accepted
        except (NotFound, Revoked, NotAnImage, SourceTooLarge) as error:
            await self._refuse(hashed, key, error, began_seq)
            raise
        except (OSError, CacheUnavailable) as exc:
            # A purge takes the directory away under the download: that is no fault of the disk.
            if not self._cache.epochs.holds(hashed, began_seq):
                raise StaleGeneration from None
            self._cache.make_room(exc)
            raise CacheUnavailable from exc
        finally:
            self._cache.store.discard(temp)
            if landing is not None:
                landing.give_back()
        self._unproved.pop(hashed, None)
        fetch_s = time.monotonic() - started_s
        self._fetch_s += (fetch_s - self._fetch_s) * (LEARN_SLOWER if fetch_s > self._fetch_s else LEARN_QUICKER)
        self._fetch_duration_s.observe(fetch_s)
        return Original(facts, hashed, State.FETCHED if served.is_modified else State.REVALIDATED, fetch_s)

    def _destination(self, hashed: str) -> str:
        """
        Where an image of this key may be written to.

        A disk that takes no new file must not keep us from asking: a 403, a 404 and a 304 need none, and a revoked
        picture would stay up. Only where an image comes is the refusal one, as the client then opens the file itself.
        """
        store = self._cache.store
        try:
            return store.temp_path(hashed)
        except CacheUnavailable as exc:
            log.warning("no file can be made for %s; the origin is asked all the same: %s", hashed, exc.__cause__)
            self._cache.make_room(exc)
            return store.temp_name(hashed)

    async def _ask(self, key: str, temp: str, known: OriginalFacts | None, landing: Landing | None) -> ServedImage:
        validators = Validators(known.etag, known.last_modified) if known is not None else None
        try:
            served = await self._origin.serve_image(
                key, temp, validators=validators, max_bytes=self._limits.source_bytes, landing=landing
            )
        except ImgproxyError as error:
            error = await self._interpret(error)
            self._metrics.origin_answers.labels(answer=error.code).inc()
            raise error from None
        self._health.served()
        self._metrics.origin_answers.labels(answer="image" if served.is_modified else "not_modified").inc()
        self._metrics.origin_bytes.inc(served.size_bytes if served.is_modified else 0)
        return served

    async def _interpret(self, error: ImgproxyError) -> ImgproxyError:
        """Tell a refusal of this one key from a refusal of everything, and a missing image from a missing server."""
        if isinstance(error, LibraryNotFound) and not error.is_api_answer:
            return OriginStatus(404)
        if isinstance(error, Revoked) and await self._health.is_refusing_everything():
            return OriginDenied()
        if isinstance(error, OriginDenied):
            self._health.denied()
        elif isinstance(error, OriginUnreachable):
            self._health.failed()
        elif isinstance(error, NotFound):
            self._health.served()
        return error

    async def _accept(
        self, served: ServedImage, key: str, temp: str, known: OriginalFacts | None, asked: Asked
    ) -> OriginalFacts:
        """Turn the origin's answer into facts and keep them, or throw it away where a purge overtook it."""
        journal_id = self._cache.epochs.journal_id
        if not served.is_modified:
            assert known is not None, "only a conditional request is answered by 304"
            facts = replace(known, validated_at_s=asked.at_s, seq=asked.seq, journal_id=journal_id)
            still = self._cache.store.facts(key_hash(key))
            if still is None or still.digest != known.digest or not self._cache.commit_facts(facts):
                self._metrics.overtaken.labels(point="revalidation").inc()
                raise StaleGeneration
            return facts
        kind = sniff(served.head)
        before = self._cache.facts(key_hash(key))
        if kind is None:
            if before is not None and self._cache.is_proved(before):
                # A log-in or maintenance page with status 200 is no word about the picture: keep it, within its bound.
                log.error("the origin answered 200 for %s with bytes that are no image; the cached ones stay", key)
                raise OriginStatus(200)
            raise NotAnImage
        assert served.digest is not None, "a modified image has a digest"
        facts = OriginalFacts(
            key=key,
            digest=served.digest,
            size_bytes=served.size_bytes,
            content_type=str(kind),
            etag=served.etag,
            last_modified=served.last_modified,
            journal_id=journal_id,
            seq=asked.seq,
            fetched_at_s=asked.at_s,
            validated_at_s=asked.at_s,
        )
        if before is not None and before.digest != facts.digest:
            # Other bytes under the same key, and no event told us: purge what was made from the old ones.
            log.info("the original of %s changed without an event; its variants are purged", key)
            await self._purge([key], reason="changed")
        if not self._cache.commit_original(temp, facts):
            self._metrics.overtaken.labels(point="fetch").inc()
            raise StaleGeneration
        return facts

    async def _refuse(self, hashed: str, key: str, error: ImgproxyError, began_seq: int) -> None:
        """The origin says this picture is not to be had: purge what there is of it, and remember the refusal."""
        if not self._cache.epochs.holds(hashed, began_seq):
            raise StaleGeneration from None
        if self._cache.store.facts(hashed) is not None:
            began_seq = (await self._purge([key], reason=error.code)).seq
        if self._cache.epochs.holds(hashed, began_seq):
            now_s = time.monotonic()
            self._negatives[hashed] = Negative(error.again(), now_s, now_s + self._freshness.negative_ttl_s)
