"""
How large a JPEG is, by its frame header alone, before a decoder opens it.

Strict: what is not a plain row of segments up to the frame header has no size here, and is left to the decoder. What is
has the size that the decoder finds, as it reads the same bytes. Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import os
from typing import Final

from imgproxy.render.sizes import Size

# Baseline, extended sequential, progressive; with Huffman or arithmetic coding.
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})

# What may stand before a frame header: tables of codes and of quanta, conditioning, restart interval, application data
# (where previews have frame headers of their own), comments.
_SEGMENTS: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})

# EXIF, a profile and XMP in many parts need no more.
_MOST_SEGMENTS: Final = 64

# Marker, length, precision, height, width.
_HEADER_BYTES: Final = 9


def size_of(head: bytes, descriptor: int) -> Size | None:
    """Return the size in the frame header of an open file that begins with `head`; None where it is not plain."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        header = head[at : at + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES:
            header = os.pread(descriptor, _HEADER_BYTES, at)
        if len(header) < _HEADER_BYTES or header[0] != 0xFF:
            return None
        if header[1] in _FRAMES:
            size = Size(int.from_bytes(header[7:9], "big"), int.from_bytes(header[5:7], "big"))
            return size if size.width_px and size.height_px else None
        if header[1] not in _SEGMENTS:
            return None
        at += 2 + int.from_bytes(header[2:4], "big")
    return None
