"""A job on its way through the pool, and the observers of the pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from imgproxy.workers.job import Lane, Rendered, RenderJob, RenderReport

if TYPE_CHECKING:
    import asyncio

# Builds the job when a process begins it.
Begin: TypeAlias = Callable[[], RenderJob]
# Index of the target, what was rendered, and how many seconds the job had waited. The file is then the listener's.
OnRendered: TypeAlias = Callable[[int, Rendered, float], None]


class PoolObserver(Protocol):
    """Hears of every job and every process that ended; the metrics implement it."""

    def job_ended(self, lane: Lane, outcome: str, peak_bytes: int) -> None:
        """Hear that a job ended: `outcome` is "ok", "cancelled" or an error's code. `peak_bytes` is 0 if unknown."""

    def process_ended(self, reason: str) -> None:
        """Hear why a process ended: crashed, timeout, out_of_memory, abandoned, recycled."""


class SilentObserver:
    """Ignores everything."""

    def job_ended(self, lane: Lane, outcome: str, peak_bytes: int) -> None:
        """Ignore."""

    def process_ended(self, reason: str) -> None:
        """Ignore."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A job in the pool. `job` is None until a process begins it. Times are of the loop's clock."""

    begin: Begin
    lane: Lane
    done: asyncio.Future[RenderReport]
    on_rendered: OnRendered | None
    queued_s: float
    job: RenderJob | None = None
    began_s: float = 0.0
    timer: asyncio.TimerHandle | None = None
    rendered: dict[int, Rendered] = field(default_factory=dict)
    announced: set[int] = field(default_factory=set)
    is_abandoned: bool = False
    has_failed: bool = False
    end_reason: str = ""  # why the pool ended the process, if it did

    @property
    def targets(self) -> int:
        """How many variants the job makes."""
        return len(self.job.targets) if self.job is not None else 0

    def remove_files(self) -> None:
        """Remove what the job may have written, but for the files that were announced."""
        for index, target in enumerate(self.job.targets if self.job is not None else ()):
            if index not in self.announced:
                with suppress(OSError):
                    os.unlink(target.path)

    def stop_timer(self) -> None:
        """Cancel the deadline that the job is under."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
