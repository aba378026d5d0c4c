"""
Recognises the ICC profiles of sRGB.

Most tagged pictures have one of a dozen such profiles. A conversion from it to sRGB would change a value by one
level at most. It takes 4 ms a picture and 15 ns a pixel, up to a fifth of a small render, so it is left out. Sources:
ICC.1:2022 sections 7.3 (tag table), 10.6 and 10.18 (curves), 10.31 (XYZ); IEC 61966-2-1 (sRGB's curve).
"""

from __future__ import annotations

import struct
from typing import Final

# sRGB's primaries, adapted to the D50 of every profile, as registered by the ICC: the columns of its matrix.
_COLUMNS: Final = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
_CURVES: Final = (b"rTRC", b"gTRC", b"bTRC")

# Known profiles of sRGB differ by this much. A thousandth of linear light is a quarter of a level in the middle.
_COLUMN_SLACK: Final = 0.001
# Half a level of 255: a smaller error of a curve is lost in rounding.
_CURVE_SLACK: Final = 0.5 / 255

# If a profile has tables beside its matrix, the tables are used. So it does not count as sRGB.
_TABLES: Final = (b"A2B", b"B2A", b"D2B", b"B2D")
_TAGS_MAX: Final = 100
_STEPS: Final = range(0, 256, 5)


def is_srgb(profile: bytes) -> bool:
    """Whether a conversion from this profile to sRGB changes no 8-bit value by more than one."""
    if len(profile) < 132 or profile[16:24] != b"RGB XYZ " or profile[36:40] != b"acsp":
        return False
    try:
        tags = _tags(profile)
        if any(name[:3] in _TABLES for name in tags):
            return False
        return all(_is_column(tags[name], wanted) for name, wanted in _COLUMNS.items()) and all(
            _is_curve(data) for data in {tags[name] for name in _CURVES}
        )
    except (KeyError, struct.error, ArithmeticError):
        return False


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    found = {}
    for index in range(min(count, _TAGS_MAX)):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        found[name] = profile[start : start + size]
    return found


def _is_column(data: bytes, wanted: tuple[float, float, float]) -> bool:
    found = [value / 65536 for value in struct.unpack_from(">3i", data, 8)]
    return data[:4] == b"XYZ " and all(
        abs(value - other) <= _COLUMN_SLACK for value, other in zip(found, wanted, strict=True)
    )


def _is_curve(data: bytes) -> bool:
    """Whether a curve agrees with sRGB's curve, compared as encoded values."""
    return all(abs(encode(_linearise(data, step / 255)) - step / 255) <= _CURVE_SLACK for step in _STEPS)


def _linearise(data: bytes, value: float) -> float:
    """Return the linear light of an encoded value. Raises KeyError for a kind of curve that sRGB never has."""
    if data[:4] == b"para":
        kind, _, gamma, a, b, c, d = struct.unpack_from(">HH5i", data, 8)
        if kind != 3:
            raise KeyError(kind)
        gamma, a, b, c, d = (number / 65536 for number in (gamma, a, b, c, d))
        return float(max(0.0, a * value + b) ** gamma) if value >= d else c * value
    (count,) = struct.unpack_from(">I", data, 8)
    if data[:4] != b"curv" or count < 2:  # 0 entries are a linear curve, 1 is a plain power: not sRGB
        raise KeyError(count)
    at = value * (count - 1)
    low = min(int(at), count - 2)
    below, above = struct.unpack_from(">2H", data, 12 + 2 * low)
    return float(below + (above - below) * (at - low)) / 65535


def encode(light: float) -> float:
    """Return the value that encodes linear light by the curve of sRGB."""
    return 12.92 * light if light <= 0.0031308 else float(1.055 * light ** (1 / 2.4) - 0.055)


def decode(value: float) -> float:
    """Return the linear light that a value encodes by the curve of sRGB."""
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
