"""An event loop for tests of timers: its clock jumps to the next timer when nothing else is to be done."""

from __future__ import annotations

import asyncio


class JumpingLoop(asyncio.SelectorEventLoop):
    """
    A loop with a clock of its own: `asyncio.Runner(loop_factory=JumpingLoop)`.

    Only for code without sockets and threads: the clock would jump while it waits for them.
    """

    def __init__(self) -> None:
        self._now_s = 1_000.0
        super().__init__()

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined] # the base class has no public place for this
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, min(timers, default=self._now_s))
        super()._run_once()  # type: ignore[misc]
