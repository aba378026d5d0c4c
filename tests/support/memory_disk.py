"""
A disk in memory for the files of tests. A sync takes 5 ms on a disk, and an edge makes some dozen in a test.

A process that is killed loses nothing of a file in memory either, so the tests of crashes hold. `make test-slow` uses
the disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
# Tests leave some hundred megabytes until they end, most of it of PostgreSQL. A container has 64 MB if nobody asks for more.
FREE_BYTES: Final = 2_000_000_000


def memory_disk(folder: Path = SHARED_MEMORY, free_bytes: int = FREE_BYTES) -> Path | None:
    """Return the folder, or None where there is none, where it is small, or where programs may not be run from it."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    is_fit = disk.f_bavail * disk.f_frsize >= free_bytes and not disk.f_flag & os.ST_NOEXEC
    return folder if is_fit and os.access(folder, os.W_OK | os.X_OK) else None


def use_memory_disk() -> None:
    """Let this process and those that it starts make temporary files in memory, unless TMPDIR says where."""
    disk = memory_disk()
    if disk is not None and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = tempfile.tempdir = str(disk)
