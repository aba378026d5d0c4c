"""Processes seen from outside: stop them, let them go on, and read what the kernel knows of them."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes while the block runs."""
    for pid in pids:
        stop(pid)
    try:
        yield
    finally:
        for pid in pids:
            go_on(pid)


def stop(pid: int) -> None:
    """Stop a process by SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def go_on(pid: int) -> None:
    """Let a stopped process go on. A process that has ended is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def render_pids(edge_pid: int) -> list[int]:
    """Return the ids of an edge's render processes."""
    return [pid for pid in children_of(edge_pid) if "imgproxy.render.child" in command_of(pid)]


def cpu_ticks(pid: int) -> int:
    """Return the processor time that a process has used, in ticks (proc(5), /proc/pid/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children (proc(5), /proc/pid/task/tid/children)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


def command_of(pid: int) -> str:
    """Return a process's command line; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
