"""
How a render process stands behind the edge: by niceness, and where the kernel can, as a batch in short slices.

A thread that wakes takes the core from another as a rule, and libvips wakes its main thread for each strip of pixels,
eighty times a render. As a batch the thread that decodes is left in peace, for 3 % more renders a second. But then the
edge, too, would wait until its slice of 3 ms is over: a hit's p99 rises from 3.5 to 6 ms. In slices of a tenth of a
millisecond it is 3.9. Slices can be chosen since Linux 6.12; before, a render process is no batch.
Source: sched(7), "SCHED_BATCH"; sched_setattr(2); Linux Documentation/scheduler/sched-eevdf.rst.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

# Below the event loop, so that hits and health stay quick while renders take every core.
NICENESS: Final = 10
# The shortest that the kernel takes.
SLICE_NS: Final = 100_000
# The C library has no function for these calls before glibc 2.41. Source: syscalls(2).
_SET_AND_GET: Final = {"x86_64": (314, 315), "aarch64": (274, 275)}


class _Attributes(ctypes.Structure):
    """`struct sched_attr` in its first version. Source: sched_setattr(2)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),  # the slice, where there is no deadline
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def step_back() -> None:
    """
    Let the edge go first, in its session but in a process group of our own, where a terminal's signals do not come.

    Where the kernel groups processes for scheduling by session, and most desktops and servers do, niceness counts
    within a session alone: from one of its own a render process would take as much of a core as the edge is given.
    Source: sched(7), "The autogroup feature".
    """
    os.setpgid(0, 0)
    os.nice(NICENESS)
    if hasattr(os, "SCHED_BATCH") and not _become_batch():
        _set(os.SCHED_OTHER, 0)


def _become_batch() -> bool:
    """Whether the kernel has taken the slice, and not the policy alone."""
    if not _set(os.SCHED_BATCH, SLICE_NS):
        return False
    found = _Attributes()
    size = ctypes.sizeof(found)
    _, get = _SET_AND_GET[platform.machine()]
    is_said = ctypes.CDLL(None).syscall(get, 0, ctypes.byref(found), size, 0) == 0
    return is_said and bool(found.runtime == SLICE_NS)


def _set(policy: int, slice_ns: int) -> bool:
    """Schedule this thread, and those that it starts, like this; a container may forbid it. 0 is the usual slice."""
    if platform.machine() not in _SET_AND_GET:
        return False
    wanted = _Attributes(ctypes.sizeof(_Attributes), policy, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, slice_ns, 0, 0)
    call, _ = _SET_AND_GET[platform.machine()]
    return bool(ctypes.CDLL(None).syscall(call, 0, ctypes.byref(wanted), 0) == 0)
