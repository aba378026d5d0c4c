"""
The gate before the origin: so many originals are fetched at a time, and the others wait, in order, for nothing.

What waits here has cost nothing yet: no connection, no file, no thread. So where the render processes are behind, this
is where a burst waits, and what is refused after all was not fetched in vain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from imgproxy.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable


class FetchGate:
    """Lets up to `most` through at a time, fewer while `narrow_to` says so; `waiting_max` may wait."""

    def __init__(self, most: int, waiting_max: int) -> None:
        self._most = most
        self._waiting_max = waiting_max
        self._narrow_to: Callable[[], int] = lambda: most
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def narrow_to(self, limit: Callable[[], int]) -> None:
        """Have `limit()` say how many are of use now, perhaps none. Call `look` when it grows."""
        self._narrow_to = limit

    async def enter(self) -> None:
        """
        Wait for a turn; `leave` must follow.

        Raises:
            Overloaded: too many wait already.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.look()  # also for those before: the limit may count who comes here
        if turn.done():
            return
        if len(self._waiting) > self._waiting_max:
            self._waiting.remove(turn)
            raise Overloaded
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # its turn came as it was given up
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """A turn is over."""
        self._inside -= 1
        self.look()

    def look(self) -> None:
        """Let through whom there is room for."""
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._inside += 1
                turn.set_result(None)

    def __len__(self) -> int:
        """How many are inside or wait."""
        return self._inside + len(self._waiting)

    def _has_room(self) -> bool:
        return self._inside < min(self._most, self._narrow_to())
