"""
Writes ICC profiles: of Adobe RGB (1998), for variants in that space, and of any space that a container names.

They have 472 bytes, or 2.5 kB with the curve of sRGB. Profiles from cameras and programs have up to 500 kB. Sources:
ICC.1:2001-04 sections 6 and 7 (layout of version 2.4); Adobe RGB (1998) Color Image Encoding, 2005-05, section 4.3
(primaries, gamma 563/256).
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from imgproxy.render import srgb

if TYPE_CHECKING:
    from imgproxy.render.primaries import Matrix

Xyz = tuple[int, int, int]

# XYZ values as s15Fixed16Number: 65536 is 1.
_D50: Final = (63190, 65536, 54061)
# The primaries, adapted from D65 to the profile's D50 by Bradford's matrix.
_COLUMNS: Final = ((39960, 20389, 1276), (13453, 41004, 3989), (9777, 4143, 48795))
_GAMMA: Final = 563

# sRGB's curve as a table. Version 2 has no formula for it. Between two entries it is off by 0.01 levels of 255 at most.
_TABLE_SIZE: Final = 1024


@functools.cache
def adobe_rgb() -> bytes:
    """Return the Adobe RGB (1998) colour space as an ICC profile."""
    return write_profile("Adobe RGB compatible", _COLUMNS, _GAMMA)


@functools.lru_cache(maxsize=64)
def write_profile(name: str, columns: tuple[Xyz, Xyz, Xyz], gamma: int | None) -> bytes:
    """
    Return a display profile for an RGB space.

    Args:
        name: the description, ASCII.
        columns: XYZ of red, green and blue, adapted to D50, as s15Fixed16Number.
        gamma: the exponent of the transfer curve, times 256. None is the curve of sRGB.
    """
    text = name.encode("ascii") + b"\0"
    curve = _srgb_tag() if gamma is None else b"curv" + bytes(4) + struct.pack(">IH", 1, gamma) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"No copyright\0",
        b"wtpt": _xyz_tag(_D50),
        b"rXYZ": _xyz_tag(columns[0]),
        b"gXYZ": _xyz_tag(columns[1]),
        b"bXYZ": _xyz_tag(columns[2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    return _assemble(tags)


def to_columns(matrix: Matrix) -> tuple[Xyz, Xyz, Xyz]:
    """Return the columns of a matrix from linear RGB to XYZ as s15Fixed16Number."""
    (a, b, c), (d, e, f), (g, h, i) = [[round(value * 65536) for value in row] for row in matrix]
    return (a, d, g), (b, e, h), (c, f, i)


@functools.cache
def _srgb_tag() -> bytes:
    values = [round(65535 * srgb.decode(n / (_TABLE_SIZE - 1))) for n in range(_TABLE_SIZE)]
    return b"curv" + bytes(4) + struct.pack(f">I{_TABLE_SIZE}H", _TABLE_SIZE, *values)


def _assemble(tags: dict[bytes, bytes]) -> bytes:
    """Write header, tag table and data. Equal data (the three curves) is stored once."""
    at = 128 + 4 + 12 * len(tags)
    table, body, places = b"", b"", dict[bytes, int]()
    for signature, data in tags.items():
        if data not in places:
            places[data] = at + len(body)
            body += data + bytes(-len(data) % 4)
        table += signature + struct.pack(">II", places[data], len(data))
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(4 + 4 + 4 + 4 + 8 + 4)
    header += struct.pack(">3i", *_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz_tag(xyz: Xyz) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *xyz)
