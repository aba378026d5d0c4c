"""
TIFF in 8-bit CIE L*a*b*, which Photoshop writes in Lab mode. libvips 8.18 refuses it ("bad labq format").

One value in the header is changed, so that libvips reads the file as RGB. The three bands are then converted: L* is
0-100 in 0-255, a* and b* are signed bytes. Source: TIFF 6.0, sections 2 (structure) and 23.
"""

from __future__ import annotations

import struct
from typing import Any, Final

_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
_CIE_LAB: Final = 8
_RGB: Final = 2
_SHORT: Final = 3

_PAGES_MAX: Final = 1000


def as_rgb_file(path: str) -> bytes | None:
    """Return the bytes of an 8-bit Lab TIFF with its pages declared as RGB, or None for any other file."""
    with open(path, "rb") as file:
        head = file.read(8)
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
        if order is None or len(head) < 8:
            return None
        places = _find_lab_pages(file, order, struct.unpack(f"{order}I", head[4:8])[0])
        if not places:
            return None
        file.seek(0)
        data = bytearray(file.read())
    for place in places:
        struct.pack_into(f"{order}H", data, place, _RGB)
    return bytes(data)


def _find_lab_pages(file: Any, order: str, at: int) -> list[int]:
    """Return the offset of the photometric interpretation of each 8-bit Lab page."""
    places: list[int] = []
    for _ in range(_PAGES_MAX):
        file.seek(at)
        counted = file.read(2)
        if at == 0 or len(counted) < 2:
            break
        count = struct.unpack(f"{order}H", counted)[0]
        entries = file.read(12 * count + 4)
        if len(entries) < 12 * count + 4:
            break
        tags = {struct.unpack_from(f"{order}H", entries, 12 * n)[0]: n for n in range(count)}
        if _PHOTOMETRIC in tags and _is_eight_bit(file, order, entries, tags):
            value = 12 * tags[_PHOTOMETRIC] + 8
            if struct.unpack_from(f"{order}H", entries, value)[0] == _CIE_LAB:
                places.append(at + 2 + value)
        at = struct.unpack_from(f"{order}I", entries, 12 * count)[0]
    return places


def _is_eight_bit(file: Any, order: str, entries: bytes, tags: dict[int, int]) -> bool:
    if _BITS_PER_SAMPLE not in tags:
        return False
    entry = 12 * tags[_BITS_PER_SAMPLE]
    kind, count = struct.unpack_from(f"{order}HI", entries, entry + 2)
    if kind != _SHORT:
        return False
    if count <= 2:
        return bool(struct.unpack_from(f"{order}H", entries, entry + 8)[0] == 8)
    file.seek(struct.unpack_from(f"{order}I", entries, entry + 8)[0])
    return bool(file.read(2) == struct.pack(f"{order}H", 8))


def as_lab(image: Any) -> Any:
    """Convert bands that were loaded as RGB to L*a*b*. A fourth band is alpha."""
    lightness = image.extract_band(0).linear(100 / 255, 0)
    signed = image.extract_band(1, n=2)
    signed = (signed >= 128).ifthenelse(signed.cast("float") - 256, signed)
    lab = lightness.bandjoin(signed.cast("float"))
    if image.bands > 3:
        lab = lab.bandjoin(image.extract_band(3).cast("float"))
    return lab.copy(interpretation="lab")
