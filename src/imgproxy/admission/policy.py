"""
Who may come in: what a visitor's picture would have to wait for, told by number and by what a job takes here and now.

By number, as the sizes of what is still being fetched are not known. Times are of the loop's clock.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

from imgproxy.admission.overload import BURST_JOBS, Pressure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgproxy.admission.cost import CostModel
    from imgproxy.config.sections import RenderSettings

# However slow the origin is, not more pictures than this are admitted because they are still on their way.
FETCHES_AHEAD_MAX: Final = 64
RETRY_AFTER_MAX_S: Final = 30


class Admission:
    """The judgement of a pool of `size` processes."""

    def __init__(self, settings: RenderSettings, costs: CostModel, size: int) -> None:
        self._settings = settings
        self._costs = costs
        self._size = size
        self._pressure = Pressure()

    def stands(self, now_s: float) -> bool:
        """Whether the queue stands: more has come for a while than can be made."""
        return self._pressure.stands(now_s)

    def admits(
        self, coming: int, fetch_s: float, now_s: float, begun_s: Iterable[float] = (), *, is_here: bool = False
    ) -> bool:
        """
        Whether one more may come, behind `coming` pictures that are fetched, wait or are made.

        `begun_s` says when those that are being made were begun: what is half made is half a job to wait for. One whose
        original is here (`is_here`) costs the origin nothing, and waits for as long as the queue does not stand.
        """
        job_s = self._costs.mean_job_s
        before = max(0, coming - self._on_the_wire(fetch_s) - self._size + 1)
        done_s = sum(min(now_s - at_s, job_s) for at_s in begun_s)
        return self._pressure.admits(
            max(0.0, before * job_s - done_s) / self._size,
            now_s,
            patience_s=self._settings.queue_timeout_s,
            job_s=job_s,
            is_full=not is_here and before > min(BURST_JOBS, self._settings.queue_max),
        )

    def enough(self, fetch_s: float) -> int:
        """How many pictures under way keep every process busy, where a fetch takes `fetch_s`."""
        return 2 * self._size + self._on_the_wire(fetch_s)

    def _on_the_wire(self, fetch_s: float) -> int:
        """How many are being fetched where as many come as are made (Little's law)."""
        return min(FETCHES_AHEAD_MAX, round(self._size * fetch_s / self._costs.mean_job_s))

    def is_late(self, waited_s: float, now_s: float) -> bool:
        """Whether one that has waited this long to be fetched is refused."""
        return self._pressure.is_late(waited_s, now_s, job_s=self._costs.mean_job_s)

    def is_hopeless(self, came_s: float | None, queued_s: float, now_s: float) -> bool:
        """Whether one that waits for a process is refused; `came_s` is when it came, if it had to be fetched first."""
        job_s = self._costs.mean_job_s
        if came_s is not None and self._pressure.is_left_over(came_s, now_s, job_s=job_s):
            return True
        return self._pressure.is_hopeless(now_s - queued_s, now_s, job_s=job_s)

    def retry_after_s(self, jobs: int) -> int:
        """Seconds until so many have been made, with jitter so that those shed together do not return together."""
        drain_s = (jobs + 1) * self._costs.mean_job_s / self._size
        return min(RETRY_AFTER_MAX_S, max(1, math.ceil(drain_s * random.uniform(1.0, 2.0))))
