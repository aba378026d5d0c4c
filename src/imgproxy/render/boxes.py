"""
Walks over the boxes of ISO base media files: AVIF and HEIC.

The input is untrusted: a box that is too long ends with what holds it, and one that is too short has an empty content.
Source: ISO/IEC 14496-12, 4.2 (boxes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A photo of 128 megapixels has 700 items. In one box or file; they take a tenth of a second.
BOXES_MAX: Final = 100_000

# Version and flags, at the start of the content of a full box.
VERSION_BYTES: Final = 4


def read_head(head: bytes) -> tuple[bytes, int, int]:
    """Return type, bytes of the head, and bytes in all of a box that begins with these 16 bytes. 0 is: to the end."""
    size = int.from_bytes(head[:4], "big")
    if size != 1:
        return head[4:8], 8, size
    return head[4:8], 16, int.from_bytes(head[8:16], "big")  # the size follows the type, in eight bytes


def walk(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of each box between two places."""
    at, end = start, len(data) if end is None else end
    for _ in range(BOXES_MAX):
        if at + 8 > end:
            return
        kind, head_bytes, size = read_head(data[at : at + 16])
        following = at + max(size or end - at, head_bytes)
        yield kind, at + head_bytes, min(following, end)
        at = following


def contents(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box."""
    return ((kind, data[start:end]) for kind, start, end in walk(data))


def find(data: bytes, *path: bytes) -> bytes | None:
    """Return the content of the first box of this type; of several types, of the box in the box in the first one."""
    for kind in path:
        found = next((data[start:end] for name, start, end in walk(data) if name == kind), None)
        if found is None:
            return None
        data = found
    return data
