"""
Telling a burst from an overload, by how long the queue is and has been. Pure: the caller gives the time.

A page that is new asks for thirty pictures at once: they may wait, for soon there is nothing behind them. Where more
comes than can be made, every wait only makes those behind it wait as long. So a queue may be long while it drains. It
stands when it has been long for a while, or at once when it is full, as no page fills it; then it is cut to what keeps
every process at work, and the others are refused before anything is done for them. So what is accepted in an overload
waits for less than a job, a burst for its own length. After "Controlling Queue Delay" (Nichols and Jacobson, ACM Queue
2012), in the form of "Fail at Scale" (Maurer, ACM Queue 2015), which cuts the time that a request may wait rather
than dropping some of them.
"""

from __future__ import annotations

from typing import Final

# A queue of less than this time, or of so many jobs a process where they are slow, is no sign of anything: a crawler
# with a few connections keeps it as long for hours.
LONG_WAIT_S: Final = 0.2
LONG_JOBS: Final = 4
# A queue that has been longer than that for this time stands. A front page whose pictures are all new fills a small
# machine for most of a second, and what scrolls into view meanwhile must not be refused: a browser would show a gap.
BURST_S: Final = 1.0
# Nor does any such page bring more pictures than this at once, where that many make a long queue. At ten times what can
# be made they are here before the sixth is done: so few are accepted after a wait that a standing queue never has.
BURST_JOBS: Final = 48
# Where it stands, one more comes in when it would wait for a third of a job: so what is accepted takes less than twice
# as long as alone (p99 1.7-1.8 times; 1.7-2.0 with half a job, 2.2-2.7 with a whole one), and processes have as little
# to wait for as with a whole one, as a fetch takes less than that.
SHORT_JOBS: Final = 0.3
# Who came in before that, and has waited for a whole one, has waited longer than anyone who comes in then.
LATE_JOBS: Final = 1
# It goes on standing until nobody was refused for this time.
CALM_S: Final = 1.0


class Pressure:
    """Whether the queue stands. Times are monotonic seconds; `job_s` is what a job takes one process."""

    def __init__(self) -> None:
        self._long_since_s: float | None = None
        self._stands_since_s = self._stands_until_s = 0.0

    def stands(self, now_s: float) -> bool:
        """Whether one that would wait longer than a short time is to be refused."""
        return now_s < self._stands_until_s

    def is_late(self, waited_s: float, now_s: float, *, job_s: float) -> bool:
        """Whether one that came in with a burst, and has waited for a job since, is to be refused now."""
        return waited_s > LATE_JOBS * job_s and self.stands(now_s)

    def is_left_over(self, came_s: float, now_s: float, *, job_s: float) -> bool:
        """The same of one that came before the queue was known to stand, fetched or not: all behind it would wait."""
        return came_s < self._stands_since_s and self.is_late(now_s - came_s, now_s, job_s=job_s)

    def is_hopeless(self, waited_s: float, now_s: float, *, job_s: float) -> bool:
        """The same of one that has come since and was fetched: it has cost more, and may wait longer."""
        return waited_s > max(LONG_WAIT_S, LONG_JOBS * job_s) and self.stands(now_s)

    def admits(self, wait_s: float, now_s: float, *, patience_s: float, job_s: float, is_full: bool = False) -> bool:
        """
        Whether one that is expected to wait this long may come in.

        `patience_s` is the longest wait of a burst; `is_full` says that more wait than any burst brings.
        """
        if self.stands(now_s):
            return wait_s <= min(SHORT_JOBS * job_s, patience_s) or self._refuse(now_s)
        if wait_s <= max(LONG_WAIT_S, LONG_JOBS * job_s):
            self._long_since_s = None
            return wait_s <= patience_s
        if self._long_since_s is None:
            self._long_since_s = now_s
        if is_full or now_s - self._long_since_s > BURST_S:
            return self._refuse(now_s)
        return wait_s <= patience_s

    def _refuse(self, now_s: float) -> bool:
        """Refuse one, and go on standing; always false."""
        if not self.stands(now_s):
            self._stands_since_s = now_s
        self._stands_until_s = now_s + CALM_S
        self._long_since_s = None
        return False
