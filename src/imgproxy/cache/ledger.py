"""
The ledger: how many bytes each stored file takes, and which was used longest ago.

It serves eviction and the metrics. A file is found by its path; so the ledger may be filled behind the first requests,
and be wrong about a file that vanished, without an answer being wrong. Once it is full, a variant that it does not have
need not be looked for: at worst it is made again.

One name is 32 bytes (key hash and plan digest) or 17 (key hash and a mark for the original), which costs about 200
bytes a file all told (benchmarks/cache_scale.py). Names live in many small dicts, one for each first byte: a dict that
outgrows its table is copied in one go, and a touch is a removal and an insertion, so that one dict of a million names
made some unlucky hit in a million wait for a third of a second. Within a dict the order is the order of use; across
them a number in each value tells it.
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
# A value is one number: the time of use, the size, and whether the checksum was seen to hold. Tuples would cost 100
# bytes more a file. 41 bits of size are two terabytes.
_VERIFIED = 1
_SIZE_BITS = 41
_SIZE_MASK = (1 << _SIZE_BITS) - 1
_USE_SHIFT = _SIZE_BITS + 1
# Files of this run are numbered from here, above any time of use that the scan can find.
_FIRST_USE = 1 << 44
# The scan's times of use are counted in units of 2**20 ns, about a millisecond.
_FOUND_USE_SHIFT = 20


def variant_name(key_hash: str, plan: str) -> bytes:
    """The ledger's name of a variant."""
    return bytes.fromhex(key_hash) + bytes.fromhex(plan)


def original_name(key_hash: str) -> bytes:
    """The ledger's name of a key's original."""
    return bytes.fromhex(key_hash) + _ORIGINAL


def name_of_file(key_hash: str, file_name: str) -> bytes | None:
    """The ledger's name of a file in a key's directory; None for files that are not counted."""
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
    """The key hash and the plan digest of a name; None for the plan means the original."""
    rest = name[_HASH_BYTES:]
    return name[:_HASH_BYTES].hex(), None if rest == _ORIGINAL else rest.hex()


def found(used_at_ns: int, size_bytes: int) -> int:
    """The form in which the ledger keeps a file that the scan found: nobody has seen its checksum hold yet."""
    use = min(max(0, used_at_ns >> _FOUND_USE_SHIFT), _FIRST_USE - 1)
    return use << _USE_SHIFT | size_bytes << 1


class Ledger:
    """File sizes in the order of use, oldest first."""

    def __init__(self) -> None:
        self._shards: list[dict[bytes, int]] = [{} for _ in range(_SHARDS)]
        self._uses = _FIRST_USE
        self._touched: set[bytes] = set()
        self._gone: set[bytes] | None = None  # removed while the scan was looking
        self.used_bytes = 0

    def add(self, name: bytes, size_bytes: int, *, is_verified: bool) -> None:
        """A file was written: it is the most recently used one. Only `is_verified` files skip the checksum."""
        shard = self._shards[name[0]]
        self.used_bytes += size_bytes - _size_bytes(shard.pop(name, 0))
        self._uses += 1
        shard[name] = self._uses << _USE_SHIFT | size_bytes << 1 | is_verified

    def touch(self, name: bytes) -> None:
        """A file was used."""
        shard = self._shards[name[0]]
        if (value := shard.pop(name, None)) is not None:
            self._uses += 1
            shard[name] = self._uses << _USE_SHIFT | value & (_SIZE_MASK << 1 | _VERIFIED)
            self._touched.add(name)

    def is_verified(self, name: bytes) -> bool:
        """Whether this process has seen the file's checksum hold, or wrote it itself."""
        return bool(self._shards[name[0]].get(name, 0) & _VERIFIED)

    def verify(self, name: bytes, size_bytes: int) -> None:
        """The file's checksum held just now."""
        shard = self._shards[name[0]]
        if name in shard:
            shard[name] |= _VERIFIED
        else:
            self.add(name, size_bytes, is_verified=True)

    def remove(self, name: bytes) -> int:
        """A file is gone. Returns the size it had, 0 if it was not known."""
        size_bytes = _size_bytes(self._shards[name[0]].pop(name, 0))
        self.used_bytes -= size_bytes
        self._touched.discard(name)
        if self._gone is not None:
            self._gone.add(name)
        return size_bytes

    def oldest(self, count: int) -> list[tuple[bytes, int]]:
        """The files used longest ago, with their sizes."""
        in_order = heapq.merge(*map(_by_use, self._shards))
        return [(name, _size_bytes(value)) for value, name in islice(in_order, count)]

    def take_touched(self) -> set[bytes]:
        """The files used since the last call, for writing their time of use to disk in one batch."""
        touched, self._touched = self._touched, set()
        return touched

    def begin_scan(self) -> None:
        """A scan of names with one first byte begins: what is removed from now on must not come back with its finds."""
        self._gone = set()

    def adopt_older(self, shard: int, names: dict[bytes, int], size_bytes: int) -> None:
        """
        Put files found by the scan at start before all that was used since, in the given order (oldest first).

        `names` all begin with that byte and have values made by `found`; `size_bytes` is the sum of their sizes. Files
        that the ledger knows already keep their place, and those removed since `begin_scan` stay away. The dictionary
        becomes the ledger's own: this takes time for what is known, not for what was found.
        """
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
