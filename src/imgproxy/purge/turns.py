"""
Turns: a few calls of the keys API at a time. The others wait here, in the order in which they came.

A thousand purges at once must not be a thousand calls at once: the HTTP client looks at all its waiting calls whenever
one begins or ends. The wait for a turn is not the API's fault, so the API's time begins after it. But if the API
answers no call at all, the calls that wait fail, too.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from imgproxy.medialibrary.errors import OriginTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A call waits for its turn at most this many times as long as the API may be silent.
WAITS_MAX = 6


class Turns:
    """At most `calls_max` calls at a time."""

    def __init__(self, calls_max: int) -> None:
        self._free = asyncio.Semaphore(calls_max)
        self._answered_at_s = 0.0  # of the loop's clock

    def answered(self) -> None:
        """Note that the API has answered a call."""
        self._answered_at_s = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def turn(self, silence_s: float) -> AsyncIterator[None]:
        """
        Wait for a turn, and have it while the block runs.

        Raises:
            OriginTimeout: the API answered no call for `silence_s`, or all turns before took `WAITS_MAX` times as long.
        """
        if self._free.locked():
            await self._wait(silence_s)
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self, silence_s: float) -> None:
        loop = asyncio.get_running_loop()
        came_at_s = loop.time()
        # A task, so that a look at the clock does not cost the place in the queue.
        taking = loop.create_task(self._free.acquire())
        try:
            while not taking.done() and (wait_s := self._patience_s(came_at_s, silence_s)) > 0:
                await asyncio.wait((taking,), timeout=wait_s)
        except BaseException:
            if not taking.cancel():  # the turn came at this very moment
                self._free.release()
            raise
        if not taking.done():
            taking.cancel()
            raise OriginTimeout(timeout_s=silence_s, where="the keys API, waiting for a turn")

    def _patience_s(self, came_at_s: float, silence_s: float) -> float:
        """Return how much longer a call waits that came at `came_at_s`, as far as is known now."""
        silent_until_s = max(came_at_s, self._answered_at_s) + silence_s
        return min(silent_until_s, came_at_s + WAITS_MAX * silence_s) - asyncio.get_running_loop().time()
