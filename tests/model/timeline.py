"""
One timeline for several event loops: each is a process on a machine of its own.

Each loop has a monotonic clock of its own, which started at another time. A loop that is stopped (SIGSTOP) does not run
while the time of all goes on; when it is continued, all of its timers that are due fire at once.

Time moves only in `pass_time`, from one timer to the next. Before each step every loop has done all that it can, and
its threads have come back. The same steps therefore always lead to the same order of events.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from tests.model.simulated_loop import SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

Result = TypeVar("Result")

# Clocks are floating point numbers: a timer is due a little after its time.
STEP_S = 1e-6
ROUNDS_MAX = 200_000


class NodeLoop(SimulatedLoop):
    """The event loop of one node. Its clock is that of the timeline, and `offset_s` ahead of it."""

    def __init__(self, timeline: Timeline, offset_s: float) -> None:
        self._timeline = timeline
        self._offset_s = offset_s
        self.is_stopped = False
        super().__init__()

    def time(self) -> float:
        return self._timeline.now_s + self._offset_s

    def has_work(self) -> bool:
        """Whether it can do something now."""
        return bool(self._ready) or self._in_threads > 0 or self.next_timer_s() <= self._timeline.now_s  # type: ignore[attr-defined] # see SimulatedLoop

    def next_timer_s(self) -> float:
        """When the next timer is due, by the timeline."""
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined] # see SimulatedLoop
        return min(timers, default=float("inf")) - self._offset_s + STEP_S

    async def until_idle(self) -> None:
        """Return when everything has happened that can happen at this time."""
        for _ in range(ROUNDS_MAX):
            await asyncio.sleep(0)
            if self._ready:  # type: ignore[attr-defined] # see SimulatedLoop
                continue
            if not self._in_threads:
                return
            await self.thread_back()
        raise AssertionError("a node does not come to rest")


class Timeline:
    """The time of all loops. Loops are added when their processes start."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.loops: list[NodeLoop] = []

    def start(self, offset_s: float) -> NodeLoop:
        """Return a new loop."""
        loop = NodeLoop(self, offset_s)
        self.loops.append(loop)
        return loop

    def end(self, loop: NodeLoop) -> None:
        """Close a loop."""
        self.loops.remove(loop)
        loop.close()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen that can."""
        end_s = self.now_s + seconds
        self._run_all()
        while (next_s := self._next_timer_s()) <= end_s:
            self.now_s = max(self.now_s, next_s)
            self._run_all()
        self.now_s = max(self.now_s, end_s)

    def run(self, loop: NodeLoop, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on a loop to its end. The others go on meanwhile."""
        task = loop.create_task(coroutine)
        for _ in range(ROUNDS_MAX):
            self._run_all()
            if task.done():
                return task.result()
            self.now_s = max(self.now_s, self._next_timer_s())
        raise AssertionError("the simulation does not come to an end")

    def run_alone(self, loop: NodeLoop) -> None:
        """Let one loop do what it can, before the others do anything."""
        loop.run_until_complete(loop.until_idle())

    def _run_all(self) -> None:
        for _ in range(ROUNDS_MAX):
            busy = [loop for loop in self.loops if not loop.is_stopped and loop.has_work()]
            if not busy:
                return
            for loop in busy:
                self.run_alone(loop)
        raise AssertionError("the nodes do not come to rest")

    def _next_timer_s(self) -> float:
        return min((loop.next_timer_s() for loop in self.loops if not loop.is_stopped), default=float("inf"))
