"""
The texts in the list of a HEIF file's items, made ASCII before pi-heif reads them.

pi-heif 1.4 crashes on a type or content type that is not UTF-8. Types are ASCII in every file that means something.
Source: ISO/IEC 14496-12, 8.11.1 (meta), 8.11.6 (iinf, infe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.render.boxes import VERSION_BYTES, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

# A byte that is not ASCII becomes a question mark.
_AS_ASCII: Final = bytes(range(128)) + b"?" * 128


def make_ascii(data: bytes) -> bytes:
    """Return the file with ASCII texts in its list of items. It is the same object if all of them are."""
    changed: bytearray | None = None
    for start, end in _entries(data):
        # The number of the item has two bytes, or four in version 3. Two bytes come between it and the type.
        at = start + VERSION_BYTES + (6 if data[start : start + 1] == b"\3" else 4)
        if not data[at:end].isascii():
            changed = changed or bytearray(data)
            changed[at:end] = data[at:end].translate(_AS_ASCII)
    return data if changed is None else bytes(changed)


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the content of each `infe` box begins and ends."""
    for meta, meta_end in _named(b"meta", data, 0, len(data)):
        for listing, listing_end in _named(b"iinf", data, meta + VERSION_BYTES, meta_end):
            count_bytes = 2 if data[listing : listing + 1] == b"\0" else 4
            yield from _named(b"infe", data, listing + VERSION_BYTES + count_bytes, listing_end)


def _named(kind: bytes, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    return ((at, box_end) for name, at, box_end in walk(data, start, end) if name == kind)
