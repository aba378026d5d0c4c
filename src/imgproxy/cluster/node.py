"""
One node of a cluster: it joins, renews its lease, follows the log, spreads its purges, and leaves.

    start  join -> renew -> replay the log up to what the renewal reported -> current
    close  the lease ends here -> leave

The port may be open before the node is current: until then it is fenced. Nothing here raises because the database
cannot be reached. The node is fenced then, and heals by itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from imgproxy.cache.spreading import Spreading, recording
from imgproxy.cluster.change_text import to_text
from imgproxy.cluster.clock import Clock
from imgproxy.cluster.fence import Fence
from imgproxy.cluster.follower import Follower, misses_tail
from imgproxy.cluster.lease import RENEWALS, Lease
from imgproxy.cluster.log import LogUnavailable, Member, Position
from imgproxy.cluster.observer import Observer
from imgproxy.cluster.spreader import Spreader
from imgproxy.cluster.watch import FenceWatch
from imgproxy.errors import CacheUnavailable
from imgproxy.failpoints import Step
from imgproxy.telemetry.outages import Outage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.spreading import Also, Unspread
    from imgproxy.cluster.acknowledge import Spread
    from imgproxy.cluster.follower import Drain
    from imgproxy.cluster.log import Change, PurgeLog, Renewal
    from imgproxy.cluster.watch import UnderWay
    from imgproxy.config.cluster import ClusterSettings
    from imgproxy.failpoints import Failpoints

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.2
AGAIN_S = 1.0
TRIM_EVERY_S = 600.0
# A node that ends waits for the database no longer than this.
LEAVE_S = 3.0
# Changes that a run takes over from the last one. More than that are spread as well, but their caches in front are told
# by the outbox alone.
LEFT_OVER_MAX = 10_000

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node needs of the service. `drain`, `stale_after_s` and `on_keys` are as in Follower."""

    cache: Cache
    drain: Drain
    under_way: UnderWay
    failpoints: Failpoints
    stale_after_s: float
    on_keys: Callable[[str, Sequence[str]], None]


