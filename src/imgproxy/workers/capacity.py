"""
Capacity: how many cores this service may use. It is the smallest of its affinity mask and its cgroups' CPU quotas.

`os.cpu_count()` counts the cores of the machine. With it, a container with `--cpus 2` on a 64-core host would start 64
render processes and be throttled. Source: Linux Documentation/admin-guide/cgroup-v2.rst, "cpu.max"; cgroup-v1/cpu,
"cpu.cfs_quota_us".
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1. `root` is the root of the file system."""
    limits = [_count_affinity(), *_read_quotas(root)]
    return max(1, math.floor(min(limits) + 0.01))


def _count_affinity() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))
    return float(os.cpu_count() or 1)


def _read_quotas(root: Path) -> list[float]:
    """Return the CPU quotas, in cores, of this process's cgroup and of all its parents, v2 and v1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [_read_quota_v2(folder / "cpu.max") for folder in _folders(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            found += [_read_quota_v1(folder) for folder in _folders(root / "sys/fs/cgroup/cpu", path)]
    return [quota for quota in found if quota is not None]


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
