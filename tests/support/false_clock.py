"""
A wrong clock for one process, by libfaketime (Debian's package `libfaketime`).

The library stands between the process and the system's clocks. It reads a file that says how far they are off.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
needs_faketime = pytest.mark.skipif(not LIBRARIES, reason="Debian's package libfaketime is not installed")


class FalseClock:
    """The clock of the wall, for one process. Those that nobody sets stay right. Give `environ` to the process."""

    def __init__(self, file: Path, *, off_s: int = 0) -> None:
        file.write_text(f"{off_s:+d}\n", "ascii")
        self.environ = {
            "LD_PRELOAD": str(LIBRARIES[-1]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # it reads the file at most once in a second
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
