"""
Originals: the current original of each key. It is fetched once, and revalidated in time.

    fresh     proved within `revalidate_after_s`: answer with it
    stale     older: answer with it, and revalidate it behind the answer
    expired   older by more than `stale_if_error_s`, or not proved: revalidate it before the answer
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache, TTLCache

from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.errors import CannotProve, ImgproxyError, NotFound, OriginError, Revoked
from imgproxy.flights import Flights

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge_event import Distrusted, Purged, PurgedAll, PurgedMany, Softened, Unproved
    from imgproxy.cluster.fence import Fence
    from imgproxy.cluster.store.shared import SharedStore
    from imgproxy.config.sections import FreshnessSettings
    from imgproxy.delivery.asked import Fetched
    from imgproxy.delivery.fetching import Fetching
    from imgproxy.delivery.refusals import Refusal, Refusals
    from imgproxy.purge.known_originals import KnownOriginal

log = logging.getLogger(__name__)

KEYS_MAX = 100_000
# A key is revalidated behind answers at most once in this time, also while the origin fails.
RETRY_BEHIND_S = 5.0
# A purge or an order to prove that comes while the origin is asked makes its answer too old. It is asked so often.
CONFIRM_TRIES = 3
# Facts from the shared store are kept until the origin is asked with their validators: at once, or after a wait.
FOUND_MAX = 10_000
FOUND_S = 10.0
# In the name of a flight, for one that brings the bytes.
_BYTES = "bytes"
# A proof that is further in the future means that the clock was set back. Clocks with NTP differ by less.
CLOCK_SKEW_S = 60.0
# A fenced request waits for a flight under way, then for the next one.
PROOFS_WAITED_FOR = 2
# After an origin that could not prove a picture, requests for it are refused for this long, and need not wait for it.
UNPROVABLE_S = 2.0


class State(StrEnum):
    """Why an original counts as current."""

    FRESH = "fresh"
    STALE = "stale"
    REVALIDATED = "revalidated"
    FETCHED = "fetched"


@dataclass(frozen=True, slots=True)
class Original:
    """An original that a request may be answered with."""

    facts: OriginalFacts
    key_hash: str
    state: State
    fetch_s: float = 0.0
    is_collapsed: bool = False


class Originals:
    """The current original of each key."""

    def __init__(
        self,
        cache: Cache,
        fetching: Fetching,
        refusals: Refusals,
        *,
        freshness: FreshnessSettings,
        retry_behind_s: float = RETRY_BEHIND_S,
        shared: SharedStore | None = None,
        now: Callable[[], float] = time.time,
        fence: Fence | None = None,
    ) -> None:
        """
        Set up the originals.

        `now` is the wall clock, Unix time. `shared` is the shared store, if there is one; `fence` is that of this node,
        if it is in a cluster.
        """
        self._cache = cache
        self._fetching = fetching
        self._refusals = refusals
        self._freshness = freshness
        self._shared = shared
        self._now = now
        self._fence = fence
        self._unprovable: TTLCache[str, bool] = TTLCache(KEYS_MAX, UNPROVABLE_S)
        self._flights: Flights[Fetched] = Flights()
        self._confirmations: Flights[bool] = Flights()
        self._downloads: Flights[bool] = Flights()  # of originals, from the shared store
        self._lookups: Flights[OriginalFacts | None] = Flights()  # of facts there
        # What the lookups have found, for the question to the origin that follows.
        self._found: TTLCache[str, OriginalFacts | None] = TTLCache(FOUND_MAX, FOUND_S)
        self._retry_at_s: TTLCache[str, float] = TTLCache(KEYS_MAX, retry_behind_s)
        # Originals that answered after their time and were not proved since, with the Unix time of their last proof.
        self._unproved: LRUCache[str, float] = LRUCache(KEYS_MAX)
        cache.purged.subscribe(self._forget)
        cache.softened.subscribe(self._soften)
        cache.unproved.subscribe(self._forget)
        cache.distrusted.subscribe(self._forget_flights)
        cache.purged_all.subscribe(self._forget_all)
        cache.purged_many.subscribe(self._forget_all)

    def refusal(self, key: str) -> Refusal | None:
        """Return the origin's refusal of this key, or None."""
        return self._refusals.get(key_hash(key))

    def knows(self, key: str) -> bool:
        """Whether a request for this key starts no fetch: the key is cached, refused, or being fetched."""
        hashed = key_hash(key)
        if self._cache.facts(hashed) is not None:
            return True
        return hashed in self._refusals or (hashed, False) in self._flights

    async def is_shared(self, key: str) -> bool:
        """Whether the shared store has facts of this unknown original: a conditional request is enough then."""
        return self._shared is not None and await self._find_facts(self._shared, key_hash(key)) is not None

    async def current(self, key: str) -> Original:
        """
        Return the key's original. Fetch it first if it is missing; revalidate it first if it has expired.

        Raises:
            ImgproxyError: what the origin said, or that it could not be asked.
            StaleGeneration: a purge came meanwhile.
        """
        hashed = key_hash(key)
        if self._fence is not None and not self._fence.is_open():
            return await self._current_behind_fence(hashed, key, self._fence)
        self._refusals.raise_if_refused(hashed)
        facts = self._cache.facts(hashed)
        if facts is None:
            return await self._fetch(hashed, key, None)
        state = self._judge(facts)
        if state is None and (hashed, facts.digest) in self._confirmations:
            await self._confirmations.ended((hashed, facts.digest))
            facts = self._cache.facts(hashed)
            state = self._judge(facts) if facts is not None else None
        if facts is None or state is None:
            return await self._fetch(hashed, key, facts)
        if state is State.STALE:
            self._unproved[hashed] = facts.validated_at_s
            self._revalidate_behind(hashed, facts)
        return Original(facts, hashed, state)

    async def _current_behind_fence(self, hashed: str, key: str, fence: Fence) -> Original:
        """
        Return the original of a fenced node: one that the origin has proved in time.

        Requests share a proof that begins after all of them came, so one wait for a flight may not be enough. Nor is it
        if all bytes had to be fetched, which may take longer than a proof counts.

        Raises:
            CannotProve: the origin cannot be asked, or is too slow. What is cached may be revoked.
            ImgproxyError, StaleGeneration: as `current`.
        """
        came_s = fence.now_s()
        found: Original | None = None
        for waits in range(PROOFS_WAITED_FOR + 1):
            self._refusals.raise_if_refused(hashed)
            facts = self._cache.facts(hashed)
            if facts is not None and self._cache.is_proved(facts) and fence.is_proved(hashed, came_s):
                return found if found is not None and found.facts is facts else Original(facts, hashed, State.FRESH)
            if waits == PROOFS_WAITED_FOR:
                self._unprovable[hashed] = True
            if facts is not None and hashed in self._unprovable:
                break
            try:
                found = await self._fetch(hashed, key, facts)
            except (NotFound, Revoked):
                raise
            except OriginError as error:
                if facts is None:
                    raise
                self._unprovable[hashed] = True
                raise CannotProve from error
        raise CannotProve

    async def prove(self, hashed: str) -> None:
        """Ask the origin about a cached key, which is named by its hash. A failure is for the next request to see."""
        facts = self._cache.facts(hashed)
        if facts is not None:
            with suppress(ImgproxyError, StaleGeneration):
                await self._fetch(hashed, facts.key, facts)

    async def file(self, original: Original) -> tuple[Original, str]:
        """
        Return the original and the path of its bytes. Get them again if they were evicted or are damaged.

        The shared store is asked first, then the origin.

        Raises:
            StaleGeneration: a purge came meanwhile, or the origin now has other bytes.
            ImgproxyError: as `current`.
        """
        path = await self._cache.verified_original(original.facts)
        if path is None and await self._download(original.facts, original.key_hash):
            path = await self._cache.verified_original(original.facts)
        if path is not None:
            return original, path
        fetched = await self._fetch(original.key_hash, original.facts.key, None, needs_file=True)
        path = await self._cache.verified_original(fetched.facts)
        if path is None or fetched.facts.digest != original.facts.digest:
            raise StaleGeneration
        return fetched, path

    async def revalidate(self, key: str) -> None:
        """
        Ask the origin now whether the cached original is current. Do nothing if the key is not cached.

        A picture that was changed, revoked or deleted is purged. Wait for a fetch under way first. Do not join a
        revalidation under way: it may have asked the origin too early.

        Raises:
            ImgproxyError: the origin could not be asked, or refused.
        """
        hashed = key_hash(key)
        await self._flights.ended((hashed, False))
        facts = self._cache.facts(hashed)
        if facts is None:
            return
        self._flights.detach((hashed, True))
        with suppress(StaleGeneration):
            await self._fetch(hashed, key, facts)

    async def confirm(self, key: str, known: KnownOriginal) -> bool:
        """
        Ask the origin whether a key still has these bytes. If it is cached with them, it is proved then.

        Call it after an order to prove the key: a proof that came since is as good as an answer. Nothing is purged.

        Raises:
            ImgproxyError: the origin refused, or could not be asked.
        """
        hashed = key_hash(key)
        for _ in range(CONFIRM_TRIES):
            facts = self._cache.facts(hashed)
            if facts is not None and (facts.digest != known.digest or self._cache.is_proved(facts)):
                return facts.digest == known.digest
            with suppress(StaleGeneration):
                ask = partial(self._fetching.confirm, hashed, key, known)
                return (await self._confirmations.join((hashed, known.digest), ask))[0]
        return False

    async def close(self) -> None:
        """Cancel fetches under way."""
        await self._lookups.close()
        await self._downloads.close()
        await self._flights.close()
        await self._confirmations.close()

    @property
    def under_way(self) -> int:
        """Fetches and revalidations under way."""
        return len(self._flights) + len(self._confirmations)

    @property
    def oldest_unproved_s(self) -> float:
        """
        Seconds since the oldest proof of a stale original that answered; 0 if all were proved again since.

        A takedown without a purge may have been missed for this long. Originals that no request has asked for since
        they became stale are not counted.
        """
        return max(0.0, self._now() - min(self._unproved.values(), default=math.inf))

    # --- the work ---

    def _judge(self, facts: OriginalFacts) -> State | None:
        return judge(facts, self._now(), self._freshness, is_proved=self._cache.is_proved(facts))

    def _forget_flights(self, _distrusted: Distrusted) -> None:
        """If everything counts as unproved: let new requests start new fetches."""
        self._flights.detach_where(lambda _name: True)
        self._confirmations.detach_where(lambda _name: True)

    def _forget_all(self, _purged: PurgedAll | PurgedMany) -> None:
        """After a purge of everything, or of many keys: as `_forget`, for every key."""
        self._refusals.clear()
        self._retry_at_s.clear()
        self._unproved.clear()
        for flights in (self._flights, self._downloads, self._confirmations):
            flights.detach_where(lambda _name: True)

    def _forget(self, purged: Purged | Unproved) -> None:
        """After a purge or an order to prove: forget refusals, and let new requests start a new fetch."""
        hashed = purged.key_hash
        self._refusals.forget(hashed)
        self._retry_at_s.pop(hashed, None)
        self._unproved.pop(hashed, None)
        for kind in (False, True, _BYTES):
            self._flights.detach((hashed, kind))
        self._downloads.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)
        self._confirmations.detach_where(lambda name: isinstance(name, tuple) and name[0] == hashed)

    def _soften(self, softened: Softened) -> None:
        """After a soft purge: forget refusals, and let the next stale answer start a new revalidation."""
        hashed = softened.key_hash
        self._refusals.forget(hashed)
        self._retry_at_s.pop(hashed, None)
        self._flights.detach((hashed, True))

    async def _fetch(self, hashed: str, key: str, known: OriginalFacts | None, *, needs_file: bool = False) -> Original:
        # A conditional and an unconditional fetch are two flights: a conditional one may return no bytes. With a shared
        # store, a fetch without `needs_file` may return none either.
        name = (hashed, _BYTES if needs_file and self._shared is not None else known is not None)
        fetched, joined = await self._flights.join(name, self._question(hashed, key, known, needs_file=needs_file))
        self._unproved.pop(hashed, None)
        state = State.FETCHED if fetched.is_modified else State.REVALIDATED
        return Original(fetched.facts, hashed, state, fetched.fetch_s, joined)

    def _question(
        self, hashed: str, key: str, known: OriginalFacts | None, *, needs_file: bool = False
    ) -> Callable[[], Coroutine[Any, Any, Fetched]]:
        """Return what asks the origin."""
        if self._shared is None:
            return partial(self._fetching.fetch, hashed, key, known)
        return partial(self._ask_with_store, self._shared, hashed, key, known, needs_file=needs_file)

    async def _ask_with_store(
        self, shared: SharedStore, hashed: str, key: str, known: OriginalFacts | None, *, needs_file: bool
    ) -> Fetched:
        """Ask the origin. If the shared store has facts of an unknown original, their validators go along."""
        if known is None and not needs_file:
            known = await self._find_facts(shared, hashed)
            self._found.pop(hashed, None)
        return await self._fetching.fetch(hashed, key, known, needs_file=needs_file)

    async def _find_facts(self, shared: SharedStore, hashed: str) -> OriginalFacts | None:
        if hashed not in self._found:
            facts, _ = await self._lookups.join(hashed, partial(shared.find_facts, hashed))
            self._found[hashed] = facts
            return facts
        return self._found[hashed]

    async def _download(self, facts: OriginalFacts, hashed: str) -> bool:
        """Get the bytes of a proved original from the shared store. Return whether they are here now."""
        if self._shared is None:
            return False
        is_here, _ = await self._downloads.join((hashed, facts.digest), partial(self._shared.fetch_original, facts))
        return is_here

    def _revalidate_behind(self, hashed: str, facts: OriginalFacts) -> None:
        if hashed not in self._retry_at_s:
            self._retry_at_s[hashed] = time.monotonic()
            self._flights.launch((hashed, True), lambda: self._revalidate_quietly(hashed, facts))

    async def _revalidate_quietly(self, hashed: str, facts: OriginalFacts) -> Fetched:
        try:
            fetched = await self._question(hashed, facts.key, facts)()
        except ImgproxyError as error:
            log.info("revalidation of %s failed: %s", facts.key, error)
            raise
        self._unproved.pop(hashed, None)
        return fetched


def judge(facts: OriginalFacts, now_s: float, settings: FreshnessSettings, *, is_proved: bool) -> State | None:
    """
    Return FRESH, STALE, or None if the original must be revalidated before the answer.

    `now_s` is Unix time. `is_proved`: see `Cache.is_proved`.
    """
    age_s = now_s - facts.validated_at_s
    if not is_proved or age_s < -CLOCK_SKEW_S:
        return None
    if age_s <= settings.revalidate_after_s:
        return State.FRESH
    return State.STALE if age_s <= settings.revalidate_after_s + settings.stale_if_error_s else None
