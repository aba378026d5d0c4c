"""
The scan at start: which files are on the disk, in the order of last use.

It runs in a thread while requests are answered, over a million files or more. So it must not keep the interpreter's
lock for long, and must not fragment the memory of the ledger's names. It takes one directory of keys/ at a time: a few
thousand files, which make one of the ledger's dicts.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.cache.ledger import name_of_file, scanned_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HASH_HEX = 32
# A found file as one line of bytes, which sorts by time of last use: that time, the size, then the name. Tuples would
# leave holes among the names in memory, a hundred bytes a file.
_FOUND = struct.Struct(">QQ")
_LATEST_NS = (1 << 64) - 1  # some file systems know times beyond the year 2554


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was found in a shard: files with their ledger values, oldest first, and key hashes without facts."""

    files: dict[bytes, int]
    size_bytes: int
    orphans: list[str]


def shards(keys_dir: Path) -> list[int]:
    """The first bytes of all key hashes that have a directory."""
    names = [item.name for item in _subdirectories(keys_dir)]
    return [number for number in range(256) if f"{number:02x}" in names]


def scan(keys_dir: Path, shard: int, run_id: str) -> Scanned:
    """Read the key directories of a shard, and delete the temporary files of other runs."""
    lines: list[bytes] = []
    prefix = f"{shard:02x}"
    keys = [item for item in _subdirectories(keys_dir / prefix) if _is_key(item.name, prefix)]
    orphans = [item.name for item in keys if _is_orphan(item, run_id, lines)]
    lines.sort()
    files: dict[bytes, int] = {}
    total_bytes = 0
    for line in lines:
        used_at_ns, size_bytes = _FOUND.unpack_from(line)
        files[line[_FOUND.size :]] = scanned_value(used_at_ns, size_bytes)
        total_bytes += size_bytes
    return Scanned(files, total_bytes, orphans)


def _is_key(name: str, prefix: str) -> bool:
    return len(name) == _HASH_HEX and name.startswith(prefix)


def _is_orphan(directory: os.DirEntry[str], run_id: str, lines: list[bytes]) -> bool:
    """Add the directory's files to `lines`. Return whether it has no facts and no temporary file of this run."""
    names = set()
    with contextlib.suppress(OSError), os.scandir(directory.path) as files:
        for file in files:
            names.add(file.name)
            if file.name.startswith("t-"):
                _delete_foreign_temp(file, run_id)
            elif (name := name_of_file(directory.name, file.name)) is not None:
                with contextlib.suppress(OSError):  # evicted meanwhile
                    status = file.stat()
                    lines.append(_FOUND.pack(min(max(0, status.st_mtime_ns), _LATEST_NS), status.st_size) + name)
    return "facts" not in names and not any(name.startswith(f"t-{run_id}-") for name in names)


def _subdirectories(path: str | Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from (item for item in entries if item.is_dir(follow_symlinks=False))


def _delete_foreign_temp(file: os.DirEntry[str], run_id: str) -> None:
    if not file.name.startswith(f"t-{run_id}-"):
        with contextlib.suppress(OSError):
            os.unlink(file.path)
