"""The delay of the event loop: what every request waits for, hits included, while the loop is busy with others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from imgproxy.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S: Final = 0.25


class LoopDelay:
    """Looks four times a second how late the loop wakes up. `observe` is called with the seconds."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._background = Background("the delay of the event loop")
        self.close = self._background.close

    def start(self) -> None:
        """Begin to look."""
        self._background.begin(self._look_for_ever)

    async def _look_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._observe(max(0.0, loop.time() - due_s))
