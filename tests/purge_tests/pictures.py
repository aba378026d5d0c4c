"""Two versions of one picture, as PNG, made with the standard library only."""

from __future__ import annotations

import random
import struct
import zlib
from functools import cache

SIDE_PX = 200
OLD, NEW = 1, 2


@cache
def png(version: int, *, note: str = "") -> bytes:
    """
    Make a noisy picture of about 120 kB. It is larger than the buffers on the way, so that half of it arrives as half.

    The pixels depend on the version only. `note` changes the bytes, not the pixels.
    """
    noise = random.Random(version)
    rows = b"".join(b"\0" + noise.randbytes(SIDE_PX * 3) for _ in range(SIDE_PX))
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")
    text = _chunk(b"tEXt", f"Comment\0version {version} {note}".encode("latin-1"))
    return b"\x89PNG\r\n\x1a\n" + chunks[:25] + text + chunks[25:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
