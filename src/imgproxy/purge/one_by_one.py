"""
One by one: work for an entry runs once at a time, and calls that come meanwhile share the next run.

So what a call gets began after the call, however many come at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from imgproxy.flights import Flights

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")


class OneByOne(Generic[Result]):
    """The work for each entry."""

    def __init__(self) -> None:
        self._queued: Flights[Result] = Flights()
        # A lock lives as long as work for its entry holds it or waits for it.
        self._running: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, entry: str, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Do `work`, or share what another call is about to do for this entry. Raises what the work raises."""
        result, _ = await self._queued.join(entry, lambda: self._in_turn(entry, work))
        return result

    async def _in_turn(self, entry: str, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Wait for the work for this entry that is under way, then begin. Later calls need one more."""
        async with self._running.setdefault(entry, asyncio.Lock()):
            self._queued.detach(entry)
            return await work()
