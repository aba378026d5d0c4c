"""
The queue of one cache in front: everything it has to purge, until it has confirmed.

    subjects that a purge released  +  lines of the outbox that are due  ->  calls  ->  lines deleted, or put off

A released subject is sent at once, also after failures. Only the target's rate limit and its Retry-After delay it.
After a failure the wait doubles, with jitter, up to `retry_max_s`. Tries never end. The first success makes all lines
due that failed before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from imgproxy.cache.outbox import EVERYTHING, OutboxFigures, OutboxLine, Subject, WaitingLine
from imgproxy.purge.downstream.calls import CallResult, Coverage, Send, Verdict
from imgproxy.purge.receipts import DownstreamState
from imgproxy.telemetry import traces
from imgproxy.telemetry.outages import Outage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from aiolimiter import AsyncLimiter

    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
# An idle queue looks into the outbox this often: for lines that were never released, and after jumps of the clock.
IDLE_S = 10.0


class TargetSettings(Protocol):
    """The settings that a queue needs: the target's name and kind, and times. See DownstreamSettings."""

    @property
    def label(self) -> str:
        """Its name in receipts, metrics and the journal."""

    @property
    def kind(self) -> str:
        """Its kind in receipts."""

    @property
    def timeout_s(self) -> float:
        """A call that takes longer has failed."""

    @property
    def wait_s(self) -> float:
        """A receipt waits this long for it."""

    @property
    def retry_max_s(self) -> float:
        """Longest wait between tries."""


class QueueOutbox(Protocol):
    """What a queue needs of an outbox: that of this service, or that of its cluster. See `Outbox`."""

    async def due(self, target: str, now_s: float, count: int) -> tuple[WaitingLine, ...]:
        """Return at most `count` lines that are due, the longest overdue first."""

    async def figures(self, target: str) -> OutboxFigures:
        """Return the figures of a target."""

    async def done(self, target: str, lines: Sequence[WaitingLine]) -> None:
        """Delete lines that the target has confirmed."""

    async def put_off(self, target: str, lines: Sequence[WaitingLine], due_at_s: float) -> None:
        """Note that these lines failed."""

    async def put_off_all(self, target: str, now_s: float, due_at_s: float) -> None:
        """Make the lines that are due now due later."""

    async def resume(self, target: str, due_before_s: float) -> None:
        """Make lines that failed before due at once."""


@dataclass(eq=False, slots=True)
class Confirmation:
    """What one purge waits for. `remaining`: not confirmed yet. `failure`: why it takes longer."""

    remaining: set[Subject]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None


@dataclass(slots=True)
class _Dispatch:
    """What is sent at once: the lines of each subject, and the confirmations that were awaited by then."""

    lines: dict[Subject, list[WaitingLine]]
    confirmations: tuple[Confirmation, ...]


