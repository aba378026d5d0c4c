"""
What libjpeg does not tell about a JPEG: its process, and how much of it is missing.

Source: ITU-T T.81, annex B (markers), table B.1 (processes), annex G (progressive scans).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyvips

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOS: Final = 0xDA
# Without length: TEM, RST0-7, SOI, EOI.
_BARE: Final = frozenset({0x01, *range(0xD0, 0xDA)})
# C4, C8 and CC are tables, not frames.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# EXIF, a profile and XMP in parts: photos have about 30 segments before the frame.
_SEGMENTS_MAX: Final = 500

# How much of the rows may be missing. In a photo of 1000 px these are 20, of which a row of blocks is 8 or 16.
MISSING_MAX: Final = 0.02

# A file with so many zeros at its end is looked at.
_TAIL_BYTES: Final = 64

_SHRINK: Final = 8  # one pixel a block: the quickest decode
# libjpeg leaves blocks without data at 0, which is mid-grey: 128, or 127 where it is inverted (CMYK).
_EMPTY: Final = (127.0, 128.0)


def is_lossless(file: BinaryIO) -> bool:
    """Whether a JPEG is coded without a DCT. libjpeg cannot shrink such a picture: it returns the top left part."""
    return _find_frame(file)[0] in _LOSSLESS


def is_filled_up(file: BinaryIO) -> bool:
    """
    Whether more than MISSING_MAX of a JPEG are zeros in place of its end: a download into a file of the final size.

    libjpeg takes the zeros for pixels, without a warning. Zeros behind the end marker are only padding.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(-min(size, _TAIL_BYTES), os.SEEK_END)
    if file.read().strip(b"\0"):
        return False
    _, frame = _find_frame(file)
    file.seek(frame)
    data = file.read()
    return b"\xff\xd9" not in data and len(data) - len(data.rstrip(b"\0")) > MISSING_MAX * size


def walk(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment before the pixels, and where it begins (at the marker) and ends."""
    at = 2
    for _ in range(_SEGMENTS_MAX):
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == _SOS:
            return
        if head[1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 if head[1] in _BARE else at + 2 + int.from_bytes(head[2:], "big")
        yield head[1], at, end
        at = end


def _find_frame(file: BinaryIO) -> tuple[int | None, int]:
    """Return the marker of the frame, C0 for baseline, and its offset; None and 0 if there is no frame."""
    return next(((marker, at) for marker, at, _ in walk(file) if marker in _FRAMES), (None, 0))


def is_nearly_whole(path: str) -> bool:
    """
    Whether a JPEG about which libjpeg complains has nearly all its pixels.

    At most MISSING_MAX of the rows, at the bottom, may be empty. Of a progressive JPEG each scan must have begun:
    without the last ones, all of the picture is coarse. A lossless one must be whole: what is missing does not show as
    empty. Raises pyvips.Error if nothing can be decoded.
    """
    with open(path, "rb") as file:
        data = file.read()
        process, _ = _find_frame(file)
    if process in _LOSSLESS or (process in _PROGRESSIVE and not _has_all_scans(data)):
        return False
    image = pyvips.Image.jpegload_buffer(data, access="sequential", fail_on="none", shrink=_SHRINK).copy_memory()
    return _count_empty_rows(image) <= MISSING_MAX * int(image.height)


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG bring all 64 coefficients of all components to full precision."""
    missing: set[tuple[int, int]] | None = None
    for found in re.finditer(rb"\xff([\xc0-\xcf\xda])", data):
        marker, body = found[1][0], data[found.end() : found.end() + 300]
        if marker in _PROGRESSIVE and missing is None and len(body) > 7:
            components = body[8 : 8 + 3 * body[7] : 3]
            missing = {(component, n) for component in components for n in range(64)}
        elif marker == _SOS and missing is not None and len(body) > 2:
            end = 3 + 2 * body[2]
            if len(body) < end + 3 or body[end + 2] & 0x0F:  # not to full precision
                continue
            missing -= {(c, n) for c in body[3:end:2] for n in range(body[end], min(body[end + 1], 63) + 1)}
    return missing is not None and not missing


def _count_empty_rows(image: Any) -> int:
    """Count the rows at the bottom that have no data."""
    for value in _EMPTY:
        filled = (image != value).bandor() if image.bands > 1 else image != value
        _, rows = filled.project()
        counts = rows.write_to_memory()
        # `project` counts in 32 bits.
        nonzero = [n for n in range(image.height) if any(counts[4 * n : 4 * n + 4])]
        empty = int(image.height) - (nonzero[-1] + 1 if nonzero else 0)
        if empty:
            return empty
    return 0
