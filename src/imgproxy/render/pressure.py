"""
Telling a burst from an overload, by how long the queue has stood. Pure: the caller gives the time.

A page that is new asks for thirty pictures at once: they may wait, for soon there is nothing behind them. Where more
comes than can be made, every wait only makes those behind it wait as long. So a queue may be long while it drains;
one that has stood for a while is cut to a short wait, and what would wait longer is refused before anything is done
for it. After "Controlling Queue Delay" (Nichols and Jacobson, ACM Queue 2012), in the form of "Fail at Scale" (Maurer,
ACM Queue 2015), which cuts the time that a request may wait rather than dropping some of them.
"""

from __future__ import annotations

from typing import Final

# What a queue that stands may cost, or this many jobs where they are slow: no process is ever without one.
SHORT_WAIT_S: Final = 0.2
SHORT_JOBS: Final = 4
# A queue that has been longer than that for this time stands. A front page whose pictures are all new fills a small
# machine for most of a second, and what scrolls into view meanwhile must not be refused: a browser would show a gap.
BURST_S: Final = 1.0
# It goes on standing until nobody was refused for this time.
CALM_S: Final = 1.0


def short_wait_s(job_s: float) -> float:
    """Return what is a short wait where a job takes this long."""
    return max(SHORT_WAIT_S, SHORT_JOBS * job_s)


class Pressure:
    """Whether the queue stands. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._long_since_s: float | None = None
        self._stands_until_s = 0.0

    def stands(self, now_s: float) -> bool:
        """Whether one that would wait longer than a short time is to be refused."""
        return now_s < self._stands_until_s

    def is_late(self, waited_s: float, now_s: float, *, job_s: float) -> bool:
        """Whether one that came in with a burst, and has waited twice the short time since, is to be refused now."""
        return waited_s > 2 * short_wait_s(job_s) and self.stands(now_s)

    def admits(self, wait_s: float, now_s: float, *, patience_s: float, job_s: float) -> bool:
        """
        Whether one that is expected to wait this long may come in.

        `patience_s` is the longest wait of a burst, `job_s` what a job takes.
        """
        if wait_s <= min(short_wait_s(job_s), patience_s):
            self._long_since_s = None
            return True
        if self._long_since_s is None:
            self._long_since_s = now_s
        if self.stands(now_s) or now_s - self._long_since_s > BURST_S:
            self._stands_until_s = now_s + CALM_S
            return False
        return wait_s <= patience_s
