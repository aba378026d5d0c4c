"""
A lane: everything one cache in front has to be told, one batch after the other, until it has confirmed.

    what a purge has just released  +  lines of the outbox that are due  ->  calls  ->  out of the outbox, or put off

What a purge releases is sent at once, whatever failed before, unless the target asked to be left alone. Failures wait
exponentially longer, with jitter, up to `retry_max_s`, for ever; the first success makes everything due again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgproxy.cache.outbox import OutboxFigures, OutboxLine, Subject, WaitingLine
from imgproxy.purge.downstream.calls import Adapter, PurgeHttp, Result, Verdict
from imgproxy.purge.receipt import DownstreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.outbox import Outbox
    from imgproxy.config.downstream import DownstreamSettings
    from imgproxy.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
# Without anything to do the outbox is looked at this often: for lines that nobody released, and clocks that jumped.
IDLE_S = 10.0


class TokenBucket:
    """A rate with a burst; `take` may overdraw it, `wait_s` says how long to wait before that is no more so."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at_s = clock()

    def wait_s(self) -> float:
        """Seconds until there is a token; 0.0 where there is one."""
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, (1 - self._tokens) / self._per_s)

    def take(self) -> None:
        """Take a token."""
        self._tokens -= 1


@dataclass(eq=False, slots=True)
class Ticket:
    """Somebody who waits for subjects to be purged; `failure` is why they were not."""

    remaining: set[Subject]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None


@dataclass(slots=True)
class _Batch:
    """What is sent together: the lines of each subject, and who waited when it was put together."""

    lines: dict[Subject, list[WaitingLine]]
    tickets: tuple[Ticket, ...]


