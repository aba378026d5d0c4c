"""The limits of the processes that read manifests of foreign pictures."""

from __future__ import annotations

import resource
from typing import Final

# The library reads the original in pieces, but keeps manifests, variants and results in memory.
MEMORY_BYTES: Final = 2_000_000_000
FILE_BYTES: Final = 500_000_000
FILES_MAX: Final = 64


def limit_process() -> None:
    """Limit memory, files and descriptors of this process, and leave no core file. It cannot be taken back."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, FILES_MAX),
    ):
        resource.setrlimit(limit, (value, value))
