"""
Fetching: one request to the origin, and what its answer means for the cache.

A fetch notes the number of the latest purge before it asks. If a purge of its key comes meanwhile, the result is thrown
away (StaleGeneration), and the request starts over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.delivery.asked import Asked, Fetched, StaleGeneration
from imgproxy.delivery.confirming import is_confirmed
from imgproxy.errors import CacheUnavailable, ImgproxyError, NotAnImage, NotFound, OriginStatus, Revoked, SourceTooLarge
from imgproxy.failpoints import Failpoints, Point
from imgproxy.medialibrary.models import Validators
from imgproxy.medialibrary.moments import is_proof
from imgproxy.telemetry import traces
from imgproxy.workers.sniff import sniff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from imgproxy.admission.policy import Admission
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge_event import Softened
    from imgproxy.cluster.fence import Fence
    from imgproxy.cluster.store.shared import SharedStore
    from imgproxy.delivery.asked import Origin, PurgeKeys
    from imgproxy.delivery.origin_health import OriginHealth
    from imgproxy.delivery.refusals import Refusals
    from imgproxy.delivery.share import Share
    from imgproxy.medialibrary.models import ServedImage
    from imgproxy.purge.known_originals import KnownOriginal
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Fetching:
    """Fetches and revalidates originals."""

    def __init__(
        self,
        cache: Cache,
        origin: Origin,
        health: OriginHealth,
        refusals: Refusals,
        *,
        purge: PurgeKeys,
        admission: Admission,
        source_max_bytes: int,
        negative_ttl_s: float,
        metrics: Metrics,
        failpoints: Failpoints | None = None,
        fetches_max: int = 16,
        shared: SharedStore | None = None,
        now: Callable[[], float] = time.time,
        fence: Fence | None = None,
        turns: Share | None = None,
        on_proved: Callable[[OriginalFacts], None] | None = None,
        look: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """
        Let `fetches_max` fetches run at a time; `admission` says how many more may wait. `now`: Unix time.

        In a cluster `fence` is told of proofs, `turns` replaces `fetches_max`. `on_proved` gets what the origin proved.
        `look` says whether a file has Content Credentials; None where nobody asks.
        """
        self._turns = turns or asyncio.Semaphore(fetches_max)
        self._fence = fence
        self._on_proved = on_proved
        self._look = look
        self._queued = 0
        self._cache = cache
        self._origin = origin
        self._health = health
        self._refusals = refusals
        self._purge = purge
        self._admission = admission
        self._source_max_bytes = source_max_bytes
        self._negative_ttl_s = negative_ttl_s
        self._metrics = metrics
        self._fetch_duration_s = metrics.fetch_duration_s
        self._failpoints = failpoints
        self._shared = shared
        self._now = now
        self._under_way: set[Asked] = set()
        cache.softened.subscribe(self._soften)

    async def fetch(self, hashed: str, key: str, known: OriginalFacts | None, *, needs_file: bool = True) -> Fetched:
        """
        Ask the origin once. With `known` the request is conditional, if the bytes are still here.

        Without `needs_file` it is conditional in any case: the shared store may have the bytes that are not here.

        Raises:
            ImgproxyError: the origin refused, or could not be asked. A refusal is remembered.
            Overloaded: too many fetches wait already.
            StaleGeneration: a purge came meanwhile.
        """
        if self._turns.locked():
            self._admission.admit_fetch(waiting=self._queued)
        self._queued += 1
        try:
            await self._turns.acquire()
        finally:
            self._queued -= 1
        try:
            return await self._fetch(hashed, key, known, needs_file=needs_file)
        finally:
            self._turns.release()

    async def confirm(self, hashed: str, key: str, known: KnownOriginal) -> bool:
        """
        Ask the origin once whether a key still has these bytes. If it is cached with them, it is proved then.

        Unlike `fetch` it purges nothing, remembers no refusal, and is not refused when many fetches wait.

        Raises:
            ImgproxyError: the origin refused, or could not be asked.
            StaleGeneration: a purge came meanwhile, or an order to prove the key.
        """
        async with self._turns:
            temp = self._destination(hashed)
            with self._ask_now(hashed) as asked:
                try:
                    served = await self._ask(key, temp, Validators(known.etag, known.last_modified))
                    return is_confirmed(self._cache, served, temp, known, asked)
                except OSError as exc:
                    raise CacheUnavailable from exc
                finally:
                    self._cache.store.discard(temp)

    @contextmanager
    def _ask_now(self, hashed: str) -> Iterator[Asked]:
        """Note that the origin is asked now, while the block runs."""
        with self._cache.epochs.at_work() as began_seq:
            # The answer proves what was true when the origin was asked, not when the last byte came.
            now_s = self._now()
            began_s = self._fence.now_s() if self._fence is not None else 0.0
            asked = Asked(hashed, self._cache.epochs.journal_id, began_seq, now_s, now_s, began_s)
            self._under_way.add(asked)
            try:
                yield asked
            finally:
                self._under_way.discard(asked)

    async def _fetch(self, hashed: str, key: str, known: OriginalFacts | None, *, needs_file: bool) -> Fetched:
        temp, is_kept = self._destination(hashed), False
        started_s = time.monotonic()
        with self._ask_now(hashed) as asked:
            asked.needs_file = needs_file
            is_lost = known is not None and needs_file and self._cache.store.find_original(known) is None
            if known is not None and (is_lost or self._needs_bytes(known)):
                known = None
            try:
                served = await self._ask(key, temp, _validators_of(known))
                facts = await self._accept(served, key, temp, known, asked)
                is_kept = served.is_modified
            except (NotFound, Revoked, NotAnImage, SourceTooLarge) as error:
                await self._refuse(hashed, key, error, asked, is_known=known is not None)
                raise
            except (OSError, CacheUnavailable) as exc:
                # A purge removes the directory during the download. That is no fault of the disk.
                if not self._cache.epochs.holds(hashed, asked.seq):
                    raise StaleGeneration from None
                self._cache.housekeeping.make_room(exc)
                raise CacheUnavailable from exc
            finally:
                if not is_kept:
                    self._cache.store.discard(temp)
        if self._fence is not None:
            self._fence.proved(hashed, asked.began_s)
        if self._on_proved is not None:
            self._on_proved(facts)
        fetch_s = time.monotonic() - started_s
        self._fetch_duration_s.observe(fetch_s)
        self._admission.fetch_ended(fetch_s)
        return Fetched(facts, served.is_modified, fetch_s)

    def _soften(self, softened: Softened) -> None:
        """Mark fetches under way as stale: they asked the origin before this soft purge."""
        for asked in self._under_way:
            if asked.key_hash == softened.key_hash:
                asked.is_softened = True
                asked.validated_at_s = min(asked.validated_at_s, softened.stale_at_s)

    def _destination(self, hashed: str) -> str:
        """
        Return the path of a new temporary file for an image of this key.

        The origin is asked even if the disk takes no new file: a 403, a 404 and a 304 need no file, and a revoked
        picture must not stay online. If an image comes, the client fails when it opens the file.
        """
        store = self._cache.store
        try:
            return store.temp_path(hashed)
        except OSError as exc:
            log.warning("no file can be made for %s; the origin is asked all the same: %s", hashed, exc)
            self._cache.housekeeping.make_room(exc)
            return store.temp_name(hashed)

    def _needs_bytes(self, known: OriginalFacts) -> bool:
        """
        Whether a 304 would not be enough, because the entity tag is a weak one, and other bytes may have it.

        So it is if the key was ordered to be proved. A fenced node may have missed such an order.
        """
        is_ordered = self._cache.is_counted(known) and not self._cache.is_proved(known)
        is_fenced = self._fence is not None and not self._fence.is_open()
        return (is_ordered or is_fenced) and known.etag is not None and known.etag.startswith("W/")

    async def _ask(self, key: str, temp: str, validators: Validators | None) -> ServedImage:
        if self._failpoints is not None:
            await self._failpoints.reach(Point.BEFORE_FETCH, key)
        try:
            with traces.call("fetch", key=key, is_conditional=validators is not None):
                served = await self._origin.serve_image(
                    key, temp, validators=validators, max_bytes=self._source_max_bytes
                )
                traces.note({"is_modified": served.is_modified, "size_bytes": served.size_bytes})
        except ImgproxyError as error:
            error = await self._health.meaning(error)
            self._metrics.origin_answers.labels(answer=error.code).inc()
            raise error from None
        self._health.served()
        self._metrics.origin_answers.labels(answer="image" if served.is_modified else "not_modified").inc()
        self._metrics.origin_bytes.inc(served.size_bytes if served.is_modified else 0)
        if self._failpoints is not None:
            await self._failpoints.reach(Point.AFTER_FETCH, key)
        return served

    async def _accept(
        self, served: ServedImage, key: str, temp: str, known: OriginalFacts | None, asked: Asked
    ) -> OriginalFacts:
        """Make facts of the origin's answer, and commit them if no purge came meanwhile."""
        if not served.is_modified:
            assert known is not None, "only a conditional request is answered by 304"
            return self._accept_not_modified(known, asked)
        kind = sniff(served.head)
        before = self._cache.facts(key_hash(key))
        if kind is None:
            if before is not None and self._cache.is_counted(before):
                # A log-in or maintenance page with status 200 says nothing about the picture.
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
            journal_id=asked.journal_id,
            seq=asked.seq,
            fetched_at_s=asked.at_s,
            validated_at_s=asked.validated_at_s,
            has_credentials=await self._look(temp) if self._look is not None else None,
        )
        if before is not None and before.digest != facts.digest:
            log.info("the original of %s changed without an event; its variants are purged", key)
            await self._purge([key], reason="changed")
        if not self._cache.commit_original(temp, facts):
            self._metrics.overtaken.labels(point="fetch").inc()
            raise StaleGeneration
        if self._shared is not None:
            self._shared.keep_original(facts)
        return facts

    def _accept_not_modified(self, known: OriginalFacts, asked: Asked) -> OriginalFacts:
        facts = replace(known, validated_at_s=asked.validated_at_s, seq=asked.seq, journal_id=asked.journal_id)
        still = self._cache.store.facts(key_hash(known.key))
        is_replaced = asked.needs_file if still is None else still.digest != known.digest
        if is_replaced or not self._cache.commit_facts(facts):
            self._metrics.overtaken.labels(point="revalidation").inc()
            raise StaleGeneration
        return facts

    async def _refuse(self, hashed: str, key: str, error: ImgproxyError, asked: Asked, *, is_known: bool) -> None:
        """
        Deal with a refusal of the origin: purge the key, and remember the refusal unless a soft purge came.

        `is_known`: this cache or the shared store knows the picture.
        """
        began_seq = asked.seq
        if not self._cache.epochs.is_proved(hashed, began_seq):
            raise StaleGeneration from None  # the origin was asked before a purge, or an order to prove the key
        if is_known or self._cache.store.facts(hashed) is not None:
            began_seq = (await self._purge([key], reason=error.code)).seq
        if self._cache.epochs.is_proved(hashed, began_seq) and not asked.is_softened:
            self._refusals.remember(hashed, error, self._negative_ttl_s)


def _validators_of(known: OriginalFacts | None) -> Validators | None:
    """Return the validators of an original for a conditional request; None for an unconditional one."""
    if known is None:
        return None
    return Validators(known.etag, known.last_modified if is_proof(known.last_modified, known.fetched_at_s) else None)
