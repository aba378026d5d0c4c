"""
Turns: a few calls of the keys API at a time. The others wait here, in the order in which they came.

A thousand purges at once must not be a thousand calls at once: the API may not stand it, and hits would wait for all of
them. The wait for a turn is not the API's fault, so the API's time begins after it. But if the API answers no call at
all, the calls that wait fail, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
        self._free = calls_max
        self._waiting: deque[asyncio.Future[None]] = deque()  # there is none while a turn is free
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
        if self._free:
            self._free -= 1
        else:
            await self._wait(silence_s)
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to the call that has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its call has given up
                turn.set_result(None)
                return
        self._free += 1

    async def _wait(self, silence_s: float) -> None:
        loop = asyncio.get_running_loop()
        came_at_s = loop.time()
        turn = loop.create_future()
        self._waiting.append(turn)
        try:
            while not turn.done() and (wait_s := self._patience_s(came_at_s, silence_s)) > 0:
                # Unlike `asyncio.timeout` it leaves the future alone, and with it the place in the queue.
                await asyncio.wait((turn,), timeout=wait_s)
        except BaseException:
            if not turn.cancel():  # the turn came at this very moment
                self._pass_on()
            raise
        if turn.cancel():
            raise OriginTimeout(timeout_s=silence_s, where="the keys API, waiting for a turn")

    def _patience_s(self, came_at_s: float, silence_s: float) -> float:
        """Return how much longer a call waits that came at `came_at_s`, as far as is known now."""
        silent_until_s = max(came_at_s, self._answered_at_s) + silence_s
        return min(silent_until_s, came_at_s + WAITS_MAX * silence_s) - asyncio.get_running_loop().time()
