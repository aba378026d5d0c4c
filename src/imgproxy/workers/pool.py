"""
The pool of render processes: a bounded queue in front, a deadline on every job, and a new process for one that died.

Why not `pebble.ProcessPool`: it passes every message of its processes through one pair of locks and unpickles what
they send. A process killed while idle breaks its whole pool ("All workers expired"), one killed while it holds a lock
stops it, and one taken over through a decoder can run code in the edge. Here each process has a socket of its own,
answers in JSON, and shares nothing; its death costs its own job.

Everything runs on the event loop, so no state here needs a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from imgproxy import errors
from imgproxy.admission.cost import CostModel
from imgproxy.admission.policy import Admission
from imgproxy.workers.capacity import usable_cores
from imgproxy.workers.channel import EXIT_OUT_OF_MEMORY, Done, Failed, Finished, Message
from imgproxy.workers.job import Lane, ProcessLimits, RenderJob, RenderReport
from imgproxy.workers.lanes import Lanes
from imgproxy.workers.processes import Crew
from imgproxy.workers.ticket import OnRendered, PoolObserver, SilentObserver, Ticket

if TYPE_CHECKING:
    from imgproxy.config.sections import LimitsSettings, RenderSettings
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.job import RenderTarget
    from imgproxy.workers.process import RenderProcess

log = logging.getLogger(__name__)

# A render nobody waits for any more may still finish within this time: ending it costs a new process, which takes as
# long, and clients that connect and leave must not be able to make the pool do nothing but start processes.
ABANDON_GRACE_S: Final = 0.25


class RenderPool:
    """
    Runs render jobs in isolated processes.

    `start` returns when every process is warm; each has the descriptors `inherited` under their numbers. `render`
    raises ImageRefused errors for the picture, Overloaded when the queue is full, the wait too long, or the pool is
    closing.
    """

    def __init__(
        self,
        settings: RenderSettings,
        limits: LimitsSettings,
        *,
        observer: PoolObserver | None = None,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self._settings = settings
        process_limits = ProcessLimits(
            memory_bytes=settings.memory_bytes,
            source_pixels=limits.source_pixels,
            frames=limits.frames,
            output_px=limits.output_px,
            allow_truncated=settings.allow_truncated,
        )
        self._observer: PoolObserver = observer or SilentObserver()
        self._size = settings.processes or usable_cores()
        self._crew = Crew(
            self._size,
            process_limits,
            inherited,
            self._observer,
            on_message=self._heard,
            on_lost=self._lost,
            on_new=self._dispatch,
            is_wanted=lambda: self._is_open or self.waiting > 0,
        )
        self._lanes = Lanes(self._size, settings)
        self._running: dict[RenderProcess, Ticket] = {}
        self._all_done: asyncio.Event = asyncio.Event()
        self._is_open = False
        self._costs = CostModel()
        self._admission = Admission(settings, self._costs, self._size)

    # --- what it is doing now ---

    @property
    def processes(self) -> int:
        """How many render processes the pool keeps."""
        return self._size

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the render processes that are ready."""
        return (*(process.pid for process in self._running), *self._crew.idle_pids)

    @property
    def busy(self) -> int:
        """How many processes have a job."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many variants wait for a process, in all lanes: a job may hold many, and each is a render to wait for."""
        return sum(map(self._lanes.variants, Lane))

    @property
    def restarts(self) -> int:
        """How many processes were replaced since the start, for whatever reason."""
        return self._crew.restarts

    @property
    def is_saturated(self) -> bool:
        """Whether one more job of a visitor would be shed."""
        return not self._crew.idle and (
            self._lanes.variants(Lane.VISITOR) >= self._settings.queue_max
            or self.expected_wait_s > self._settings.queue_timeout_s
        )

    @property
    def is_overloaded(self) -> bool:
        """Whether the queue stands: more has come for a while than can be made."""
        return self._admission.stands(asyncio.get_running_loop().time())

    def sheds(self, coming: int, fetch_s: float = 0.0, *, is_here: bool = False) -> bool:
        """
        Whether to refuse a visitor, whose picture would have to be fetched first or `is_here`.

        `coming` are the jobs of visitors under way, from their fetch to their end, `fetch_s` what a fetch takes. The
        answers are what tells a burst from an overload.
        """
        begun_s = [ticket.started_at for ticket in self._running.values() if ticket.lane is not Lane.STAND_IN]
        is_admitted = self._admission.admits(
            coming, fetch_s, asyncio.get_running_loop().time(), begun_s, is_here=is_here
        )
        if is_admitted and not self.is_saturated:
            return False
        self._observer.job_ended(Lane.VISITOR, "overloaded", queue_s=0.0, render_s=0.0, peak_bytes=0)
        return True

    def enough(self, fetch_s: float) -> int:
        """How many pictures under way keep every process busy, where a fetch takes `fetch_s`."""
        return self._admission.enough(fetch_s)

    def is_late(self, waited_s: float) -> bool:
        """Whether a visitor who has waited this long for a fetch is to be refused rather than fetched for."""
        return self._admission.is_late(waited_s, asyncio.get_running_loop().time())

    def free(self, lane: Lane) -> int:
        """How many jobs of this lane would begin at once."""
        return self._lanes.free(lane, self._crew.idle)

    @property
    def expected_wait_s(self) -> float:
        """How long a job that comes now is expected to wait, by the cost of those before it."""
        return self._costs.seconds(sum(ticket.cost_units for ticket in self._lanes)) / self._size

    def worth_units(self, plan: RenderPlan, original_bytes: int, name: str) -> float:
        """What it may cost at most to reduce a larger variant in place of this render, see `render.cost`."""
        return self._costs.worth_units(plan, original_bytes, name, within_s=self._lanes.patience_s(Lane.STAND_IN))

    @property
    def libvips_version(self) -> str:
        """The version of libvips that the render processes have loaded; empty before the start."""
        return self._crew.libvips_version

    # --- life ---

    async def start(self) -> None:
        """
        Start every process and wait until all are warm.

        Raises ProcessStartError when one does not come up: then none is left running.
        """
        self._is_open = True
        try:
            await self._crew.start()
        except BaseException:
            await self.close(0)
            raise

    async def close(self, timeout_s: float) -> None:
        """
        Take no more jobs, let those in hand finish for up to `timeout_s`, then end every process.

        Jobs still unfinished then raise Overloaded.
        """
        self._is_open = False
        self._all_done.clear()
        if self._running or self.waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_done.wait(), timeout_s)
        for ticket in list(self._lanes):  # none is left to want a process in place of those that are ended now
            self._turn_away(ticket)
        for ticket in self._running.values():
            ticket.end_reason = ticket.end_reason or "closed"
        await self._crew.close(tuple(self._running))

    # --- a job ---

    async def render(
        self,
        job: RenderJob,
        *,
        lane: Lane = Lane.VISITOR,
        on_rendered: OnRendered | None = None,
        came_at: float | None = None,
    ) -> RenderReport:
        """
        Make the job's variants and return what was made. `came_at`: see Ticket.

        `on_rendered(index, rendered, queue_s)` is called on the loop as soon as that target's file is whole; each
        target has `render.timeout_s` of its own. Cancelling takes a waiting job out of the queue; a running one gets
        a quarter of a second to finish, then its process is ended. Whenever this raises, the targets' files are
        removed, after the process can no longer write them, but for those that were announced: they are the listener's.

        Raises NotAnImage, DecodeFailed, TooManyPixels, RenderTimeout, RenderOutOfMemory, RenderCrashed, BadParameter,
        CacheUnavailable, Overloaded.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(job, lane, loop.create_future(), on_rendered, queued_at=loop.time(), came_at=came_at)
        ticket.cost_units = self._costs.units_of(job)
        self._admit(ticket)
        self._dispatch()
        if ticket.timer is None and not ticket.is_over:
            ticket.timer = loop.call_later(self._lanes.patience_s(lane), self._turn_away, ticket)
        try:
            return await ticket.done
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise

    def _admit(self, ticket: Ticket) -> None:
        # Too many, or too much: a job that would time out in the queue is told so at once.
        has_room = self.free(ticket.lane) or self._lanes.has_room(ticket.lane, self.expected_wait_s)
        if not self._is_open or not has_room:
            self._observer.job_ended(ticket.lane, "overloaded", queue_s=0.0, render_s=0.0, peak_bytes=0)
            raise errors.Overloaded(self.retry_after_s())
        self._lanes.add(ticket)

    def waits(self, job: RenderJob, lane: Lane) -> bool:
        """Whether this job waits for a process."""
        return self._lanes.of_job(job, lane) is not None

    def widen(self, job: RenderJob, lane: Lane, target: RenderTarget) -> RenderJob | None:
        """
        Have one more variant made by a job that waits for a process; `on_rendered` hears of it as of the others.

        Returns the job as it is now, or None where this one no longer waits, or the queue is full.
        """
        ticket = self._lanes.of_job(job, lane)
        if ticket is None or self._lanes.variants(lane) >= self._settings.queue_max:
            return None
        ticket.job = replace(job, targets=(*job.targets, target))
        ticket.cost_units = self._costs.units_of(ticket.job)
        return ticket.job

    def _dispatch(self) -> None:
        """Give waiting jobs to idle processes."""
        while self._crew.idle:
            self._drop_late()
            ticket = self._lanes.next()
            if ticket is None:
                return
            self._begin(self._crew.take(), ticket)

    def _drop_late(self) -> None:
        """Where the queue stands, those that came in while it looked like a burst have waited long enough."""
        now_s = asyncio.get_running_loop().time()
        while (ticket := self._lanes.first(Lane.VISITOR)) is not None:
            if not self._admission.is_hopeless(ticket.came_at, ticket.queued_at, now_s):
                return
            self._turn_away(ticket)

    def _begin(self, process: RenderProcess, ticket: Ticket) -> None:
        ticket.stop_timer()
        ticket.started_at = asyncio.get_running_loop().time()
        self._running[process] = ticket
        self._lanes.begun(ticket.lane)
        if ticket.job.lent is not None:
            ticket.job.lent.borrow()
        self._set_deadline(process, ticket)
        process.give(ticket.job)

    def _set_deadline(self, process: RenderProcess, ticket: Ticket) -> None:
        ticket.stop_timer()
        loop = asyncio.get_running_loop()
        ticket.timer = loop.call_later(self._lanes.limit_s(ticket.lane), self._end, process, ticket, "timeout")

    def _end(self, process: RenderProcess, ticket: Ticket, reason: str) -> None:
        ticket.end_reason = reason
        process.kill()

    def _turn_away(self, ticket: Ticket) -> None:
        """The job has waited too long, or would: shed it."""
        self._lanes.remove(ticket)
        self._fail(ticket, errors.Overloaded(self.retry_after_s()))

    def _abandon(self, ticket: Ticket) -> None:
        """Nobody waits for this job any more."""
        if ticket in self._lanes:
            ticket.stop_timer()
            self._lanes.remove(ticket)
            self._count(ticket, "cancelled")
            return
        ticket.is_abandoned = True
        for process, running in self._running.items():
            if running is ticket:
                ticket.stop_timer()
                loop = asyncio.get_running_loop()
                ticket.timer = loop.call_later(ABANDON_GRACE_S, self._end, process, ticket, "abandoned")

    # --- what processes say ---

    def _heard(self, process: RenderProcess, message: Message) -> None:
        ticket = self._running.get(process)
        if ticket is None:
            return  # a last word of a process that was ended already
        if isinstance(message, Done):
            ticket.rendered[message.index] = message.rendered
            if not ticket.is_abandoned:
                if len(ticket.rendered) < len(ticket.job.targets):
                    self._set_deadline(process, ticket)
                if ticket.on_rendered is not None:
                    ticket.announced.add(message.index)
                    ticket.on_rendered(message.index, message.rendered, ticket.started_at - ticket.queued_at)
        elif isinstance(message, Failed):
            if not isinstance(message.error, errors.RenderOutOfMemory):
                self._release(process, ticket, message.resident_bytes)
            self._fail(ticket, message.error)
        elif isinstance(message, Finished):
            self._release(process, ticket, message.resident_bytes)
            self._succeed(ticket, message)

    def _has_ended(self, ticket: Ticket) -> None:
        """No process has this job any more, nor reads its original."""
        self._lanes.ended(ticket.lane)
        if ticket.job.lent is not None:
            ticket.job.lent.give_back()

    def _release(self, process: RenderProcess, ticket: Ticket, resident_bytes: int) -> None:
        """Take a process off its job, back to the idle, or on its way out where it has grown too large."""
        ticket.stop_timer()
        del self._running[process]
        self._has_ended(ticket)
        if resident_bytes > self._settings.recycle_bytes:
            self._crew.let_go(process)
        else:
            self._crew.give_back(process)
        self._dispatch()  # before the books are kept: no one waits for those as a process does
        self._note_if_done()

    def _succeed(self, ticket: Ticket, finished: Finished) -> None:
        now = asyncio.get_running_loop().time()
        if ticket.lane is not Lane.STAND_IN:  # or visitors' own pictures would be thought to be as quick
            self._costs.job_ended(ticket.job, finished.source, now - ticket.started_at)
        report = RenderReport(
            rendered=tuple(ticket.rendered[index] for index in sorted(ticket.rendered)),
            source=finished.source,
            queue_s=ticket.started_at - ticket.queued_at,
            open_s=finished.open_s,
            render_s=finished.render_s,
            peak_bytes=finished.peak_bytes,
        )
        self._count(ticket, "cancelled" if ticket.is_abandoned else "ok", report)
        if ticket.done.done():
            ticket.remove_files()
        else:
            ticket.done.set_result(report)

    def _fail(self, ticket: Ticket, error: errors.ImgproxyError) -> None:
        ticket.stop_timer()
        ticket.is_over = True
        ticket.remove_files()
        self._count(ticket, "cancelled" if ticket.is_abandoned else error.code)
        if not ticket.done.done():
            ticket.done.set_exception(error)

    def _count(self, ticket: Ticket, outcome: str, report: RenderReport | None = None) -> None:
        self._observer.job_ended(
            ticket.lane,
            outcome,
            queue_s=(ticket.started_at or asyncio.get_running_loop().time()) - ticket.queued_at,
            render_s=report.open_s + report.render_s if report else 0.0,
            peak_bytes=report.peak_bytes if report else 0,
        )

    def _lost(self, process: RenderProcess, status: int) -> str:
        """A process is gone: say why, and what that means for its job."""
        ticket = self._running.pop(process, None)
        if ticket is not None:
            self._has_ended(ticket)
        if not self._is_open and ticket is None:
            return ""  # it was asked to
        reason = (ticket.end_reason if ticket else "") or (
            "out_of_memory" if status == EXIT_OUT_OF_MEMORY else "crashed"
        )
        log.warning("render process %d ended: %s (exit status %d)", process.pid, reason, status)
        if ticket is not None:
            self._fail_ended(ticket, reason)
            self._dispatch()  # another may have waited for its lane's share
        self._note_if_done()
        return reason

    def _fail_ended(self, ticket: Ticket, reason: str) -> None:
        if ticket.is_over:
            ticket.remove_files()  # it said why before it ended
            return
        elapsed_s = asyncio.get_running_loop().time() - ticket.started_at
        limits = self._settings
        error: errors.ImgproxyError = errors.RenderCrashed()
        if reason == "timeout":
            error = errors.RenderTimeout(limit_s=self._lanes.limit_s(ticket.lane), elapsed_s=elapsed_s)
        elif reason == "out_of_memory":
            error = errors.RenderOutOfMemory(limits.memory_bytes, limits.memory_bytes)
        elif reason == "closed":
            error = errors.Overloaded(self.retry_after_s())
        self._fail(ticket, error)

    def _note_if_done(self) -> None:
        if not self._running and not self.waiting:
            self._all_done.set()

    def retry_after_s(self) -> int:
        """Seconds until the queue has drained, with jitter so that those shed together do not return together."""
        return self._admission.retry_after_s(sum(1 for _ in self._lanes))
