"""
The pool of render processes: a bounded queue, a deadline for every job, and a new process for one that ended.

Why not `pebble.ProcessPool`: all messages of its processes go through one pair of locks, and it unpickles what they
send. A process that is killed while idle breaks the whole pool, one that is killed while it holds a lock stops it, and
one that a picture has taken over can run code in the edge. Here each process has a socket of its own, answers in JSON
and shares nothing. If it ends, only its own job fails.

Everything runs on the event loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from imgproxy import errors
from imgproxy.workers.capacity import usable_cores
from imgproxy.workers.channel import EXIT_OUT_OF_MEMORY, EXIT_TOO_SLOW, Done, Failed, Finished, Message
from imgproxy.workers.job import Lane, ProcessLimits, RenderReport
from imgproxy.workers.process import RenderProcess
from imgproxy.workers.queue import Begin, Lanes, OnRendered, PoolObserver, Ticket
from imgproxy.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.config.sections import LimitsSettings, RenderSettings

log = logging.getLogger(__name__)

# A job whose caller has left may still finish within this time. To end it would cost a new process, which takes as long
# to start. Clients that connect and leave must not keep the pool busy with that.
ABANDON_GRACE_S: Final = 0.25

# Why a process ended by itself.
_EXITS: Final = {EXIT_OUT_OF_MEMORY: "out_of_memory", EXIT_TOO_SLOW: "timeout"}


class RenderPool:
    """
    Runs render jobs in render processes.

    A job is refused with Overloaded if its lane is full, if it waits longer than `queue_timeout_s`, or if the pool is
    closed.
    """

    def __init__(
        self,
        settings: RenderSettings,
        limits: LimitsSettings,
        *,
        observer: PoolObserver,
        face_model: str = "",
        abandon_grace_s: float = ABANDON_GRACE_S,
        process_class: type[RenderProcess] = RenderProcess,
    ) -> None:
        """`face_model` is that of ProcessLimits."""
        self._settings = settings
        self._abandon_grace_s = abandon_grace_s
        self._observer = observer
        self.processes = settings.processes or usable_cores()
        self._supervisor = Supervisor(
            self.processes,
            ProcessLimits(
                memory_bytes=settings.memory_bytes,
                source_pixels=limits.source_pixels,
                frames=limits.frames,
                output_px=limits.output_px,
                allow_truncated=settings.allow_truncated,
                drawing_cpu_s=settings.drawing_cpu_s,
                face_model=face_model,
            ),
            self._observer,
            on_message=self._receive,
            on_lost=self._lose,
            on_new=self._take_in,
            is_wanted=lambda: self._is_open or self.waiting > 0,
            process_class=process_class,
        )
        self._lanes = Lanes(self.processes)
        self._running: dict[RenderProcess, Ticket] = {}
        self._idle: list[RenderProcess] = []  # the last one is used next: its memory is still in the CPU's caches
        self._all_done = asyncio.Event()
        self._is_open = False

    # --- figures ---

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the processes that are ready."""
        return tuple(process.pid for process in (*self._running, *self._idle))

    @property
    def busy(self) -> int:
        """How many processes have a job."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a process, in all lanes."""
        return len(self._lanes)

    @property
    def restarts(self) -> int:
        """How many processes were replaced since the start."""
        return self._supervisor.restarts

    @property
    def cannot_start(self) -> bool:
        """Whether there is no process, and the last try to start one failed. A crash is not a failed start."""
        return self._supervisor.is_failing and not self.pids

    @property
    def libvips_version(self) -> str:
        """The version of libvips in the render processes; empty before the start."""
        return self._supervisor.libvips_version

    def free(self, lane: Lane) -> int:
        """How many jobs of this lane would begin at once."""
        return self._lanes.free(lane, len(self._idle))

    # --- life ---

    async def start(self) -> None:
        """
        Start every process, and wait until all are ready.

        Raises ProcessStartError if one does not start. Then all are ended.
        """
        self._is_open = True
        try:
            await self._supervisor.start()
        except BaseException:
            await self.close(0)
            raise

    async def close(self, timeout_s: float) -> None:
        """Take no more jobs, wait up to `timeout_s` for the others, then end every process."""
        self._is_open = False
        self._all_done.clear()
        if self._running or self.waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_done.wait(), timeout_s)
        for ticket in list(self._lanes):
            self._refuse(ticket)
        for ticket in self._running.values():
            ticket.end_reason = ticket.end_reason or "closed"
        await self._supervisor.close(busy=tuple(self._running), idle=tuple(self._idle))

    # --- a job ---

    async def render(
        self, begin: Begin, *, lane: Lane = Lane.VISITOR, on_rendered: OnRendered | None = None
    ) -> RenderReport:
        """
        Make the variants of a job, and return what was made. `begin` builds the job when a process begins it.

        `on_rendered` is called on the loop as soon as the file of a target is complete. The file then belongs to the
        listener. Each target has `render.timeout_s` of its own. If the call is cancelled, a waiting job leaves the
        queue; a running one may finish within `ABANDON_GRACE_S`, then its process is ended. If the call raises, the
        files that were not announced are removed as soon as the process cannot write them any more.

        Raises NotAnImage, DecodeFailed, TooManyPixels, RenderTimeout, RenderOutOfMemory, RenderCrashed, BadParameter,
        CacheUnavailable, Overloaded.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(begin, lane, loop.create_future(), on_rendered, queued_s=loop.time())
        is_full = not self.free(lane) and self._lanes.length(lane) >= self._settings.queue_max
        if not self._is_open or is_full:
            self._observer.job_ended(lane, errors.Overloaded.code, 0)
            raise errors.Overloaded(self._patience_s())
        self._lanes.add(ticket)
        self._dispatch()
        if ticket.job is None:
            _set_timer(ticket, self._settings.queue_timeout_s, self._refuse, ticket)
        try:
            return await ticket.done
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise

    def _patience_s(self) -> int:
        return max(1, math.ceil(self._settings.queue_timeout_s))

    def _take_in(self, process: RenderProcess) -> None:
        """Use a new process that is ready."""
        self._idle.append(process)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting jobs to idle processes."""
        while self._idle:
            ticket = self._lanes.next()
            if ticket is None:
                return
            self._begin(self._idle.pop(), ticket)

    def _begin(self, process: RenderProcess, ticket: Ticket) -> None:
        ticket.began_s = asyncio.get_running_loop().time()
        self._running[process] = ticket
        self._set_deadline(process, ticket)
        ticket.job = ticket.begin()
        process.give(ticket.job)

    def _set_deadline(self, process: RenderProcess, ticket: Ticket) -> None:
        _set_timer(ticket, self._settings.timeout_s, self._end, process, ticket, "timeout")

    def _end(self, process: RenderProcess, ticket: Ticket, reason: str) -> None:
        ticket.end_reason = reason
        process.kill()

    def _refuse(self, ticket: Ticket) -> None:
        """Refuse a job that has waited too long."""
        self._lanes.remove(ticket)
        self._fail(ticket, errors.Overloaded(self._patience_s()))

    def _abandon(self, ticket: Ticket) -> None:
        """Give up a job whose caller has left."""
        _stop_timer(ticket)
        if ticket in self._lanes:
            self._lanes.remove(ticket)
            self._observer.job_ended(ticket.lane, "cancelled", 0)
            return
        ticket.is_abandoned = True
        for process, running in self._running.items():
            if running is ticket:
                _set_timer(ticket, self._abandon_grace_s, self._end, process, ticket, "abandoned")

    # --- what processes say ---

    def _receive(self, process: RenderProcess, message: Message) -> None:
        ticket = self._running.get(process)
        if ticket is None:
            return  # the last message of a process that the pool has ended
        if isinstance(message, Done):
            self._announce(process, ticket, message)
        elif isinstance(message, Failed):
            # After these two the process ends itself.
            if not isinstance(message.error, (errors.RenderOutOfMemory, errors.RenderTimeout)):
                self._release(process, ticket, message.resident_bytes)
            self._fail(ticket, message.error)
        elif isinstance(message, Finished):
            self._release(process, ticket, message.resident_bytes)
            self._succeed(ticket, message)

    def _announce(self, process: RenderProcess, ticket: Ticket, message: Done) -> None:
        ticket.rendered[message.index] = message.rendered
        if ticket.is_abandoned:
            return
        assert ticket.job is not None
        if len(ticket.rendered) < len(ticket.job.targets):
            self._set_deadline(process, ticket)
        if ticket.on_rendered is not None:
            ticket.announced.add(message.index)
            ticket.on_rendered(message.index, message.rendered, ticket.began_s - ticket.queued_s)

    def _release(self, process: RenderProcess, ticket: Ticket, resident_bytes: int) -> None:
        """Free a process from its job. It becomes idle, or is replaced if it has grown too large."""
        _stop_timer(ticket)
        del self._running[process]
        self._lanes.ended(ticket.lane)
        if resident_bytes > self._settings.recycle_bytes:
            self._supervisor.let_go(process)
        else:
            self._idle.append(process)
        self._dispatch()
        self._note_if_done()

    def _succeed(self, ticket: Ticket, finished: Finished) -> None:
        report = RenderReport(
            rendered=tuple(ticket.rendered[index] for index in sorted(ticket.rendered)),
            render_s=finished.render_s,
        )
        self._observer.job_ended(ticket.lane, "cancelled" if ticket.is_abandoned else "ok", finished.peak_bytes)
        if ticket.done.done():
            ticket.remove_files()
        else:
            ticket.done.set_result(report)

    def _fail(self, ticket: Ticket, error: errors.ImgproxyError) -> None:
        _stop_timer(ticket)
        ticket.has_failed = True
        ticket.remove_files()
        self._observer.job_ended(ticket.lane, "cancelled" if ticket.is_abandoned else error.code, 0)
        if not ticket.done.done():
            ticket.done.set_exception(error)

    def _lose(self, process: RenderProcess, status: int) -> str:
        """Fail the job of a process that is gone, and return why it ended: "" if it was asked to."""
        if process in self._idle:
            self._idle.remove(process)
        ticket = self._running.pop(process, None)
        if not self._is_open and ticket is None:
            return ""
        reason = (ticket.end_reason if ticket else "") or _EXITS.get(status, "crashed")
        log.warning("render process %d ended: %s (exit status %d)", process.pid, reason, status)
        if ticket is not None:
            self._lanes.ended(ticket.lane)
            if ticket.has_failed:
                ticket.remove_files()  # it sent an error before it ended, and may have written a file after that
            else:
                self._fail(ticket, self._error_of(reason, ticket))
            self._dispatch()  # a job may have waited because its lane had its full share
        self._note_if_done()
        return reason

    def _error_of(self, reason: str, ticket: Ticket) -> errors.ImgproxyError:
        if reason == "timeout":
            elapsed_s = asyncio.get_running_loop().time() - ticket.began_s
            return errors.RenderTimeout(limit_s=self._settings.timeout_s, elapsed_s=elapsed_s)
        if reason == "out_of_memory":
            return errors.RenderOutOfMemory(self._settings.memory_bytes, self._settings.memory_bytes)
        if reason == "closed":
            return errors.Overloaded(self._patience_s())
        return errors.RenderCrashed()

    def _note_if_done(self) -> None:
        if not self._is_open and not self._running and not self.waiting:
            self._all_done.set()


def _set_timer(ticket: Ticket, after_s: float, call: Callable[..., None], *args: Any) -> None:
    """Call `call` after `after_s` seconds. A ticket has one timer, so the one before is stopped."""
    _stop_timer(ticket)
    ticket.timer = asyncio.get_running_loop().call_later(after_s, call, *args)


def _stop_timer(ticket: Ticket) -> None:
    if ticket.timer is not None:
        ticket.timer.cancel()
        ticket.timer = None
