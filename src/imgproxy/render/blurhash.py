"""
BlurHash: a picture as a few dozen characters. Source: https://github.com/woltapp/blurhash, Algorithm.md.

Pure arithmetic on the bytes of a small RGB picture.
"""

from __future__ import annotations

import math
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~"

# Components across and down; the size the picture is brought to before. 4 x 3 is the reference's own example.
COMPONENTS: Final = (4, 3)
SIDE_PX: Final = 32

Rgb = tuple[float, float, float]


def encode(pixels: bytes, width_px: int, height_px: int) -> str:
    """Return the hash of H x W x 3 bytes of sRGB."""
    linear = [_to_linear(value) for value in range(256)]
    across, down = COMPONENTS
    factors = [_factor(pixels, (width_px, height_px), (i, j), linear) for j in range(down) for i in range(across)]
    flag = (across - 1) + (down - 1) * 9
    largest = max(abs(value) for factor in factors[1:] for value in factor)
    quantised = max(0, min(82, math.floor(largest * 166 - 0.5)))
    text = _base83(flag, 1) + _base83(quantised, 1) + _base83(_encode_dc(factors[0]), 4)
    scale = (quantised + 1) / 166
    return text + "".join(_base83(_encode_ac(factor, scale), 2) for factor in factors[1:])


def _factor(pixels: bytes, size: tuple[int, int], wave: tuple[int, int], linear: list[float]) -> Rgb:
    width, height = size
    rows = [math.cos(math.pi * wave[1] * y / height) for y in range(height)]
    columns = [math.cos(math.pi * wave[0] * x / width) for x in range(width)]
    total = [0.0, 0.0, 0.0]
    at = 0
    for row in rows:
        for column in columns:
            basis = row * column
            total[0] += basis * linear[pixels[at]]
            total[1] += basis * linear[pixels[at + 1]]
            total[2] += basis * linear[pixels[at + 2]]
            at += 3
    norm = (1 if wave == (0, 0) else 2) / (width * height)
    return total[0] * norm, total[1] * norm, total[2] * norm


def _encode_dc(rgb: Rgb) -> int:
    red, green, blue = (_to_srgb(value) for value in rgb)
    return (red << 16) + (green << 8) + blue


def _encode_ac(rgb: Rgb, scale: float) -> int:
    red, green, blue = (
        max(0, min(18, math.floor(math.copysign(abs(value / scale) ** 0.5, value) * 9 + 9.5))) for value in rgb
    )
    return red * 19 * 19 + green * 19 + blue


def _base83(value: int, digits: int) -> str:
    return "".join(ALPHABET[value // 83 ** (digits - n) % 83] for n in range(1, digits + 1))


def _to_linear(value: int) -> float:
    v = value / 255
    return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4


def _to_srgb(value: float) -> int:
    v = max(0.0, min(1.0, value))
    return int(v * 12.92 * 255 + 0.5) if v <= 0.0031308 else int((1.055 * v ** (1 / 2.4) - 0.055) * 255 + 0.5)
