"""Background tasks. A failure is logged. `close` cancels the tasks that still run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")


class Background:
    """A set of tasks. If one fails, its log line has `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        # The event loop keeps only a weak reference to a task.
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self,
        work: Callable[Arguments, Coroutine[Any, Any, None]],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Start `work` with these arguments and return at once."""

        async def logged() -> None:
            try:
                await work(*arguments, **named)
            except Exception:
                log.exception("%s: a background task failed", self._name)

        task = asyncio.get_running_loop().create_task(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the tasks that still run, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)
