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
    """
    The clock of the wall, for one process. Those that nobody sets stay right. Give `environ` to the process.

    It may be set while the process runs.
    """

    def __init__(self, file: Path, *, off_s: int = 0) -> None:
        self._file = file
        self.set(off_s)
        self.environ = {
            "LD_PRELOAD": str(LIBRARIES[-1]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",  # the process reads the file each time that it asks for the time
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, off_s: int) -> None:
        """Let the clock be so many seconds ahead, from now on; negative: behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{off_s:+d}\n", "ascii")
        new.replace(self._file)  # never half of it
