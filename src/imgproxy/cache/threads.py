"""Threads of the cache that give way to the event loop."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor


def yielding_thread(name: str, niceness: int) -> ThreadPoolExecutor:
    """
    Return an executor with one thread. On Linux its priority is lower than that of this thread by `niceness`.

    Without that, the thread may take the core from the event loop for a time slice of 3 ms, again and again during many
    purges. The p99 of hits was then 3.3-4.7 ms, with it 1.5-2 ms (`benchmarks.purge_under_load`, 500 purges at once on
    two cores).

    On Linux each thread has a nice value (setpriority(2), "C library/kernel differences"). Elsewhere the process has
    one, and it stays as it is.
    """
    if sys.platform != "linux":
        return ThreadPoolExecutor(1, name)
    return ThreadPoolExecutor(1, name, os.nice, (niceness,))
