"""
Capacity: how many cores and how much memory this service may use.

Its cores are the smallest of its affinity mask and its cgroups' CPU quotas. `os.cpu_count()` counts the cores of the
machine: with it, a container with `--cpus 2` on a 64-core host would start 64 render processes and be throttled.
Source: Linux Documentation/admin-guide/cgroup-v2.rst, "cpu.max"; cgroup-v1/cpu, "cpu.cfs_quota_us".
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1. `root` is the root of the file system."""
    limits = [_count_affinity(), *_read_quotas(root)]
    return max(1, math.floor(min(limits) + 0.01))


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """
    Return the smallest memory limit of this process's cgroup and its parents; None if there is none.

    Source: Linux Documentation/admin-guide/cgroup-v2.rst, "memory.max"; cgroup-v1/memory, "memory.limit_in_bytes".
    """
    found = []
    for controllers, path in _groups(root):
        if not controllers:
            found += [_read_bytes(folder / "memory.max") for folder in _folders(root / "sys/fs/cgroup", path)]
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            found += [_read_bytes(folder / "memory.limit_in_bytes") for folder in _folders(mount, path)]
    limits = [limit for limit in found if limit is not None]
    return min(limits) if limits else None


def _read_bytes(file: Path) -> int | None:
    """Return a limit. v1 says "none" by a number near 2^63."""
    try:
        limit = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return limit if limit < 1 << 60 else None


def _count_affinity() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))
    return float(os.cpu_count() or 1)


def _read_quotas(root: Path) -> list[float]:
    """Return the CPU quotas, in cores, of this process's cgroup and of all its parents, v2 and v1."""
    found: list[float | None] = []
    for controllers, path in _groups(root):
        if not controllers:
            found += [_read_quota_v2(folder / "cpu.max") for folder in _folders(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            found += [_read_quota_v1(folder) for folder in _folders(root / "sys/fs/cgroup/cpu", path)]
    return [quota for quota in found if quota is not None]


def _groups(root: Path) -> list[tuple[str, str]]:
    """Return the controllers and the path of each cgroup of this process. v2 has one, without controllers."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]


def _folders(mount: Path, path: str) -> list[Path]:
    """Return the cgroup's folder and its parents up to the mount. In a container the mount itself is the cgroup."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _read_quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _read_quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None
