"""
A core of its own for a render process, as long as it gets that core's time.

Where there are as many processes as cores, a scheduler left to itself now and then has two of them share one core while
the other idles, until it looks again: a twentieth of two cores, with an edge at work beside them. And the pixels of a
render stay in the caches of one core. But who is bound to a core starves there when others take it, so a process leaves
a core that gives it too little, for a while. Source: sched_setaffinity(2).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

# A process that has worked for so long is looked at: some jobs of usual size, and soon enough for a long one.
LOOK_S: Final = 0.2
# Of the time in which it works it gets nine tenths beside a busy edge; at this share two would do better to take turns
# on all cores.
LEAST_SHARE: Final = 0.6
# What has taken its core may be gone by then; if not, it costs another look.
AWAY_S: Final = 10.0


def cores_to_own(processes: int) -> tuple[int, ...]:
    """The cores that so many render processes divide among them; none where that would not come out even."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    return tuple(cores) if len(cores) == processes else ()


def is_starved(worked_s: float, used_s: float) -> bool:
    """Whether who has worked for so long, by the clock, got too little of its core, by CPU time."""
    return used_s < worked_s * LEAST_SHARE


class OwnCore:
    """
    Keeps this process on `core`; None means that it has none of its own.

    The thread that works says when it does, another one looks after it now and then. Times are of one clock.
    """

    def __init__(self, core: int | None) -> None:
        self._core = core
        self._anywhere = os.sched_getaffinity(0) if core is not None else frozenset[int]()
        self._back_at_s = 0.0  # while it is away
        self._worked_s = 0.0
        self._began_s: float | None = None
        self._seen_worked_s = self._seen_used_s = 0.0
        if core is not None:
            _move({core})

    def begin(self, now_s: float) -> None:
        """A job begins."""
        self._began_s = now_s

    def end(self, now_s: float) -> None:
        """A job ended."""
        if self._began_s is not None:
            worked_s, self._began_s = now_s - self._began_s, None
            self._worked_s += worked_s

    def look(self, now_s: float, used_s: float) -> None:
        """Leave the core, or come back to it. `used_s` is the CPU time that the process has had since its start."""
        if self._core is None:
            return
        if self._back_at_s:
            if now_s >= self._back_at_s:
                self._back_at_s = 0.0
                self._see(now_s, used_s)
                _move({self._core})
            return
        worked_s, had_s = self._worked_until(now_s) - self._seen_worked_s, used_s - self._seen_used_s
        if worked_s < LOOK_S:
            return
        self._see(now_s, used_s)
        if is_starved(worked_s, had_s):
            self._back_at_s = now_s + AWAY_S
            _move(self._anywhere)

    def _see(self, now_s: float, used_s: float) -> None:
        self._seen_worked_s, self._seen_used_s = self._worked_until(now_s), used_s

    def _worked_until(self, now_s: float) -> float:
        began_s = self._began_s
        return self._worked_s + (now_s - began_s if began_s is not None else 0.0)


def _move(cores: set[int] | frozenset[int]) -> None:
    """Have every thread of this process run on these cores alone, where the system allows that."""
    for _ in range(2):  # a thread that another has just started may have been missed
        threads: list[str] = []
        with suppress(OSError):  # a container may have no /proc: then all stays as it is
            threads = os.listdir("/proc/self/task")
        for thread in threads:
            with suppress(OSError):  # it has ended, or the cores were taken from us
                os.sched_setaffinity(int(thread), cores)
