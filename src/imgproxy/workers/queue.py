"""The queue of the pool: jobs that wait for a process, in lanes by who waits for them."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from imgproxy.workers.job import Lane, Rendered, RenderJob, RenderReport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

# Builds the job. Called when a process begins it.
Begin: TypeAlias = Callable[[], RenderJob]
# Called with the index of the target, the variant, and the seconds that the job had waited. The file is the listener's.
OnRendered: TypeAlias = Callable[[int, Rendered, float], None]


class PoolObserver(Protocol):
    """Counts jobs and processes that ended. Implemented by the metrics."""

    def job_ended(self, lane: Lane, outcome: str, peak_bytes: int) -> None:
        """Count a job. `outcome` is "ok", "cancelled" or the code of an error. `peak_bytes` is 0 if unknown."""

    def process_ended(self, reason: str) -> None:
        """Count a process. `reason`: crashed, timeout, out_of_memory, abandoned, recycled, closed."""


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

    def remove_files(self) -> None:
        """Remove the files that the job may have written and that were not announced."""
        for index, target in enumerate(self.job.targets if self.job is not None else ()):
            if index not in self.announced:
                with suppress(OSError):
                    os.unlink(target.path)


class Lanes:
    """The queue in front of `size` processes: one queue for each lane, served in the order of Lane."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: dict[Lane, deque[Ticket]] = {lane: deque() for lane in Lane}
        self._running: Counter[Lane] = Counter()

    def __iter__(self) -> Iterator[Ticket]:
        """Yield all jobs that wait."""
        for waiting in self._waiting.values():
            yield from waiting

    def __contains__(self, ticket: Ticket) -> bool:
        """Whether this job waits."""
        return ticket in self._waiting[ticket.lane]

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def length(self, lane: Lane) -> int:
        """How many jobs wait in this lane."""
        return len(self._waiting[lane])

    def add(self, ticket: Ticket) -> None:
        """Put a job behind the others of its lane."""
        self._waiting[ticket.lane].append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take a job out of the queue."""
        self._waiting[ticket.lane].remove(ticket)

    def free(self, lane: Lane, idle: int) -> int:
        """How many jobs of this lane would begin at once if `idle` processes are idle."""
        if self._waiting[lane]:
            return 0
        return max(0, min(idle, self._share(lane) - self._running[lane]))

    def next(self) -> Ticket | None:
        """Take out the job to begin now, or return None. Call `ended` when it has ended."""
        for lane, waiting in self._waiting.items():
            if waiting and self._running[lane] < self._share(lane):
                self._running[lane] += 1
                return waiting.popleft()
        return None

    def ended(self, lane: Lane) -> None:
        """Note that a job of this lane has ended."""
        self._running[lane] -= 1

    def _share(self, lane: Lane) -> int:
        """How many processes a lane may hold at once: visitors all, the other lanes all but one, and at least one."""
        return self._size if lane is Lane.VISITOR else max(1, self._size - 1)
