"""
Walks over the chunks of a PNG, and writes one.

Source: Portable Network Graphics (Third Edition), 5.2 (signature) and 5.3 (chunks).
"""

from __future__ import annotations

import zlib
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

# Before the pixels. Files have about ten chunks there.
CHUNKS_MAX: Final = 1_000

# A name, and where the content begins and ends.
Chunk = tuple[bytes, int, int]


def walk(file: BinaryIO) -> Iterator[Chunk]:
    """Yield each chunk whose head is in the file. Its end may lie behind the end of the file."""
    at = len(SIGNATURE)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        size_bytes = int.from_bytes(head[:4], "big")
        yield head[4:], at + 8, at + 8 + size_bytes
        at += 12 + size_bytes


def before_pixels(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks before the pixels, at most CHUNKS_MAX."""
    return islice(takewhile(lambda chunk: chunk[0] not in (b"IDAT", b"IEND"), walk(file)), CHUNKS_MAX)


def write(name: bytes, content: bytes) -> bytes:
    """Return a chunk: length, name, content, checksum."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
