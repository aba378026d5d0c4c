"""A job on its way through the pool, and who hears of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from imgproxy.workers.job import Lane, Rendered, RenderJob, RenderReport

if TYPE_CHECKING:
    import asyncio

# Index of the target, what was rendered, and how long the job had waited for a process, in seconds. The file is the
# listener's from then on.
OnRendered = Callable[[int, Rendered, float], None]


class PoolObserver(Protocol):
    """Hears of every job and every process that ended; metrics implement it."""

    def job_ended(self, lane: Lane, outcome: str, *, queue_s: float, render_s: float, peak_bytes: int) -> None:
        """Hear that a job ended: `outcome` is "ok", "cancelled" or an error's code."""

    def process_ended(self, reason: str) -> None:
        """Hear why a process ended: crashed, timeout, out_of_memory, abandoned, recycled."""


class SilentObserver:
    """Hears and says nothing."""

    def job_ended(self, lane: Lane, outcome: str, *, queue_s: float, render_s: float, peak_bytes: int) -> None:
        """Ignore."""

    def process_ended(self, reason: str) -> None:
        """Ignore."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A job on its way through the pool. Times are of the loop's clock."""

    job: RenderJob
    lane: Lane
    done: asyncio.Future[RenderReport]
    on_rendered: OnRendered | None
    queued_at: float
    # When who waits for it came, where its original had to be fetched first.
    came_at: float | None = None
    cost_units: float = 0.0
    started_at: float = 0.0
    timer: asyncio.TimerHandle | None = None
    rendered: dict[int, Rendered] = field(default_factory=dict)
    announced: set[int] = field(default_factory=set)
    is_abandoned: bool = False
    is_over: bool = False
    end_reason: str = ""  # why we ended the process, where we did

    def remove_files(self) -> None:
        """Remove what the job may have written and was not announced; a file that is not there is as good."""
        for index, target in enumerate(self.job.targets):
            if index not in self.announced:
                with suppress(OSError):
                    os.unlink(target.path)

    def stop_timer(self) -> None:
        """Cancel whatever deadline the job is under."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
