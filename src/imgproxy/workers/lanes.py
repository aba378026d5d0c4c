"""The jobs that wait for a process, in lanes by who waits for them, and which of them is next."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.workers.ticket import Ticket


class Lanes:
    """The queue in front of `size` processes: a line for each lane, served in the order of Lane."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: dict[Lane, deque[Ticket]] = {lane: deque() for lane in Lane}
        self._running: Counter[Lane] = Counter()

    def __iter__(self) -> Iterator[Ticket]:
        """Give all jobs that wait."""
        for waiting in self._waiting.values():
            yield from waiting

    def __contains__(self, ticket: Ticket) -> bool:
        """Whether this job waits."""
        return ticket in self._waiting[ticket.lane]

    def length(self, lane: Lane) -> int:
        """How many jobs wait in this lane."""
        return len(self._waiting[lane])

    def add(self, ticket: Ticket) -> None:
        """Have a job wait behind the others of its lane."""
        self._waiting[ticket.lane].append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take a job out of the queue."""
        self._waiting[ticket.lane].remove(ticket)

    def free(self, lane: Lane, idle: int) -> int:
        """How many jobs of this lane would begin at once, with so many processes idle."""
        if self._waiting[lane]:
            return 0
        return max(0, min(idle, self._share(lane) - self._running[lane]))

    def next(self) -> Ticket | None:
        """Take out the job to begin now."""
        for lane, waiting in self._waiting.items():
            if waiting and self._running[lane] < self._share(lane):
                return waiting.popleft()
        return None

    def begun(self, lane: Lane) -> None:
        """A process has begun a job of this lane."""
        self._running[lane] += 1

    def ended(self, lane: Lane) -> None:
        """A process has no job of this lane any more."""
        self._running[lane] -= 1

    def _share(self, lane: Lane) -> int:
        """How many processes a lane may hold at once: visitors all, the other lanes all but one, and at least one."""
        return self._size if lane is Lane.VISITOR else max(1, self._size - 1)
