"""Clocks that stand until a test sets them."""

from __future__ import annotations

import asyncio

from imgproxy.cluster.clock import Clock


class StandingClock:
    """
    Returns `now_s`, in place of the event loop's clock.

    It is far ahead of that one: whatever is due at a time of this clock does not become due in a test.
    """

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s


class LeaseClock(Clock):
    """The clock of one node's leases. Its waits end when the test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1_000.0
        self.now_s = lambda: self._now_s
        self._timers: dict[asyncio.Event, float] = {}

    async def wait(self, news: asyncio.Event, until_s: float) -> None:
        """Wait until the event is set, or the test has moved the clock to this time."""
        timer = asyncio.Event()
        self._timers[timer] = until_s
        waits = [asyncio.ensure_future(event.wait()) for event in (news, timer)]
        try:
            if self._now_s >= until_s:
                await asyncio.sleep(0)
                return
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._timers[timer]
            for wait in waits:
                wait.cancel()

    def advance(self, seconds: float) -> None:
        """Move the clock, and end the waits that are due."""
        self.stop_for(seconds)
        self.wake()

    def stop_for(self, seconds: float) -> None:
        """Move the clock as if the process had been stopped: nothing of it has run yet."""
        self._now_s += seconds

    def wake(self) -> None:
        """End the waits that are due."""
        for timer, until_s in self._timers.items():
            if self._now_s >= until_s:
                timer.set()
