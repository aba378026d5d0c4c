"""
The follower: it applies the lines of the log to this node, in order.

    read  ->  one transaction of the journal: the purge and the place it leads to  ->  drain answers  ->  report

A slow drain holds up its report and those of later lines, but not the lines themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.cache.entry import key_hash
from imgproxy.cache.journal import SpreadEntry, placing, purged_entries
from imgproxy.cluster.catching_up import CatchingUp
from imgproxy.cluster.log import HistoryLost, Kind, LogUnavailable, Position
from imgproxy.errors import CacheUnavailable
from imgproxy.failpoints import Step
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.spreading import Spreading
    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.lease import Lease
    from imgproxy.cluster.log import Line, PurgeLog, Renewal
    from imgproxy.failpoints import Failpoints

    # Waits until answers with old bytes of these keys (by hash; None: of any) have ended, or cuts them.
    Drain = Callable[[Collection[str] | None], Awaitable[object]]

log = logging.getLogger(__name__)

# Lines that are read and applied together.
LINES_MAX = 1000
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
NOWHERE = Position("", 0)
PURGED_ALL = "purge-all"


@dataclass(eq=False, slots=True)
class _Drain:
    """Answers that are being drained, up to this line."""

    place: Position
    has_ended: bool = False


class Follower:
    """
    Applies the log.

    `place`: how far it is applied here, for new answers. `drained`: how far also the answers under way have ended. This
    is what the others are told.
    """

    def __init__(
        self,
        purge_log: PurgeLog,
        cache: Cache,
        rows: Spreading,
        *,
        run: str,
        lease: Lease,
        drain: Drain,
        clock: Clock,
        failpoints: Failpoints,
        on_progress: Callable[[], None],
        stale_after_s: float,
        on_keys: Callable[[str, Sequence[str]], None],
    ) -> None:
        """
        `on_progress` is called when lines were applied, or could not be.

        `stale_after_s`: an original that was proved this long ago is stale. `on_keys` gets an entry and all its keys,
        when another node has found them.
        """
        self._log = purge_log
        self._cache = cache
        self._rows = rows
        self._run = run
        self._lease = lease
        self._drain = drain
        self._clock = clock
        self._failpoints = failpoints
        self._on_progress = on_progress
        self._stale_after_s = stale_after_s
        self._on_keys = on_keys
        self._news = asyncio.Event()
        self._to_report = asyncio.Event()
        self._lock = asyncio.Lock()
        self._drains: deque[_Drain] = deque()
        self._draining = Background("drain of answers")
        self._catching_up = CatchingUp(purge_log, cache)
        self.place = NOWHERE
        self.drained = NOWHERE
        self._written = NOWHERE
        self.is_lost = False
        self.refusal: str | None = None
        self.applied_lines = 0

    def resume(self, place: Position) -> None:
        """Go on where the last run ended."""
        self.place = self.drained = self._written = place

    def wake(self) -> None:
        """Look for lines soon."""
        self._news.set()

    async def close(self, done: Collection[int]) -> None:
        """Write the place, and delete the changes of these rows. Raises CacheUnavailable."""
        await self._draining.close()
        await self._catching_up.close()
        await self._catching_up.save()
        await self.write_place(done)

    # --- another history ---------------------------------------------------------------------------------------

    def fits(self, renewal: Renewal, before: Position) -> bool:
        """
        Whether the log has every line since the place that is applied here.

        `before` is that place as it was when the renewal was sent: lines that came later are not in its answer.
        """
        is_same = renewal.history == self.place.history and not misses_tail(renewal, before)
        return is_same and renewal.oldest <= self.place.number + 1 and not self.is_lost

    async def start_over(self, renewal: Renewal) -> None:
        """
        Count everything cached as unproved, and go on from the end of the log as the renewal reported it.

        The order matters: only when nothing is served unproved any more, also after a crash, may the lines before
        count as applied.

        Raises:
            CacheUnavailable: the disk refuses. The place is as before.
        """
        async with self._lock:
            self._lease.end()
            if self.place != NOWHERE:
                log.error(
                    "the log of purges is another one, or no longer has the lines since %d (now %d to %d): "
                    "every picture is asked for again before it is served",
                    self.place.number,
                    renewal.oldest,
                    renewal.head,
                )
            await self._cache.distrust_all(reason="log-lost")
            place = Position(renewal.history, renewal.head)
            await self._rows.set_place(place.history, place.number)
            self.place = self._written = place
            self.drained = Position(renewal.history, 0)
            self.is_lost = False
            self._drains.clear()
            self._catching_up.start_over()
            self._begin_drain(place, None)

    # --- lines -------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Apply lines for ever."""
        failures = 0
        while True:
            self._news.clear()
            until_s = float("inf")
            try:
                while await self._apply_next():
                    pass
                failures, self.refusal = 0, None
                self._catching_up.begin_saving()
            except HistoryLost:
                self.is_lost = True  # the next renewal starts over
            except (LogUnavailable, CacheUnavailable) as error:
                self.refusal = _refusal(error)
                until_s = self._clock.now_s() + min(RETRY_FIRST_S * 2.0 ** min(failures, 10), RETRY_MAX_S)
                failures += 1
            self._on_progress()
            await self._clock.wait(self._news, until_s)

    async def _apply_next(self) -> bool:
        """
        Apply the next lines. Return whether there may be more.

        Raises:
            HistoryLost, LogUnavailable: as `PurgeLog.read`.
            CacheUnavailable: the disk refuses.
        """
        async with self._lock:
            if self.is_lost or self.place == NOWHERE:
                return False
            if (caught_up := await self._catching_up.apply_next(self.place)) is not None:
                self._move(caught_up[0])
                self._begin_drain(*caught_up)
                self._lease.advance(self.place)
                return True
            lines = await self._log.read(self.place, LINES_MAX)
            self._catching_up.note_read(is_page_full=len(lines) == LINES_MAX)
            for (kind, is_own), group in groupby(lines, lambda line: (line.change.kind, line.run == self._run)):
                found = list(group)
                place = Position(self.place.history, found[-1].number)
                await self._failpoints.reach(Step.BEFORE_APPLY, "")
                if not is_own:
                    await self._apply(kind, found, place)
                self._move(place)
                if not is_own:
                    self._begin_drain(place, None if kind is Kind.PURGE_ALL else _hashes(found))
                elif not self._drains:
                    self.drained = place
            self._lease.advance(self.place)
        self._on_progress()
        return len(lines) == LINES_MAX

    def _move(self, place: Position) -> None:
        self.applied_lines += place.number - self.place.number
        self.place = place

    async def _apply(self, kind: Kind, lines: Sequence[Line], place: Position) -> None:
        """Apply lines of one kind, which other nodes have written. Raises CacheUnavailable."""
        with traces.span("apply log", kind=str(kind), lines=len(lines), place=place.number):
            await self._apply_now(kind, lines, place)

    async def _apply_now(self, kind: Kind, lines: Sequence[Line], place: Position) -> None:
        keys = list(dict.fromkeys(key for line in lines for key in line.change.keys))
        settle_at_s = _settle_at_s(lines)
        changes = [line.change for line in lines]
        entries = [SpreadEntry(each.entry, each.reason, each.expanded) for each in changes if each.entry is not None]
        is_place_safe = self._catching_up.is_place_safe
        also = placing(place.history, place.number, entries) if is_place_safe else purged_entries(entries)
        if kind is Kind.PURGE:
            await self._cache.purge(keys, reason=lines[-1].change.reason, settle_at_s=settle_at_s, also=also)
            self._note_written(place, is_written=is_place_safe)
            for item in entries:
                self._on_keys(item.entry, item.keys)
        elif kind is Kind.PROVE:
            # Its place is written later: after a crash in between it is only ordered once more.
            await self._cache.prove(keys, reason=lines[-1].change.reason, settle_at_s=settle_at_s)
        elif kind is Kind.SOFTEN:
            stale_at_s = time.time() - self._stale_after_s
            for key in keys:
                self._cache.soften(key, stale_at_s)
        else:
            await self._cache.purge_all(reason=PURGED_ALL, also=also)
            self._note_written(place, is_written=is_place_safe)

    def _note_written(self, place: Position, *, is_written: bool) -> None:
        if is_written:
            self._written = place

    async def write_place(self, done: Collection[int] = ()) -> None:
        """Write the place if it has moved and is safe. Delete the changes of these rows. Raises CacheUnavailable."""
        place = self.place
        self._catching_up.begin_saving()  # if it is not safe yet
        if place == self._written or not self._catching_up.is_place_safe:
            if done:
                await self._rows.done(done)
            return
        await self._rows.set_place(place.history, place.number, done=done)
        self._written = place

    # --- drain and report --------------------------------------------------------------------------------------

    def _begin_drain(self, place: Position, hashes: Collection[str] | None) -> None:
        drain = _Drain(place)
        self._drains.append(drain)
        self._draining.begin(self._drain_answers, drain, hashes)

    async def _drain_answers(self, drain: _Drain, hashes: Collection[str] | None) -> None:
        await self._drain(hashes)
        drain.has_ended = True
        self._note_drained()

    def _note_drained(self) -> None:
        while self._drains and self._drains[0].has_ended:
            self.drained = self._drains.popleft().place
            self._to_report.set()
        if not self._drains and self.drained.history == self.place.history:
            self.drained = self.place

    async def report(self) -> None:
        """Report for ever what the others wait for."""
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            await self._failpoints.reach(Step.BEFORE_REPORT, "")
            try:
                await self._log.report(self.drained)
            except LogUnavailable as error:
                log.info("a report to the log of purges is left to the next renewal: %s", error)


def misses_tail(renewal: Renewal, before: Position) -> bool:
    """Whether lines that were applied before the renewal was sent are missing at the end of the log."""
    return renewal.history == before.history and renewal.head < before.number


def _hashes(lines: Sequence[Line]) -> set[str]:
    """Return the keys of whose bytes no answer may go on. A soft purge lets them."""
    return {key_hash(key) for line in lines if line.change.kind is not Kind.SOFTEN for key in line.change.keys}


def _settle_at_s(lines: Sequence[Line]) -> float | None:
    """Return the Unix time at which what is fetched from now on is checked again; None: not at all."""
    longest_s = max((line.change.settle_s or 0.0 for line in lines), default=0.0)
    return time.time() + longest_s if longest_s > 0 else None


def _refusal(error: Exception) -> str:
    if isinstance(error, CacheUnavailable):
        return "the disk of the cache does not take the purges of other nodes"
    return "the log of purges cannot be read"
