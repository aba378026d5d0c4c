"""
Settling: a key that was purged, or ordered to be proved, is revalidated when its settle time ends.

A replica of the origin may lag, so an original that is fetched just after a purge may still be the old one, and an old
one may be confirmed. The journal keeps the keys to check, so they survive a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from imgproxy.background import Background
from imgproxy.errors import ImgproxyError

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cache.purge_event import Purged, Unproved
    from imgproxy.delivery.originals import Originals

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
# Checks at a time. A purge of many keys must not flood the origin, and one slow answer must not delay the other keys.
PARALLEL = 4
# A check may begin this much too early, because sums of floating-point times are not exact.
DUE_S = 0.001


class _Check(NamedTuple):
    """A check to come, ordered by `at_s` (the loop's clock). `due_at_s` is the Unix time in the journal."""

    at_s: float
    key: str
    due_at_s: float
    failures: int


class Settling:
    """Checks keys in the order in which they are due, a few at a time."""

    def __init__(self, cache: Cache, originals: Originals, *, settle_s: float, retry_max_s: float) -> None:
        """A check that fails is repeated with growing waits, up to `retry_max_s`."""
        self._journal = cache.journal
        self._originals = originals
        self._settle_s = settle_s
        self._retry_max_s = retry_max_s
        self._due_at_s: dict[str, float] = {}  # by key; a check with another time was replaced by a later purge
        self._checks: list[_Check] = []
        self._news = asyncio.Event()
        self._turns = asyncio.Semaphore(PARALLEL)
        self._background = Background("settling")
        cache.purged.subscribe(self._note)
        cache.unproved.subscribe(self._note)

    async def start(self) -> None:
        """Schedule the checks that are left in the journal, and begin."""
        for key, due_at_s in (await self._journal.settling()).items():
            self._schedule(key, due_at_s)
        self._background.begin(self._run)

    async def close(self) -> None:
        """Stop. The checks that are left stay in the journal."""
        await self._background.close()

    @property
    def pending(self) -> int:
        """Keys that are still to be checked."""
        return len(self._due_at_s)

    def _note(self, purged: Purged | Unproved) -> None:
        if purged.settle_at_s is not None:
            self._schedule(purged.key, purged.settle_at_s)

    def _schedule(self, key: str, due_at_s: float) -> None:
        # The due time is of the wall clock, as it must survive a restart. If that clock is set back, wait no longer.
        wait_s = min(max(0.0, due_at_s - time.time()), self._settle_s)
        self._due_at_s[key] = due_at_s
        heappush(self._checks, _Check(asyncio.get_running_loop().time() + wait_s, key, due_at_s, 0))
        self._news.set()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            wait_s = self._checks[0].at_s - asyncio.get_running_loop().time() if self._checks else None
            if wait_s is not None and wait_s <= DUE_S:
                await self._turns.acquire()
                self._background.begin(self._check_in_turn, heappop(self._checks))
                continue
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _check_in_turn(self, check: _Check) -> None:
        try:
            await self._check(check)
        finally:
            self._turns.release()

    async def _check(self, check: _Check) -> None:
        if self._due_at_s.get(check.key) != check.due_at_s:
            return
        try:
            await self._originals.revalidate(check.key)
            await self._journal.settled(check.key, check.due_at_s)
        except ImgproxyError as error:
            log.info("the check of %s after its purge is repeated: %s", check.key, error)
            self._repeat(check)
        except Exception:
            log.exception("the check of %s after its purge failed; it is repeated", check.key)
            self._repeat(check)
        else:
            if self._due_at_s.get(check.key) == check.due_at_s:
                del self._due_at_s[check.key]

    def _repeat(self, check: _Check) -> None:
        wait_s = min(RETRY_FIRST_S * 2.0 ** min(check.failures, 20), self._retry_max_s)
        at_s = asyncio.get_running_loop().time() + wait_s
        heappush(self._checks, check._replace(at_s=at_s, failures=check.failures + 1))
        self._news.set()
