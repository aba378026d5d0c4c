"""CPU time and memory of processes, from /proc (see proc(5)). It works on Linux without privileges."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """Return the processes that this one started and that still live."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def cpu_s(pid: int, *, with_reaped: bool = True) -> float:
    """Return the CPU seconds of one process, to a clock tick; by default with its reaped children's."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = int(fields[11]) + int(fields[12])
    reaped = int(fields[13]) + int(fields[14]) if with_reaped else 0
    return (own + reaped) / TICKS_PER_S


def thread_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process's living threads, to the nanosecond. Threads that ended are not counted."""
    total_ns = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total_ns += int(file.read().split()[0])
    return total_ns / 1e9


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, those that have ended included."""
    return sum(cpu_s(found) for found in tree(pid))


def resident_bytes(pid: int) -> int:
    """Return the resident size now; shared pages count in full."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def tree_resident_bytes(pid: int) -> int:
    """Return the sum of the resident sizes of a process and its descendants."""
    return sum(resident_bytes(found) for found in tree(pid))


def descriptors(pid: int) -> int:
    """Return how many files, sockets and pipes a process has open; 0 if it has ended."""
    return _count(f"/proc/{pid}/fd")


def threads(pid: int) -> int:
    """Return how many threads a process has; 0 if it has ended."""
    return _count(f"/proc/{pid}/task")


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return 0


def peak_bytes(pid: int) -> int:
    """Return the largest resident size of a process since its start, or since a reset (proc(5), clear_refs)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Load:
    """CPU seconds since the machine started: of all processes, and of ours."""

    busy_s: float
    ours_s: float

    @classmethod
    def now(cls) -> Load:
        """Read both."""
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _wait, irq, softirq, *_rest = (int(part) for part in file.readline().split()[1:])
        return cls((user + nice + system + irq + softirq) / TICKS_PER_S, tree_cpu_s(os.getpid()))

    def neighbours_since(self, earlier: Load) -> float:
        """Return the CPU seconds of other processes since then."""
        return max(0.0, (self.busy_s - earlier.busy_s) - (self.ours_s - earlier.ours_s))
