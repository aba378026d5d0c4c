"""The jobs that wait for a process, by who waits for them, and which of them is next. It knows nothing of processes."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from imgproxy.workers.job import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.config.sections import RenderSettings
    from imgproxy.workers.job import RenderJob
    from imgproxy.workers.ticket import Ticket

# A larger picture that is there already is better now than one of the right size after a wait of more than this, and
# than one that takes longer to make. One that takes much longer nevertheless is given up.
STAND_IN_WAIT_S: Final = 0.25
STAND_IN_TIMEOUT_S: Final = 2.0


class Lanes:
    """The queue in front of `size` processes: a line for each lane, served in the order of Lane."""

    def __init__(self, size: int, settings: RenderSettings) -> None:
        self._size = size
        self._settings = settings
        self._waiting: dict[Lane, deque[Ticket]] = {lane: deque() for lane in Lane}
        self._running: Counter[Lane] = Counter()
        self._was_stand_in = False  # the last that was taken out

    def __iter__(self) -> Iterator[Ticket]:
        """All that wait."""
        for waiting in self._waiting.values():
            yield from waiting

    def __contains__(self, ticket: Ticket) -> bool:
        """Whether this one waits."""
        return ticket in self._waiting[ticket.lane]

    def variants(self, lane: Lane) -> int:
        """How many variants wait in this lane: a job may hold many, and each is a render to wait for."""
        return sum(len(ticket.job.targets) for ticket in self._waiting[lane])

    def of_job(self, job: RenderJob, lane: Lane) -> Ticket | None:
        """The ticket of this job, if it waits."""
        return next((ticket for ticket in self._waiting[lane] if ticket.job is job), None)

    def add(self, ticket: Ticket) -> None:
        """Have it wait behind the others of its lane."""
        self._waiting[ticket.lane].append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Have it wait no longer."""
        self._waiting[ticket.lane].remove(ticket)

    def first(self, lane: Lane) -> Ticket | None:
        """The one that has waited longest in this lane."""
        return self._waiting[lane][0] if self._waiting[lane] else None

    def free(self, lane: Lane, idle: int) -> int:
        """How many jobs of this lane would begin at once, with so many processes idle."""
        if self._waiting[lane]:
            return 0
        return max(0, min(idle, self._share(lane) - self._running[lane]))

    def has_room(self, lane: Lane, wait_s: float) -> bool:
        """Whether one more may wait in this lane, if it is expected to for so long."""
        if lane is Lane.STAND_IN:
            return self.variants(lane) < self._size
        return self.variants(lane) < self._settings.queue_max and wait_s <= self._settings.queue_timeout_s

    def patience_s(self, lane: Lane) -> float:
        """How long one waits in this lane at most."""
        return STAND_IN_WAIT_S if lane is Lane.STAND_IN else self._settings.queue_timeout_s

    def limit_s(self, lane: Lane) -> float:
        """How long a variant of this lane may take a process."""
        limit_s = self._settings.timeout_s
        return min(STAND_IN_TIMEOUT_S, limit_s) if lane is Lane.STAND_IN else limit_s

    def next(self) -> Ticket | None:
        """Take out the one to be begun now."""
        for lane, waiting in self._waiting.items():
            if not waiting or self._running[lane] >= self._share(lane):
                continue
            if lane is Lane.STAND_IN and self._was_stand_in and self._has_visitors():
                continue
            self._was_stand_in = lane is Lane.STAND_IN
            return waiting.popleft()
        return None

    def begun(self, lane: Lane) -> None:
        """A process has one of this lane."""
        self._running[lane] += 1

    def ended(self, lane: Lane) -> None:
        """It has it no longer."""
        self._running[lane] -= 1

    def _has_visitors(self) -> bool:
        return any(self._waiting[lane] for lane in (Lane.VISITOR, Lane.ANIMATION))

    def _share(self, lane: Lane) -> int:
        """How many processes a lane may hold at once: all but one, at least one, unless visitors wait in it."""
        return self._size if lane is Lane.VISITOR else max(1, self._size - 1)