class Lane:
    """The purges of one target."""

    def __init__(
        self,
        settings: DownstreamSettings,
        adapter: Adapter,
        outbox: Outbox,
        http: PurgeHttp,
        *,
        held_s: float,
        again_after_s: float,
        metrics: Metrics,
        bucket: TokenBucket | None = None,
    ) -> None:
        """
        Set up the lane of one target.

        Args:
            settings: of the target.
            adapter: what its calls look like.
            outbox: what it has not confirmed.
            http: sends the calls.
            held_s: a purge releases its lines within this time; if not, its process is not there any more.
            again_after_s: round 2 is due this long after the purge was recorded; 0: there is none.
            metrics: counts calls and lines.
            bucket: how many calls the target takes.
        """
        self.name = settings.label
        self.kind = settings.kind
        self._settings = settings
        self._adapter = adapter
        self._outbox = outbox
        self._http = http
        self._held_s = held_s
        self._again_after_s = again_after_s
        self._metrics = metrics
        self._bucket = bucket
        self._released: dict[Subject, int] = {}
        self._tickets: set[Ticket] = set()
        self._news = asyncio.Event()
        self._failures = 0
        self._quiet_until_s = 0.0  # monotonic; the target asked for it
        self.last_failure: str | None = None
        self.figures = OutboxFigures(0, None, None)
        self._task: asyncio.Task[None] | None = None
        metrics.outbox_lines.labels(target=self.name).set_function(lambda: self.figures.lines)
        metrics.outbox_oldest_age_s.labels(target=self.name).set_function(lambda: self.oldest_age_s)

    async def start(self) -> None:
        """Read how the outbox stands, and begin to send."""
        self.figures = await self._outbox.figures(self.name)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop; what is under way is sent again by the next run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what purges ask for -----------------------------------------------------------------------------------

    def lines(self, subjects: Iterable[Subject]) -> list[OutboxLine]:
        """What the journal has to keep for these subjects until the target has confirmed both rounds."""
        now_s = time.time()
        covered = [subject for subject in dict.fromkeys(subjects) if self._adapter.covers(subject)]
        rounds = [(1, now_s + self._held_s)]
        if self._again_after_s > 0:
            rounds.append((2, now_s + self._again_after_s))
        return [OutboxLine(self.name, subject, number, due_at_s) for number, due_at_s in rounds for subject in covered]

    async def send(self, subjects: Iterable[Subject], seq: int) -> DownstreamState:
        """Send what purge `seq` has recorded, now, and wait for it a moment."""
        covered = {subject for subject in subjects if self._adapter.covers(subject)}
        if not covered:
            return DownstreamState(self.name, self.kind, "done", "nothing of this is purged there")
        self._released.update({subject: max(seq, self._released.get(subject, 0)) for subject in covered})
        ticket = Ticket(covered)
        self._tickets.add(ticket)
        self._news.set()
        try:
            async with asyncio.timeout(self._settings.wait_s):
                await ticket.over.wait()
        except TimeoutError:
            reason = ticket.failure or self.last_failure or f"no answer within {self._settings.wait_s:g} s"
            return DownstreamState(self.name, self.kind, "pending", reason)
        finally:
            self._tickets.discard(ticket)
        if ticket.failure is not None:
            return DownstreamState(self.name, self.kind, "pending", ticket.failure)
        again = f"again {self._again_after_s:g} s after the purge" if self._again_after_s > 0 else None
        return DownstreamState(self.name, self.kind, "done", again)

    # --- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                batch = await self._next_batch()
                await self._deliver(batch)
                self.figures = await self._outbox.figures(self.name)
            except asyncio.CancelledError:
                raise
            except Exception:
                # The journal cannot be written, say: what was sent is sent again.
                log.exception("purges of %s are held up", self.name)
                await asyncio.sleep(self._settings.retry_max_s)

    async def _next_batch(self) -> _Batch:
        """Wait until something is to be sent, and take as much of it as is sent at once."""
        limit = self._adapter.batch_max * self._adapter.concurrency
        while True:
            await self._keep_quiet()
            self._news.clear()
            now_s = time.time()
            lines: dict[Subject, list[WaitingLine]] = {}
            while self._released and len(lines) < limit:
                subject = next(iter(self._released))
                lines[subject] = [WaitingLine(subject, 1, self._released.pop(subject), 0)]
            tickets = tuple(self._tickets)
            if len(lines) < limit:
                for line in await self._outbox.due(self.name, now_s, limit - len(lines)):
                    lines.setdefault(line.subject, []).append(line)
            if lines:
                return _Batch(lines, tickets)
            self.figures = await self._outbox.figures(self.name)
            next_due_s = self.figures.next_due_s
            wait_s = IDLE_S if next_due_s is None else min(IDLE_S, max(0.0, next_due_s - now_s))
            await self._wait_for_news(wait_s)

    async def _keep_quiet(self) -> None:
        """As long as the target asked for it, or its rate is used up: more calls would be refused, and count."""
        wait_s = max(
            self._quiet_until_s - time.monotonic(),
            self._bucket.wait_s() if self._bucket is not None else 0.0,
        )
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _wait_for_news(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            return

    async def _deliver(self, batch: _Batch) -> None:
        """Send a batch in as many calls as it needs, and keep what came of each."""
        subjects = list(batch.lines)
        size = self._adapter.batch_max
        parts = [subjects[at : at + size] for at in range(0, len(subjects), size)]
        outcomes = [
            outcome
            for part_outcomes in await asyncio.gather(*(self._send_part(part) for part in parts))
            for outcome in part_outcomes
        ]
        done = [subject for part, verdict in outcomes for subject in part if verdict.result is Result.DONE]
        if done:
            await self._settle(batch, done)
        failed: list[Subject] = []
        failure = None
        for part, verdict in outcomes:
            if verdict.result is Result.REJECTED:
                await self._put_off_rejected(batch, part, verdict)
            elif verdict.result is not Result.DONE:
                failed += part
                failure = verdict
        if failure is not None:
            await self._put_off(batch, failed, failure)

    async def _send_part(self, part: Sequence[Subject]) -> list[tuple[Sequence[Subject], Verdict]]:
        """Send one call; what is rejected as a whole is tried by halves, so that one subject does not stop the rest."""
        if self._bucket is not None:
            await asyncio.sleep(self._bucket.wait_s())
            self._bucket.take()
        verdict = await self._http.send(self._adapter, part, timeout_s=self._settings.timeout_s)
        self._metrics.downstream_purges.labels(target=self.name, result=verdict.result).inc()
        if verdict.result is Result.REJECTED and len(part) > 1:
            half = len(part) // 2
            return [*await self._send_part(part[:half]), *await self._send_part(part[half:])]
        return [(part, verdict)]

    async def _settle(self, batch: _Batch, done: list[Subject]) -> None:
        """The target has purged these."""
        for ticket in batch.tickets:
            ticket.remaining.difference_update(done)
            if not ticket.remaining:
                ticket.over.set()
        await self._outbox.done(self.name, [line for subject in done for line in batch.lines[subject]])
        if self._failures:
            log.info("%s takes purges again", self.name)
            self._failures = 0
            await self._outbox.resume(self.name, time.time() + self._settings.retry_max_s)
        self.last_failure = None

    async def _put_off_rejected(self, batch: _Batch, part: Sequence[Subject], verdict: Verdict) -> None:
        """The target does not take these, whatever others it takes."""
        log.error("%s refuses to purge %s: %s", self.name, [subject.name for subject in part], verdict.detail)
        self._fail(batch.tickets, part, verdict.detail)
        for subject in part:
            lines = batch.lines[subject]
            wait_s = self._backoff_s(max(line.attempts for line in lines))
            await self._outbox.put_off(self.name, lines, time.time() + wait_s)

    async def _put_off(self, batch: _Batch, failed: Sequence[Subject], verdict: Verdict) -> None:
        """The target is not to be had: nothing more is sent for a while, unless a new purge comes."""
        log.warning("%s took no purge: %s; it goes on by itself", self.name, verdict.detail)
        wait_s = self._backoff_s(self._failures) if verdict.wait_s is None else verdict.wait_s
        self._failures += 1
        if verdict.result is Result.LIMITED:
            self._quiet_until_s = time.monotonic() + wait_s
        lines = [line for subject in failed for line in batch.lines[subject]]
        lines += [WaitingLine(subject, 1, seq, 0) for subject, seq in self._released.items()]
        # Also those that came during the call: it has just been seen what would become of theirs.
        self._fail((*batch.tickets, *self._tickets), [*failed, *self._released], verdict.detail)
        self._released.clear()
        now_s = time.time()
        await self._outbox.put_off(self.name, lines, now_s + wait_s)
        await self._outbox.put_off_all(self.name, now_s, now_s + wait_s)

    def _fail(self, tickets: Iterable[Ticket], subjects: Sequence[Subject], detail: str | None) -> None:
        """Tell those who wait for these subjects that it will take longer."""
        self.last_failure = detail
        for ticket in tickets:
            if not ticket.remaining.isdisjoint(subjects):
                ticket.failure = detail
                ticket.over.set()

    def _backoff_s(self, tries: int) -> float:
        """Half of it fixed, half of it chance ("equal jitter", AWS Architecture Blog): nodes do not come at once."""
        longest_s = min(self._settings.retry_max_s, RETRY_FIRST_S * 2.0 ** min(tries, 20))
        return longest_s / 2 + random.uniform(0, longest_s / 2)

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest purge has not been confirmed."""
        oldest_at_s = self.figures.oldest_at_s
        return max(0.0, time.time() - oldest_at_s) if oldest_at_s is not None else 0.0
