"""
The texts in the list of a HEIF file's items, made ASCII before pi-heif reads them.

pi-heif 1.4 crashes on a type or content type that is not UTF-8. Types are ASCII in every file that means something.
Source: ISO/IEC 14496-12, 4.2 (boxes), 8.11.1 (meta), 8.11.6 (iinf, infe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A byte that is not ASCII becomes a question mark.
_AS_ASCII: Final = bytes(range(128)) + b"?" * 128

# Version and flags, at the start of all three boxes.
_VERSION_BYTES: Final = 4


def make_ascii(data: bytes) -> bytes:
    """Return the file with ASCII texts in its list of items. It is the same object if all of them are."""
    changed: bytearray | None = None
    for start, end in _entries(data):
        # The number of the item has two bytes, or four in version 3. Two bytes come between it and the type.
        at = start + _VERSION_BYTES + (6 if data[start : start + 1] == b"\3" else 4)
        if not data[at:end].isascii():
            changed = changed or bytearray(data)
            changed[at:end] = data[at:end].translate(_AS_ASCII)
    return data if changed is None else bytes(changed)


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the insides of each `infe` box."""
    for meta, meta_end in _boxes(data, 0, len(data), b"meta"):
        for listing, listing_end in _boxes(data, meta + _VERSION_BYTES, meta_end, b"iinf"):
            count_bytes = 2 if data[listing : listing + 1] == b"\0" else 4
            yield from _boxes(data, listing + _VERSION_BYTES + count_bytes, listing_end, b"infe")


def _boxes(data: bytes, at: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the inside of each box of a kind begins and ends. A box that is too long ends with what holds it."""
    while at + 8 <= end:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:  # the size follows the type, in eight bytes
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or end - at  # 0: to the end
        if data[at + 4 : at + 8] == kind:
            yield at + head, min(at + size, end)
        at += max(size, head)
