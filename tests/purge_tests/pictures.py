"""Two versions of one picture, a dark one and a bright one, as PNG."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

from PIL import Image, ImageStat

SIDE_PX = 200
OLD, NEW = 1, 2
# The mean of the dark picture is 64, of the bright one 192. What lies between is a mixture.
DARK_MAX, BRIGHT_MIN = 96, 160


@cache
def png(version: int, *, note: str = "") -> bytes:
    """
    Make a noisy picture of about 105 kB. It is larger than the buffers on the way, so that half of it arrives as half.

    The pixels depend on the version only: below 128 in the old one, from 128 in the new one. `note` changes the bytes,
    not the pixels.
    """
    noise = random.Random(version)
    halved = bytes(value >> 1 | (0 if version == OLD else 128) for value in range(256))
    rows = b"".join(b"\0" + noise.randbytes(SIDE_PX * 3).translate(halved) for _ in range(SIDE_PX))
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")
    text = _chunk(b"tEXt", f"Comment\0version {version} {note}".encode("latin-1"))
    return b"\x89PNG\r\n\x1a\n" + chunks[:25] + text + chunks[25:]


def version_in(body: bytes) -> int | None:
    """Return the version that a picture was made from, by its brightness, or None if it is neither, or no picture."""
    try:
        mean = ImageStat.Stat(Image.open(io.BytesIO(body)).convert("L")).mean[0]
    except (OSError, ValueError):
        return None
    return OLD if mean < DARK_MAX else NEW if mean > BRIGHT_MIN else None


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
