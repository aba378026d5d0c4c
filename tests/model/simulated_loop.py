"""
An event loop whose time stands still until everything has happened that can happen.

`run` drives a coroutine; `settle` lets all other work go on until each task waits for something that only the test can
bring about. Threads are waited for, short timers (a batch that gathers, a retry) are brought forward, long ones are
not. The same steps therefore always lead to the same order of events, and to the same failure.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")

# Timers up to this long are brought forward; longer ones are the housekeeping's clocks.
SHORT_S = 0.4


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own."""

    def __init__(self) -> None:
        self._now_s = 1_000.0
        self._in_threads = 0
        self._back: asyncio.Future[None] | None = None
        super().__init__(selectors.SelectSelector())

    def time(self) -> float:
        return self._now_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _future: asyncio.Future[Any]) -> None:
        self._in_threads -= 1
        if self._back is not None and not self._back.done():
            self._back.set_result(None)

    async def thread_back(self) -> None:
        """Wait until one more call in a thread has returned, if there is any. Time stands still meanwhile."""
        if self._in_threads:
            self._back = self.create_future()
            await self._back

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end, settling on the way."""

        async def main() -> Result:
            task = asyncio.ensure_future(coroutine)
            for _ in range(10_000):
                await self._until_idle()
                if task.done():
                    return task.result()
            raise AssertionError("the simulation does not come to an end")

        return self.run_until_complete(main())

    def settle(self) -> None:
        """Let everything happen that can."""
        self.run_until_complete(self._until_idle())

    async def _until_idle(self) -> None:
        for _ in range(100_000):
            await asyncio.sleep(0)
            if self._ready:  # type: ignore[attr-defined] # the one place that looks inside
                continue
            if self._in_threads:
                await self.thread_back()
                continue
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            due_s = min(timers, default=float("inf"))
            if due_s - self._now_s > SHORT_S:
                return
            self._now_s = max(self._now_s, due_s)
        raise AssertionError("the simulation does not come to rest")