class TargetQueue:
    """The purges that one target has to confirm."""

    def __init__(
        self,
        settings: TargetSettings,
        coverage: Coverage,
        outbox: QueueOutbox,
        send: Send,
        *,
        held_s: float,
        again_after_s: float,
        metrics: Metrics,
        limiter: AsyncLimiter | None = None,
    ) -> None:
        """
        Set up the queue of one target.

        Args:
            settings: of the target.
            coverage: what it can purge, and how much in a call.
            outbox: has what it did not confirm yet.
            send: makes the calls.
            held_s: a purge releases its lines within this time. Later they are sent anyway: its process has crashed.
            again_after_s: round 2 is due this long after the purge was recorded. 0: there is no round 2.
            metrics: counts calls and lines.
            limiter: the target's rate limit. Such a target has a concurrency of 1.
        """
        self.name = settings.label
        self.kind = settings.kind
        self._settings = settings
        self._coverage = coverage
        self._outbox = outbox
        self._send = send
        self._held_s = held_s
        self._again_after_s = again_after_s
        self._metrics = metrics
        self._limiter = limiter
        self._released: dict[Subject, int] = {}  # with the number of the purge
        self._confirmations: set[Confirmation] = set()
        self._news = asyncio.Event()
        self._failures = 0
        self._outage = Outage(f"purging in {self.name}")
        self._quiet_until_s = 0.0  # monotonic; from the target's Retry-After
        self.last_failure: str | None = None
        self.figures = OutboxFigures(0, None, None)
        self._task: asyncio.Task[None] | None = None
        metrics.outbox_lines.labels(target=self.name).set_function(lambda: self.figures.lines)
        metrics.outbox_oldest_age_s.labels(target=self.name).set_function(lambda: self.oldest_age_s)

    async def start(self) -> None:
        """Read the figures of the outbox, and begin to send."""
        self.figures = await self._outbox.figures(self.name)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop. The next run repeats calls that were under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def takes_keys(self) -> bool:
        """Whether the target can be told to forget a single key."""
        return self._coverage.covers(Subject(""))

    # --- for purges --------------------------------------------------------------------------------------------

    def lines(self, subjects: Iterable[Subject]) -> list[OutboxLine]:
        """Make the lines that the journal keeps for these subjects until the target has confirmed both rounds."""
        now_s = time.time()
        covered = [subject for subject in dict.fromkeys(subjects) if self._coverage.covers(subject)]
        rounds = [(1, now_s + self._held_s)]
        if self._again_after_s > 0:
            rounds.append((2, now_s + self._again_after_s))
        return [OutboxLine(self.name, subject, number, due_at_s) for number, due_at_s in rounds for subject in covered]

    def told_later(self, detail: str) -> DownstreamState:
        """Return the state of a purge that this target is told of later."""
        return DownstreamState(self.name, self.kind, "pending", detail)

    async def send(self, subjects: Collection[Subject], seq: int) -> DownstreamState:
        """Release what purge `seq` has recorded, and wait for the confirmation, at most `wait_s`."""
        covered = self.release(subjects, seq)
        if not covered and EVERYTHING in subjects:
            return DownstreamState(
                self.name, self.kind, "skipped", "it cannot be told to forget everything: purge it there"
            )
        if not covered:
            return DownstreamState(self.name, self.kind, "done", "nothing of this is purged there")
        confirmation = Confirmation(covered)
        self._confirmations.add(confirmation)
        try:
            async with asyncio.timeout(self._settings.wait_s):
                await self._release(confirmation, seq)
        except TimeoutError:
            reason = confirmation.failure or self.last_failure or f"no answer within {self._settings.wait_s:g} s"
            return DownstreamState(self.name, self.kind, "pending", reason)
        finally:
            self._confirmations.discard(confirmation)
        if confirmation.failure is not None:
            return DownstreamState(self.name, self.kind, "pending", confirmation.failure)
        again = f"again {self._again_after_s:g} s after the purge" if self._again_after_s > 0 else None
        return DownstreamState(self.name, self.kind, "done", again)

    def release(self, subjects: Iterable[Subject], seq: int) -> set[Subject]:
        """Let the loop send what purge `seq` has recorded. Return what of it this target can purge."""
        covered = {subject for subject in subjects if self._coverage.covers(subject)}
        self._released.update({subject: max(seq, self._released.get(subject, 0)) for subject in covered})
        if covered:
            self._news.set()
        return covered

    async def _release(self, confirmation: Confirmation, seq: int) -> None:
        """Release the subjects of a purge. Return when they are confirmed, or it has failed."""
        self.release(confirmation.remaining, seq)
        await confirmation.ended.wait()

    # --- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except asyncio.CancelledError:
                raise
            except Exception:
                # For example, the journal cannot be written. Calls that were sent are sent again.
                log.exception("purges of %s are held up", self.name)
                await asyncio.sleep(self._settings.retry_max_s)

    async def _work(self) -> None:
        await self._wait_for_work()
        await self._wait_for_permission()
        await self._deliver(await self._collect())
        self.figures = await self._outbox.figures(self.name)

    async def _wait_for_work(self) -> None:
        """Wait until a purge releases a subject, or a line of the outbox is due."""
        while True:
            self._news.clear()
            now_s = time.time()
            if self._released or await self._outbox.due(self.name, now_s, 1):
                return
            self.figures = await self._outbox.figures(self.name)
            next_due_s = self.figures.next_due_s
            wait_s = IDLE_S if next_due_s is None else min(IDLE_S, max(0.0, next_due_s - now_s))
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _wait_for_permission(self) -> None:
        """Wait for the end of a Retry-After, and for the rate limit. Subjects released meanwhile go along."""
        await asyncio.sleep(self._quiet_until_s - time.monotonic())
        if self._limiter is not None:
            await self._limiter.acquire()

    async def _collect(self) -> _Dispatch:
        """Take as many subjects as one dispatch sends: released ones first, then due lines."""
        limit = self._coverage.subjects_max * self._coverage.concurrency
        lines: dict[Subject, list[WaitingLine]] = {}
        while self._released and len(lines) < limit:
            subject = next(iter(self._released))
            lines[subject] = [WaitingLine(subject, 1, self._released.pop(subject), 0)]
        confirmations = tuple(self._confirmations)
        if len(lines) < limit:
            for line in await self._outbox.due(self.name, time.time(), limit - len(lines)):
                lines.setdefault(line.subject, []).append(line)
        return _Dispatch(lines, confirmations)

    async def _deliver(self, dispatch: _Dispatch) -> None:
        """Send a dispatch in as many calls as it needs, and record the result of each."""
        subjects = list(dispatch.lines)
        size = self._coverage.subjects_max
        parts = [subjects[at : at + size] for at in range(0, len(subjects), size)]
        outcomes = [
            outcome
            for part_outcomes in await asyncio.gather(*(self._send_part(part) for part in parts))
            for outcome in part_outcomes
        ]
        done = [subject for part, verdict in outcomes for subject in part if verdict.result is CallResult.DONE]
        if done:
            await self._confirm(dispatch, done)
        failed: list[Subject] = []
        failure = None
        for part, verdict in outcomes:
            if verdict.result is CallResult.REJECTED:
                await self._put_off_rejected(dispatch, part, verdict)
            elif verdict.result is not CallResult.DONE:
                failed += part
                failure = verdict
        if failure is not None:
            await self._put_off(dispatch, failed, failure)

    async def _send_part(self, part: Sequence[Subject]) -> list[tuple[Sequence[Subject], Verdict]]:
        """Send one call. A rejected call is sent again by halves, so that one subject does not stop the others."""
        with traces.call("purge CDN", target=self._settings.label, subjects=len(part)):
            verdict = await self._send(part, timeout_s=self._settings.timeout_s)
            is_done = verdict.result is CallResult.DONE
            traces.note({"result": str(verdict.result), "detail": verdict.detail}, is_error=not is_done)
        self._metrics.downstream_purges.labels(target=self.name, result=verdict.result).inc()
        if verdict.result is not CallResult.REJECTED or len(part) == 1:
            return [(part, verdict)]
        outcomes = []
        for half in (part[: len(part) // 2], part[len(part) // 2 :]):
            if self._limiter is not None:
                await self._limiter.acquire()
            outcomes += await self._send_part(half)
        return outcomes

    async def _confirm(self, dispatch: _Dispatch, done: list[Subject]) -> None:
        """The target has purged these subjects."""
        for confirmation in dispatch.confirmations:
            confirmation.remaining.difference_update(done)
            if not confirmation.remaining:
                confirmation.ended.set()
        await self._outbox.done(self.name, [line for subject in done for line in dispatch.lines[subject]])
        self._outage.worked()
        if self._failures:
            self._failures = 0
            await self._outbox.resume(self.name, time.time() + self._settings.retry_max_s)
        self.last_failure = None

    async def _put_off_rejected(self, dispatch: _Dispatch, part: Sequence[Subject], verdict: Verdict) -> None:
        """The target rejects these subjects. It may accept others."""
        log.error("%s refuses to purge %s: %s", self.name, [subject.name for subject in part], verdict.detail)
        self._fail(dispatch.confirmations, part, verdict.detail)
        for subject in part:
            lines = dispatch.lines[subject]
            wait_s = self._backoff_s(max(line.attempts for line in lines))
            await self._outbox.put_off(self.name, lines, time.time() + wait_s)

    async def _put_off(self, dispatch: _Dispatch, failed: Sequence[Subject], verdict: Verdict) -> None:
        """The target itself fails. Nothing more is sent for a while, unless a new purge comes."""
        self._outage.failed(verdict.detail or "no reason was given", consequence="its purges are tried again")
        wait_s = self._backoff_s(self._failures) if verdict.wait_s is None else verdict.wait_s
        self._failures += 1
        if verdict.result is CallResult.LIMITED:
            self._quiet_until_s = time.monotonic() + wait_s
        lines = [line for subject in failed for line in dispatch.lines[subject]]
        lines += [WaitingLine(subject, 1, seq, 0) for subject, seq in self._released.items()]
        # Subjects released during the call are put off as well: a call for them would fail the same way.
        self._fail((*dispatch.confirmations, *self._confirmations), [*failed, *self._released], verdict.detail)
        self._released.clear()
        now_s = time.time()
        await self._outbox.put_off(self.name, lines, now_s + wait_s)
        await self._outbox.put_off_all(self.name, now_s, now_s + wait_s)

    def _fail(self, confirmations: Iterable[Confirmation], subjects: Sequence[Subject], detail: str | None) -> None:
        """End the waits for these subjects: their purge is pending."""
        self.last_failure = detail
        for confirmation in confirmations:
            if not confirmation.remaining.isdisjoint(subjects):
                confirmation.failure = detail
                confirmation.ended.set()

    def _backoff_s(self, tries: int) -> float:
        """Return a wait: one half fixed, one half random ("equal jitter", AWS Architecture Blog)."""
        longest_s = min(self._settings.retry_max_s, RETRY_FIRST_S * 2.0 ** min(tries, 20))
        return longest_s / 2 + random.uniform(0, longest_s / 2)

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest purge has not been confirmed."""
        oldest_at_s = self.figures.oldest_at_s
        return max(0.0, time.time() - oldest_at_s) if oldest_at_s is not None else 0.0
