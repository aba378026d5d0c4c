"""
The ICC profile of Adobe RGB (1998), for variants in that colour space. It has 472 bytes.

Profiles from cameras and programs have up to 500 kB. Sources: ICC.1:2001-04 sections 6 and 7 (layout of version 2.4);
Adobe RGB (1998) Color Image Encoding, 2005-05, section 4.3 (primaries, gamma 563/256).
"""

from __future__ import annotations

import functools
import struct
from typing import Final

Xyz = tuple[int, int, int]

# XYZ values as s15Fixed16Number: 65536 is 1.
_D50: Final = (63190, 65536, 54061)
# The primaries, adapted from D65 to the profile's D50 by Bradford's matrix.
_COLUMNS: Final = ((39960, 20389, 1276), (13453, 41004, 3989), (9777, 4143, 48795))
_GAMMA: Final = 563


@functools.cache
def adobe_rgb() -> bytes:
    """Return the Adobe RGB (1998) colour space as an ICC profile."""
    return write_profile("Adobe RGB compatible", _COLUMNS, _GAMMA)


def write_profile(name: str, columns: tuple[Xyz, Xyz, Xyz], gamma: int) -> bytes:
    """
    Return a display profile for an RGB space.

    Args:
        name: the description, ASCII.
        columns: XYZ of red, green and blue, adapted to D50, as s15Fixed16Number.
        gamma: the exponent of the transfer curve, times 256.
    """
    text = name.encode("ascii") + b"\0"
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, gamma) + bytes(2)
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
