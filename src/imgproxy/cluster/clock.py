"""The clock of leases and proofs: nobody sets it, and it counts while the machine sleeps."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Longer waits end by their event alone. The loop's timers take no infinite time.
_LONGEST_S = 1e9


def steady_clock() -> Callable[[], float]:
    """
    Return a function that returns seconds since some moment in the past.

    CLOCK_BOOTTIME counts the time that a machine is suspended (clock_gettime(2), Linux). CLOCK_MONOTONIC does not: a
    lease would still run after the lid was opened. Systems without it get the monotonic clock.
    """
    number = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if number is None else partial(time.clock_gettime, number)


class Clock:
    """Tells the time, and waits. Tests give another one."""

    def __init__(self) -> None:
        self.now_s = steady_clock()

    async def wait(self, news: asyncio.Event, until_s: float) -> None:
        """Return when the event is set, or at this time."""
        wait_s = until_s - self.now_s()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s if wait_s < _LONGEST_S else None):
                await news.wait()
