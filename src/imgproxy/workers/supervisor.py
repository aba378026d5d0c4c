"""
The supervisor: it keeps a fixed number of render processes. It starts them, and replaces those that end.

It knows nothing of jobs. The pool sends jobs to the processes, and lets a process go that has grown too large.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from imgproxy.workers.process import ProcessStartError, RenderProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from imgproxy.workers.channel import Message
    from imgproxy.workers.job import ProcessLimits
    from imgproxy.workers.queue import PoolObserver

log = logging.getLogger(__name__)

# The pause before the next try if a process could not be started. It doubles up to the maximum.
RESTART_FIRST_S: Final = 0.05
RESTART_MAX_S: Final = 5.0
# A process that was asked to end is killed after this time.
END_TIMEOUT_S: Final = 1.0


class Supervisor:
    """
    Keeps `size` render processes.

    `on_new` is called with each process that is ready, and `on_message` with each message about a job. `on_lost` is
    called with a process that ended and its exit status; it returns the reason for the metrics, or "" if the process
    was asked to end. `is_wanted` tells whether a process that ended has to be replaced.
    """

    def __init__(  # noqa: PLR0917 - the callbacks
        self,
        size: int,
        limits: ProcessLimits,
        observer: PoolObserver,
        on_message: Callable[[RenderProcess, Message], None],
        on_lost: Callable[[RenderProcess, int], str],
        on_new: Callable[[RenderProcess], None],
        is_wanted: Callable[[], bool],
        process_class: type[RenderProcess] = RenderProcess,
    ) -> None:
        self.size = size
        self._limits = limits
        self._observer = observer
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_new = on_new
        self._is_wanted = is_wanted
        self._process_class = process_class
        self._retiring: set[RenderProcess] = set()
        self._launches: set[asyncio.Task[None]] = set()
        self.restarts = 0  # processes replaced since the start
        self.is_failing = False  # the last try to replace a process failed
        self.libvips_version = ""  # empty before the start

    async def start(self) -> None:
        """
        Start every process, and wait until all are ready. The first one warns if there are no fonts.

        Raises ProcessStartError if one does not start. `close` then ends the others.
        """
        started = await asyncio.gather(
            *(self._start_process(warns_of_fonts=number == 0) for number in range(self.size)), return_exceptions=True
        )
        for process in started:
            if isinstance(process, RenderProcess):
                self._on_new(process)
        failed = next((error for error in started if isinstance(error, BaseException)), None)
        if failed is not None:
            raise failed

    async def close(self, *, busy: Collection[RenderProcess], idle: Collection[RenderProcess]) -> None:
        """End every process: kill the busy ones, and ask the others to end."""
        for launch in self._launches:
            launch.cancel()
        for process in busy:
            process.kill()
        asked = [*idle, *self._retiring]
        for process in asked:
            process.dismiss()
        await asyncio.gather(*self._launches, return_exceptions=True)
        gone = [asyncio.create_task(process.gone()) for process in (*busy, *asked)]
        if gone:
            await asyncio.wait(gone, timeout=END_TIMEOUT_S)
            for process in asked:
                process.kill()
            await asyncio.wait(gone)

    def let_go(self, process: RenderProcess) -> None:
        """Replace a process that has no job and has grown too large."""
        self._retiring.add(process)
        self._replace("recycled")
        process.dismiss()

    def _exited(self, process: RenderProcess, status: int) -> None:
        if process in self._retiring:
            self._retiring.discard(process)
            return
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
        """Start a process; try until it starts."""
        pause_s = RESTART_FIRST_S
        while True:
            try:
                process = await self._start_process()
            except (ProcessStartError, OSError) as exc:
                self.is_failing = True
                log.error("render process could not be started: %s", exc)  # noqa: TRY400 - no traceback of ours helps
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RESTART_MAX_S)
            else:
                self.is_failing = False
                self._on_new(process)
                return

    async def _start_process(self, *, warns_of_fonts: bool = False) -> RenderProcess:
        process = self._process_class(self._on_message, self._exited)
        self.libvips_version = await process.start(replace(self._limits, warns_of_fonts=warns_of_fonts))
        return process
