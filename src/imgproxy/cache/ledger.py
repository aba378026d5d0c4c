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


def marked(size_bytes: int) -> int:
    """The form in which the ledger keeps the size of a file whose checksum nobody has seen hold yet."""
    return size_bytes << 1


class Ledger:
    """File sizes in the order of use, oldest first."""

    def __init__(self) -> None:
        # Twice the size, and one more where the checksum was seen to hold: a set of those costs half as much again.
        self._marked_sizes: dict[bytes, int] = {}
        self._touched: set[bytes] = set()
        self._gone: set[bytes] | None = None  # removed while the scan was looking
        self.used_bytes = 0

    def add(self, name: bytes, size_bytes: int, *, is_verified: bool) -> None:
        """A file was written: it is the most recently used one. Only `is_verified` files skip the checksum."""
        before_bytes = self._marked_sizes.pop(name, 0) >> 1
        self.used_bytes += size_bytes - before_bytes
        self._marked_sizes[name] = (size_bytes << 1) | is_verified

    def touch(self, name: bytes) -> None:
        """A file was used."""
        if (marked := self._marked_sizes.pop(name, None)) is not None:
            self._marked_sizes[name] = marked
            self._touched.add(name)

    def is_verified(self, name: bytes) -> bool:
        """Whether this process has seen the file's checksum hold, or wrote it itself."""
        return bool(self._marked_sizes.get(name, 0) & 1)

    def verify(self, name: bytes, size_bytes: int) -> None:
        """The file's checksum held just now."""
        if name in self._marked_sizes:
            self._marked_sizes[name] |= 1
        else:
            self.add(name, size_bytes, is_verified=True)

    def remove(self, name: bytes) -> int:
        """A file is gone. Returns the size it had, 0 if it was not known."""
        size_bytes = self._marked_sizes.pop(name, 0) >> 1
        self.used_bytes -= size_bytes
        self._touched.discard(name)
        if self._gone is not None:
            self._gone.add(name)
        return size_bytes

    def oldest(self, count: int) -> list[tuple[bytes, int]]:
        """The files used longest ago, with their sizes."""
        return [(name, marked >> 1) for name, marked in islice(self._marked_sizes.items(), count)]

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

        `found` maps names to marked sizes (`marked`), `found_bytes` is the sum of the sizes.

        Files that the ledger knows already keep their place, and those removed since `begin_scan` stay away. The
        dictionary becomes the ledger's own: this takes time for what is known, not for what was found.
        """
        for name in (*self._marked_sizes, *(self._gone or ())):
            found_bytes -= found.pop(name, 0) >> 1
        self._gone = None
        self.used_bytes += found_bytes
        found.update(self._marked_sizes)
        self._marked_sizes = found

    def __len__(self) -> int:
        return len(self._marked_sizes)

    def __contains__(self, name: bytes) -> bool:
        return name in self._marked_sizes
