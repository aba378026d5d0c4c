"""
The ledger: how many bytes each stored file takes, and which file was used longest ago.

Eviction and the metrics read it. Answers do not depend on it: a file is found by its path. So the ledger may be filled
after the first requests, and may list a file that is gone. When the scan has ended, a variant that is not in the ledger
counts as a miss without a look at the disk.

The names are in 256 small dicts, because Python copies a dict that grows: a dict of a million names made a hit wait for
a third of a second. Each dict is in the order of use, and a number in each value gives the order across the dicts. Name
and value are packed, because a million files must fit in memory: a file takes about 200 bytes
(benchmarks/cache_scale.py).
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ORIGINAL = b"o"
_HASH_BYTES = 16
_SHARDS = 256
# A value is one number: from the highest bit down, the time of use, the size (41 bits: two terabytes), and one bit for
# a checksum that is known to be right. A tuple would take 100 bytes more.
_VERIFIED = 1
_SIZE_BITS = 41
_SIZE_MASK = (1 << _SIZE_BITS) - 1
_USE_SHIFT = _SIZE_BITS + 1
# Uses in this run are numbered from here, above any time of use that the scan can find.
_FIRST_USE = 1 << 44
# Times of use from the scan are in units of 2**20 ns, about a millisecond.
_FOUND_USE_SHIFT = 20


def variant_name(key_hash: str, plan: str) -> bytes:
    """The ledger's name of a variant: 32 bytes, key hash and plan digest."""
    return bytes.fromhex(key_hash) + bytes.fromhex(plan)


def original_name(key_hash: str) -> bytes:
    """The ledger's name of a key's original: 17 bytes, key hash and a mark."""
    return bytes.fromhex(key_hash) + _ORIGINAL


def name_of_file(key_hash: str, file_name: str) -> bytes | None:
    """The ledger's name of a file in a key's directory. None for files that are not counted."""
    if file_name == "original":
        return original_name(key_hash)
    if file_name.startswith("v-"):
        try:
            name = variant_name(key_hash, file_name[2:])
        except ValueError:
            return None
        return name if len(name) == 2 * _HASH_BYTES else None
    return None


def split_name(name: bytes) -> tuple[str, str | None]:
    """The key hash and the plan digest of a name. The plan is None for an original."""
    rest = name[_HASH_BYTES:]
    return name[:_HASH_BYTES].hex(), None if rest == _ORIGINAL else rest.hex()


def scanned_value(used_at_ns: int, size_bytes: int) -> int:
    """The ledger's value for a file that the scan found. Its checksum is not known to be right."""
    use = min(max(0, used_at_ns >> _FOUND_USE_SHIFT), _FIRST_USE - 1)
    return use << _USE_SHIFT | size_bytes << 1


class Ledger:
    """File sizes in the order of use, oldest first."""

    def __init__(self) -> None:
        self._shards: list[dict[bytes, int]] = [{} for _ in range(_SHARDS)]
        self._uses = _FIRST_USE
        self._touched: set[bytes] = set()
        self._gone: set[bytes] | None = None  # removed since the scan of a shard began
        self._is_scan_void = False  # everything was removed since then
        self.used_bytes = 0

    def add(self, name: bytes, size_bytes: int, *, is_verified: bool) -> None:
        """Add a file, as the most recently used one. A file that `is_verified` is read without its checksum."""
        shard = self._shards[name[0]]
        self.used_bytes += size_bytes - _size_bytes(shard.pop(name, 0))
        self._uses += 1
        shard[name] = self._uses << _USE_SHIFT | size_bytes << 1 | is_verified

    def touch(self, name: bytes) -> bool:
        """Note that a file was used. Return whether this process wrote it, or has checked its checksum."""
        shard = self._shards[name[0]]
        value = shard.pop(name, None)
        if value is None:
            return False
        self._uses += 1
        shard[name] = self._uses << _USE_SHIFT | value & (_SIZE_MASK << 1 | _VERIFIED)
        self._touched.add(name)
        return bool(value & _VERIFIED)

    def verify(self, name: bytes, size_bytes: int) -> None:
        """Note that the file's checksum is right."""
        shard = self._shards[name[0]]
        if name in shard:
            shard[name] |= _VERIFIED
        else:
            self.add(name, size_bytes, is_verified=True)

    def remove(self, name: bytes) -> int:
        """Remove a file. Return its size, or 0 if it was not known."""
        size_bytes = _size_bytes(self._shards[name[0]].pop(name, 0))
        self.used_bytes -= size_bytes
        self._touched.discard(name)
        if self._gone is not None:
            self._gone.add(name)
        return size_bytes

    def clear(self) -> None:
        """Remove every file."""
        self._shards = [{} for _ in range(_SHARDS)]
        self._touched.clear()
        self._is_scan_void = self._gone is not None
        self.used_bytes = 0

    def oldest(self, count: int) -> list[tuple[bytes, int]]:
        """The least recently used files, with their sizes."""
        in_order = heapq.merge(*map(_by_use, self._shards))
        return [(name, _size_bytes(value)) for value, name in islice(in_order, count)]

    def take_touched(self) -> set[bytes]:
        """Return the files that were used since the last call, to write their time of use to disk in one batch."""
        touched, self._touched = self._touched, set()
        return touched

    def begin_scan(self) -> None:
        """Begin the scan of one shard: a file that is removed from now on must not come back by what the scan found."""
        self._gone = set()
        self._is_scan_void = False

    def adopt_older(self, shard: int, names: dict[bytes, int], size_bytes: int) -> None:
        """
        Add the files of a shard that the scan found, oldest first, as used before everything in this run.

        `names` begin with the byte `shard`, and their values come from `scanned_value`. `size_bytes` is the sum of
        their sizes. Files that the ledger has already keep their place. Files removed since `begin_scan` are left out.
        The dict becomes the ledger's own, so the time this takes grows with the known files, not with the found ones.
        """
        if self._is_scan_void:
            self._gone = None
            return
        known = self._shards[shard]
        for name in (*known, *(self._gone or ())):
            size_bytes -= _size_bytes(names.pop(name, 0))
        self._gone = None
        self.used_bytes += size_bytes
        names.update(known)
        self._shards[shard] = names

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def __contains__(self, name: bytes) -> bool:
        return name in self._shards[name[0]]


def _size_bytes(value: int) -> int:
    return value >> 1 & _SIZE_MASK


def _by_use(shard: dict[bytes, int]) -> Iterator[tuple[int, bytes]]:
    return ((value, name) for name, value in shard.items())
