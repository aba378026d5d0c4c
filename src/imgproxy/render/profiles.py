"""
Make small ICC profiles from their definitions, for variants in another colour space than sRGB.

A matrix/TRC display profile of ICC version 2.4 with one gamma value has 400 to 500 bytes. Profiles from cameras and
programs have up to 500 kB. Sources: ICC.1:2001-04 sections 6 and 7 (layout); Adobe RGB (1998) Color Image Encoding,
2005-05, section 4.3 (primaries, gamma 563/256); Lindbloom's Bradford matrix (D65 to the profile's D50).
"""

from __future__ import annotations

import functools
import struct
from typing import Final

_D50: Final = (0.9642, 1.0, 0.8249)
_D65_XY: Final = (0.3127, 0.3290)
_ADOBE_XY: Final = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_ADOBE_GAMMA: Final = 563 / 256

_BRADFORD: Final = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)

Matrix = tuple[tuple[float, ...], ...]


@functools.cache
def adobe_rgb() -> bytes:
    """Return the Adobe RGB (1998) colour space as an ICC profile."""
    return matrix_profile("Adobe RGB compatible", _ADOBE_XY, _D65_XY, _ADOBE_GAMMA)


def matrix_profile(
    name: str, primaries: tuple[tuple[float, float], ...], white: tuple[float, float], gamma: float
) -> bytes:
    """
    Return a display profile for an RGB space.

    Args:
        name: the description, ASCII.
        primaries: CIE xy of red, green and blue.
        white: CIE xy of the white point.
        gamma: the exponent of the transfer curve, to 1/256.
    """
    to_d50 = _adaptation(_xyz(white))
    columns = _transpose(_multiply(to_d50, _rgb_to_xyz(primaries, _xyz(white))))
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": _description(name),
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
    header += b"".join(_fixed(value) for value in _D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _description(name: str) -> bytes:
    text = name.encode("ascii") + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 2 + 1 + 67)


def _xyz_tag(xyz: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(value) for value in xyz)


def _fixed(value: float) -> bytes:
    """Write an s15Fixed16Number."""
    return struct.pack(">i", round(value * 65536))


def _xyz(xy: tuple[float, float]) -> tuple[float, float, float]:
    return xy[0] / xy[1], 1.0, (1 - xy[0] - xy[1]) / xy[1]


def _rgb_to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float, float]) -> Matrix:
    """Return the matrix of the primaries, scaled so that RGB (1, 1, 1) is the white point."""
    columns = _transpose(tuple(_xyz(primary) for primary in primaries))
    scale = _apply(_inverse(columns), white)
    return tuple(tuple(value * factor for value, factor in zip(row, scale, strict=True)) for row in columns)


def _adaptation(white: tuple[float, float, float]) -> Matrix:
    """Return Bradford's adaptation from a white point to D50."""
    source, target = _apply(_BRADFORD, white), _apply(_BRADFORD, _D50)
    scale = tuple(tuple(target[i] / source[i] if i == j else 0.0 for j in range(3)) for i in range(3))
    return _multiply(_inverse(_BRADFORD), _multiply(scale, _BRADFORD))


def _transpose(m: Matrix) -> Matrix:
    return tuple(zip(*m, strict=True))


def _multiply(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(sum(x * y for x, y in zip(row, col, strict=True)) for col in _transpose(b)) for row in a)


def _apply(m: Matrix, v: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sum(x * y for x, y in zip(row, v, strict=True)) for row in m)


def _inverse(m: Matrix) -> Matrix:
    """Invert a 3 x 3 matrix, by its adjugate."""
    (a, b, c), (d, e, f), (g, h, i) = m
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return (
        ((e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det),
        ((f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det),
        ((d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det),
    )
