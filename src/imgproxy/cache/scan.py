"""
The scan at start: what is on the disk, in the order of last use.

It runs in a thread behind the first answers, over a million files or more, so it must neither keep the interpreter to
itself for long nor leave holes in the memory where the ledger's names then live.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.cache.ledger import marked, name_of_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HASH_HEX = 32
# The scan sorts so many files at once: a few milliseconds.
SORT_BATCH = 10_000
# A file found, as one text that sorts by time of last use: that and the size, then the name. Tuples would lie among the
# names in memory and leave holes there, a hundred bytes a file.
_FOUND = struct.Struct(">qQ")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the scan at start found: marked sizes of files, oldest first, and directories whose facts are missing."""

    files: dict[bytes, int]
    size_bytes: int
    orphans: list[str]


def scan(keys_dir: Path, run_id: str) -> Scanned:
    """Walk the key directories: sizes by time of last use; temporary files of other runs are deleted on the way."""
    batches: list[list[bytes]] = [[]]
    orphans: list[str] = []
    for shard in _subdirectories(keys_dir):
        if len(batches[-1]) >= SORT_BATCH:
            batches[-1].sort()
            batches.append([])
        keys = [item for item in _subdirectories(shard.path) if len(item.name) == _HASH_HEX]
        orphans += [item.name for item in keys if _is_orphan(item, run_id, batches[-1])]
    batches[-1].sort()
    sizes: dict[bytes, int] = {}
    total_bytes = 0
    # One sort of a million would keep the interpreter to itself for most of a second, and every hit waiting.
    for line in heapq.merge(*batches):
        _, size_bytes = _FOUND.unpack_from(line)
        sizes[line[_FOUND.size :]] = marked(size_bytes)
        total_bytes += size_bytes
    for batch in batches:
        batch.clear()  # one after the other, so that others get their turn between
    return Scanned(sizes, total_bytes, orphans)


def _is_orphan(directory: os.DirEntry[str], run_id: str, found: list[bytes]) -> bool:
    """Add the directory's files to those found; whether nothing vouches for them, and nobody is writing there now."""
    names = set()
    with contextlib.suppress(OSError), os.scandir(directory.path) as files:
        for file in files:
            names.add(file.name)
            if file.name.startswith("t-"):
                _delete_foreign_temp(file, run_id)
            elif (name := name_of_file(directory.name, file.name)) is not None:
                status = file.stat()
                found.append(_FOUND.pack(status.st_mtime_ns, status.st_size) + name)
    return "facts" not in names and not any(name.startswith(f"t-{run_id}-") for name in names)


def _subdirectories(path: str | Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from (item for item in entries if item.is_dir(follow_symlinks=False))


def _delete_foreign_temp(file: os.DirEntry[str], run_id: str) -> None:
    if not file.name.startswith(f"t-{run_id}-"):
        with contextlib.suppress(OSError):
            os.unlink(file.path)
