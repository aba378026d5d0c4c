"""Turns of fetches whose number may change: a fenced node takes only its share of what the origin is to bear."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Share:
    """As an `asyncio.Semaphore`, but `limit` says anew at each turn how many there are."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def locked(self) -> bool:
        """Whether a turn has to be waited for."""
        return self._taken >= self._limit() or bool(self._waiting)

    async def acquire(self) -> None:
        """Wait for a turn and take it."""
        if not self.locked():
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was given to this caller just now
            else:
                self._waiting.remove(turn)
            raise

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give a turn back."""
        self._taken -= 1
        while self._waiting and self._taken < self._limit():
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
