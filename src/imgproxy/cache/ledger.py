"""
The ledger: how many bytes each stored file takes, and which was used longest ago.

It serves eviction and the metrics, never a lookup: a file is found by its path. So it may be filled behind the first
requests, and be wrong about a file that vanished, without an answer being wrong.

One name is 32 bytes (key hash and plan digest) or 17 (key hash and a mark for the original); names live in one dict
whose order is the order of use, which costs about 200 bytes a file all told (benchmarks/cache_scale.py).
"""

from __future__ import annotations

from itertools import islice

_ORIGINAL = b"o"
_HASH_BYTES = 16


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


class Ledger:
    """File sizes in the order of use, oldest first."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}
        self._verified: set[bytes] = set()
        self._touched: set[bytes] = set()
        self._gone: set[bytes] | None = None  # removed while the scan was looking
        self.used_bytes = 0

    def add(self, name: bytes, size_bytes: int, *, is_verified: bool) -> None:
        """A file was written: it is the most recently used one. Only `is_verified` files skip the checksum."""
        self.used_bytes += size_bytes - self._sizes.pop(name, 0)
        self._sizes[name] = size_bytes
        if is_verified:
            self._verified.add(name)

    def touch(self, name: bytes) -> None:
        """A file was used."""
        if (size_bytes := self._sizes.pop(name, None)) is not None:
            self._sizes[name] = size_bytes
            self._touched.add(name)

    def is_verified(self, name: bytes) -> bool:
        """Whether this process has seen the file's checksum hold, or wrote it itself."""
        return name in self._verified

    def verify(self, name: bytes, size_bytes: int) -> None:
        """The file's checksum held just now."""
        if name not in self._sizes:
            self.add(name, size_bytes, is_verified=True)
        self._verified.add(name)

    def remove(self, name: bytes) -> None:
        """A file is gone."""
        self.used_bytes -= self._sizes.pop(name, 0)
        self._verified.discard(name)
        self._touched.discard(name)
        if self._gone is not None:
            self._gone.add(name)

    def oldest(self, count: int) -> list[tuple[bytes, int]]:
        """The files used longest ago, with their sizes."""
        return list(islice(self._sizes.items(), count))

    def take_touched(self) -> set[bytes]:
        """The files used since the last call, for writing their time of use to disk in one batch."""
        touched, self._touched = self._touched, set()
        return touched

    def begin_scan(self) -> None:
        """A scan of the disk begins: what is removed from now on must not come back with what it finds."""
        self._gone = set()

    def adopt_older(self, found: dict[bytes, int], found_bytes: int) -> None:
        """
        Put files found by the scan at start before all that was used since, in the given order (oldest first).

        Files that the ledger knows already keep their place, and those removed since `begin_scan` stay away. The
        dictionary becomes the ledger's own: this takes time for what is known, not for what was found.
        """
        for name in (*self._sizes, *(self._gone or ())):
            found_bytes -= found.pop(name, 0)
        self._gone = None
        self.used_bytes += found_bytes
        found.update(self._sizes)
        self._sizes = found

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, name: bytes) -> bool:
        return name in self._sizes
