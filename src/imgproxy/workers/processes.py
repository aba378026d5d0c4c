"""
The crew: the render processes of a pool, as many as it wants, each warm before it works and replaced when it ends.

It knows nothing of jobs. The pool takes a process that is idle, and gives it back, or lets it go where it has grown too
large; of one that ends by itself the pool says what that meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from imgproxy.render.own_core import cores_to_own
from imgproxy.workers.process import ProcessStartError, RenderProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.workers.channel import Message
    from imgproxy.workers.job import ProcessLimits
    from imgproxy.workers.ticket import PoolObserver

log = logging.getLogger(__name__)

# A process that cannot be started is tried again after this time, doubling up to the maximum.
RESTART_FIRST_S: Final = 0.05
RESTART_MAX_S: Final = 5.0
# One that was asked to end, and does not, is killed.
END_TIMEOUT_S: Final = 1.0


class Crew:
    """
    Keeps `size` render processes, each with the descriptors `inherited`.

    `on_message` hears what a process says of its job; `on_lost` hears that a process ended unasked, with its exit
    status, and returns why, for the metrics, or "" where that is no loss; `on_new` hears that another is idle;
    `is_wanted` says whether there is work for one more.
    """

    def __init__(  # noqa: PLR0917 - all that it tells, and whom
        self,
        size: int,
        limits: ProcessLimits,
        inherited: tuple[int, ...],
        observer: PoolObserver,
        on_message: Callable[[RenderProcess, Message], None],
        on_lost: Callable[[RenderProcess, int], str],
        on_new: Callable[[], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        self.size = size
        self._limits = limits
        self._inherited = inherited
        self._observer = observer
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_new = on_new
        self._is_wanted = is_wanted
        self._idle: deque[RenderProcess] = deque()
        self._retiring: set[RenderProcess] = set()
        self._launches: set[asyncio.Task[None]] = set()
        self._cores = cores_to_own(size)
        self._core_of: dict[RenderProcess, int] = {}
        self.restarts = 0  # processes replaced since the start, for whatever reason
        self.libvips_version = ""  # what they have loaded; empty before the start

    @property
    def idle(self) -> int:
        """How many processes have nothing to do."""
        return len(self._idle)

    @property
    def idle_pids(self) -> tuple[int, ...]:
        """Their process ids."""
        return tuple(process.pid for process in self._idle)

    async def start(self) -> None:
        """
        Start every process and wait until all are warm.

        Raises ProcessStartError when one does not come up; the others are there, and it takes `close` to end them.
        """
        started = await asyncio.gather(*(self._start_process() for _ in range(self.size)), return_exceptions=True)
        self._idle.extend(process for process in started if isinstance(process, RenderProcess))
        failed = next((error for error in started if isinstance(error, BaseException)), None)
        if failed is not None:
            raise failed

    async def close(self, busy: tuple[RenderProcess, ...]) -> None:
        """End every process: those that are busy at once, the others as they are asked to."""
        for launch in self._launches:
            launch.cancel()
        for process in busy:
            process.kill()
        asked = [*self._idle, *self._retiring]
        for process in asked:
            process.dismiss()
        await asyncio.gather(*self._launches, return_exceptions=True)
        gone = [asyncio.create_task(process.gone()) for process in (*busy, *asked)]
        if gone:
            await asyncio.wait(gone, timeout=END_TIMEOUT_S)
            for process in asked:
                process.kill()
            await asyncio.wait(gone)

    def take(self) -> RenderProcess:
        """Take the idle process that worked last: its caches are the warmest."""
        return self._idle.pop()

    def give_back(self, process: RenderProcess) -> None:
        """A process is idle again."""
        self._idle.append(process)

    def let_go(self, process: RenderProcess) -> None:
        """Replace a process that has no job and is too large; its end is no loss."""
        self._retiring.add(process)
        self._replace("recycled")
        process.dismiss()

    def _exited(self, process: RenderProcess, status: int) -> None:
        self._core_of.pop(process, None)
        if process in self._retiring:
            self._retiring.discard(process)
            return
        with contextlib.suppress(ValueError):
            self._idle.remove(process)
        reason = self._on_lost(process, status)
        if reason:
            self._replace(reason)

    def _replace(self, reason: str) -> None:
        self._observer.process_ended(reason)
        if not self._is_wanted():
            return
        self.restarts += 1
        launch = asyncio.create_task(self._launch())
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _launch(self) -> None:
        """Start a process, for as long as it takes, and put it to work."""
        pause_s = RESTART_FIRST_S
        while True:
            try:
                self._idle.append(await self._start_process())
            except (ProcessStartError, OSError) as exc:
                log.error("render process could not be started: %s", exc)  # noqa: TRY400 - no traceback of ours helps
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RESTART_MAX_S)
            else:
                self._on_new()
                return

    async def _start_process(self) -> RenderProcess:
        core = self._least_used_core()
        process = RenderProcess(self._on_message, self._exited, core, self._inherited)
        if core is not None:
            self._core_of[process] = core
        try:
            self.libvips_version = await process.start(self._limits)
        except BaseException:
            self._core_of.pop(process, None)
            raise
        return process

    def _least_used_core(self) -> int | None:
        """A core that has no process; for a moment it has two where one that is let go ends beside its successor."""
        used = list(self._core_of.values())
        return min(self._cores, key=used.count, default=None)