class ClusterNode:
    """This run of this node. `start` before the port opens, `close` after it is closed."""

    def __init__(
        self,
        purge_log: PurgeLog,
        settings: ClusterSettings,
        parts: Parts,
        *,
        name: str,
        run: str,
        clock: Clock | None = None,
    ) -> None:
        """`name` is this node's in receipts and logs, `run` that of this run of it: see Member."""
        self.name = name
        self.run = run
        self.settings = settings
        self.is_proving = settings.when_fenced == "prove"
        self._log = purge_log
        self._clock = clock or Clock()
        self._failpoints = parts.failpoints
        self._rows = Spreading(parts.cache.journal)
        self._directory = parts.cache.store
        proof_s = settings.proof_s if self.is_proving else None
        self._member = Member(name, self.run, 0, 0, settings.lease_s, proof_s)
        self._observer = Observer(self._member, settings.forget_s)
        self.lease = Lease(settings.lease_s)
        self.fence = Fence(self.lease, proof_s=settings.proof_s, forget_s=settings.forget_s, now_s=self._clock.now_s)
        self._watch = FenceWatch(
            self.fence,
            self._clock,
            lead_s=settings.lease_s / RENEWALS,
            proof_s=settings.proof_s,
            under_way=parts.under_way if self.is_proving else None,
            cause=self._cause,
        )
        self._follower = Follower(
            purge_log,
            parts.cache,
            self._rows,
            run=self.run,
            lease=self.lease,
            drain=parts.drain,
            clock=self._clock,
            failpoints=parts.failpoints,
            on_progress=self._watch.wake,
            stale_after_s=parts.stale_after_s,
            on_keys=parts.on_keys,
        )
        self._spreader = Spreader(
            purge_log,
            self._rows,
            self._observer,
            name=name,
            clock=self._clock,
            failpoints=parts.failpoints,
            confirm=self.renew,
        )
        self._renewing = asyncio.Lock()
        self._renew_soon = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._has_joined = False
        self._has_tried = False
        self._refusal: str | None = "it has not reached the log of purges yet"
        self.outage = Outage("the log of purges", now=self._clock.now_s)
        self._head = 0
        self._trimmed_at_s = 0.0
        self.renewals = 0

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on where the last run ended. The log is reached in the background. Raises CacheUnavailable."""
        # Before it is a member: the next run has to know it.
        self._observer.ended = frozenset(await self._rows.begin_run(self.run, self._directory.lock_name()))
        place = await self._rows.place()
        if place is not None:
            self._follower.resume(Position(*place))
            self._observer.history = place[0]
        self._trimmed_at_s = self._clock.now_s()
        self._begin(self._renew_forever, self._watch.run)

    async def close(self) -> None:
        """Leave. The port is closed: nothing is served any more."""
        leave_by_s = asyncio.get_running_loop().time() + LEAVE_S
        may_leave = await self._end_renewals()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fence.end()
        try:
            await self._follower.close(self._spreader.take_finished())
        except CacheUnavailable:
            log.warning("the place in the log of purges is not written; the next run applies some lines again")
        await self._failpoints.reach(Step.BEFORE_LEAVE, "")
        try:
            if self._has_tried:
                await self._leave(leave_by_s, may_leave=may_leave)
        except LogUnavailable as error:
            log.warning("this node could not leave the cluster; purges wait until its lease has run out: %s", error)
        await self._log.close()

    async def _end_renewals(self) -> bool:
        """Wait for the renewal under way, and let no other begin. Return whether none is under way any more."""
        try:
            await _within(LEAVE_S, self._renewing.acquire())
        except LogUnavailable:
            return False
        return True

    async def _leave(self, leave_by_s: float, *, may_leave: bool) -> None:
        """Leave, unless a renewal is under way: it would make this run a member again. Raises LogUnavailable."""
        if not may_leave:
            raise LogUnavailable("a renewal has not been answered yet")
        await _within(max(0.0, leave_by_s - asyncio.get_running_loop().time()), self._log.leave())

    def _begin(self, *work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks += [asyncio.get_running_loop().create_task(self._keep(each)) for each in work]

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do work for ever. A bug must not end it silently: the node would never heal."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("a part of the cluster has failed; it is begun again")
            await self._clock.wait(asyncio.Event(), self._clock.now_s() + AGAIN_S)

    # --- purges ------------------------------------------------------------------------------------------------

    def recording(self, change: Change) -> Also:
        """Return what writes a change into the journal, in the transaction of its purge."""
        return recording(to_text(change))

    async def spread_unpromised(self, change: Change) -> None:
        """Spread a change that no purge waits for. Raises CacheUnavailable."""
        await self._rows.add(to_text(change))
        self._spreader.wake()

    def wake(self) -> None:
        """Spread what is new in the journal, without a wait for it."""
        self._spreader.wake()

    async def wait(self, seq: int, within_s: float | None = None) -> Spread:
        """Wait as `Spreader.wait`: at most `within_s`, by default as long as it takes."""
        return await self._spreader.wait(seq, float("inf") if within_s is None else within_s)

    def finished(self, seqs: Sequence[int]) -> None:
        """Forget these purges: no node can break their promise, and the caches in front are told."""
        self._spreader.finished(seqs)

    async def left_over(self) -> tuple[Unspread, ...]:
        """The changes that the last run has left. They are spread again."""
        return await self._rows.after(0, LEFT_OVER_MAX)

    def gone_runs(self) -> frozenset[str]:
        """The runs of other nodes whose lease has run out. What they had claimed is free."""
        return self._observer.gone(self._clock.now_s())

    def applied_by_all(self) -> int:
        """The number of the last line that every member had applied, as last seen."""
        return min((item.member.applied for item in self._observer.members), default=0)

    # --- renewals ----------------------------------------------------------------------------------------------

    async def _renew_forever(self) -> None:
        failures = 0
        while True:
            self._renew_soon.clear()
            wait_s = self.settings.lease_s / RENEWALS
            try:
                if not self._has_joined:
                    await self._join()
                await self.renew()
                await self._keep_house()
                failures = 0
            except LogUnavailable as error:
                self._refusal = "the log of purges cannot be reached"
                self.outage.failed(str(error))
                wait_s = min(wait_s, RETRY_FIRST_S * 2.0 ** min(failures, 10))
                failures += 1
            except CacheUnavailable:
                self._refusal = "the disk of the cache does not take what the log of purges asks for"
            except Exception:
                log.exception("a renewal failed")
                self._refusal = "a renewal failed"
            await self._clock.wait(self._renew_soon, self._clock.now_s() + wait_s)

    async def _join(self) -> None:
        self._has_tried = True
        async with self._renewing:
            await _within(self.settings.lease_s, self._join_log())
        self._has_joined = True
        self._begin(self._follower.follow, self._follower.report, self._spreader.append, self._spreader.acknowledge)

    async def _join_log(self) -> None:
        # What others have applied is no reason to read the log: it would be a read for each report of each other node.
        await self._log.join(
            self._member,
            ended=sorted(self._observer.ended),
            on_lines=self._follower.wake,
            on_applied=self._spreader.look,
        )

    async def renew(self) -> Renewal:
        """
        Renew the lease now.

        Raises:
            LogUnavailable: the log did not answer within the time of a lease.
            CacheUnavailable: the log is another one, and the disk refuses to count everything as unproved.
        """
        async with self._renewing:
            sent_s, before = self._clock.now_s(), self._follower.place
            renewal = await _within(self.settings.lease_s, self._log.renew(self._follower.drained))
            now_s = self._clock.now_s()
            self.renewals += 1
            self._head = renewal.head
            is_tail_lost = misses_tail(renewal, before)
            if self._observer.renewed(renewal.history, renewal.members, now_s, is_tail_lost=is_tail_lost):
                self._spreader.start_over()
            if not self._follower.fits(renewal, before):
                await self._follower.start_over(renewal)
            self.lease.renew(sent_s, Position(renewal.history, renewal.head), self._follower.place)
            self._refusal = None
            self.outage.worked()
        self._watch.wake()
        if self.lag_lines:
            self._follower.wake()
        self._spreader.reached()
        return renewal

    async def _write_behind(self) -> None:
        """Write the place of own lines, and forget what is done: it saves a sync of the disk for each."""
        done = self._spreader.take_finished()
        try:
            await self._follower.write_place(done)
        except CacheUnavailable:
            self._spreader.put_back(done)

    async def _keep_house(self) -> None:
        """After a renewal that no purge waits for: write behind, forget members that are long gone, trim the log."""
        await self._write_behind()
        now_s = self._clock.now_s()
        for member in self._observer.forgettable(now_s):
            log.warning("node %s was not seen for %g s and is forgotten", member.name, self.settings.forget_s)
            await _within(self.settings.lease_s, self._log.forget(member.run, member.renewals))
        for member in self._observer.returned():
            await _within(self.settings.lease_s, self._log.forget(member.run, member.renewals))
        if now_s >= self._trimmed_at_s + TRIM_EVERY_S:
            self._trimmed_at_s = now_s
            await _within(self.settings.lease_s, self._log.trim(self.settings.log_kept_s))

    # --- state -------------------------------------------------------------------------------------------------

    def _cause(self) -> str:
        """Why this node is fenced, in words without names of machines: `/-/ready` is open to everybody."""
        if self._refusal is not None:
            return self._refusal
        if self._follower.refusal is not None:
            return self._follower.refusal
        if self.lag_lines:
            return f"{self.lag_lines} lines of the log of purges are still to be applied"
        return "its lease has run out"

    @property
    def is_current(self) -> bool:
        """Whether it may answer from its cache."""
        return self.fence.is_open()

    @property
    def cause(self) -> str | None:
        """Why it is not current; None if it is."""
        return None if self.is_current else self._cause()

    @property
    def lag_lines(self) -> int:
        """How many lines are still to be applied, as far as is known."""
        return max(0, self._head - self._follower.place.number)

    @property
    def members(self) -> int:
        """How many nodes there are, this one included, as last seen. At least 1."""
        return max(1, len(self._observer.members))

    @property
    def fenced_s(self) -> float:
        """For how many seconds it was fenced since the start."""
        return self._watch.fenced_s

    @property
    def waiting(self) -> int:
        """How many of its purges are on their way to the other nodes."""
        return self._spreader.waiting

    @property
    def namesake(self) -> bool:
        """Whether another node that is alive has the same name."""
        return self._observer.namesake(self._clock.now_s()) is not None

    def share_of(self, fetches_max: int) -> int:
        """Return this node's share of the fetches that the origin is to bear: all nodes may be fenced at once."""
        return max(1, fetches_max // self.members)

    def nodes_json(self) -> list[dict[str, Any]]:
        """Show every member, for the status page."""
        return self._observer.as_json(self._clock.now_s(), self._head)


async def _within(seconds: float, call: Awaitable[Result]) -> Result:
    """Wait for a call of the log. Raises LogUnavailable if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise LogUnavailable(f"it has not answered within {seconds:g} s") from None
