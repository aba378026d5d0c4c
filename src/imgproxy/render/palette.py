"""
The `palette` parameter: the main colours of a picture and six named swatches, as JSON or CSS in imgix's form.

Pure arithmetic on the bytes of a small RGB picture. The colours are found by median cut (Heckbert 1982), the swatches
by the target saturation and lightness of Android's Palette library.
"""

from __future__ import annotations

import colorsys
import json
from collections import Counter
from dataclasses import dataclass
from typing import Final

DEFAULT_COLOURS: Final = 6
SIDE_PX: Final = 64

# The swatches are chosen from this many colours.
_CANDIDATES: Final = 16

Rgb = tuple[int, int, int]

# name: lightness (least, target, most), saturation (least, target, most).
_TARGETS: Final = {
    "vibrant": ((0.3, 0.5, 0.7), (0.35, 1.0, 1.0)),
    "vibrant_light": ((0.55, 0.74, 1.0), (0.35, 1.0, 1.0)),
    "vibrant_dark": ((0.0, 0.26, 0.45), (0.35, 1.0, 1.0)),
    "muted": ((0.3, 0.5, 0.7), (0.0, 0.3, 0.4)),
    "muted_light": ((0.55, 0.74, 1.0), (0.0, 0.3, 0.4)),
    "muted_dark": ((0.0, 0.26, 0.45), (0.0, 0.3, 0.4)),
}


@dataclass(frozen=True, slots=True)
class Palette:
    """The main colours, most frequent first; the swatches that were found; the mean luminance, 0-1."""

    colours: tuple[Rgb, ...]
    swatches: dict[str, Rgb]
    luminance: float


def find(pixels: bytes, count: int) -> Palette:
    """Return the palette of H x W x 3 bytes of sRGB."""
    counts = Counter(zip(pixels[0::3], pixels[1::3], pixels[2::3], strict=True))
    total = sum(counts.values())
    luminance = sum((0.2126 * r + 0.7152 * g + 0.0722 * b) * n for (r, g, b), n in counts.items()) / 255 / total
    candidates = median_cut(counts, _CANDIDATES)
    return Palette(tuple(median_cut(counts, count)), _swatches(candidates), luminance)


def median_cut(counts: Counter[Rgb], count: int) -> list[Rgb]:
    """Return at most `count` colours, the most frequent first."""
    if count < 1 or not counts:
        return []
    boxes = [list(counts.items())]
    while len(boxes) < count:
        boxes.sort(key=lambda box: _spread(box)[1] * sum(n for _, n in box))
        widest = boxes[-1]
        band, spread = _spread(widest)
        if spread == 0:
            break
        boxes.pop()
        boxes += _halve(widest, band)
    boxes.sort(key=lambda box: -sum(n for _, n in box))
    return [_mean(box) for box in boxes]


def _spread(box: list[tuple[Rgb, int]]) -> tuple[int, int]:
    """Return the band in which a box is widest, and its width there."""
    widths = [max(c[band] for c, _ in box) - min(c[band] for c, _ in box) for band in range(3)]
    band = widths.index(max(widths))
    return band, widths[band]


def _halve(box: list[tuple[Rgb, int]], band: int) -> list[list[tuple[Rgb, int]]]:
    """Cut a box into two with half of its pixels each. Neither is empty."""
    box = sorted(box, key=lambda item: item[0][band])
    half, seen, at = sum(n for _, n in box) / 2, 0, 0
    while at < len(box) - 1 and (seen + box[at][1] <= half or at == 0):
        seen += box[at][1]
        at += 1
    return [box[:at], box[at:]]


def _mean(box: list[tuple[Rgb, int]]) -> Rgb:
    total = sum(n for _, n in box)
    red, green, blue = (round(sum(c[band] * n for c, n in box) / total) for band in range(3))
    return red, green, blue


def _swatches(candidates: list[Rgb]) -> dict[str, Rgb]:
    found: dict[str, Rgb] = {}
    for name, (lightness, saturation) in _TARGETS.items():
        fitting = []
        for rank, rgb in enumerate(candidates):
            _, light, sat = colorsys.rgb_to_hls(*(band / 255 for band in rgb))
            if lightness[0] <= light <= lightness[2] and saturation[0] <= sat <= saturation[2]:
                score = 3 * (1 - abs(sat - saturation[1])) + 6 * (1 - abs(light - lightness[1])) - rank / 16
                fitting.append((score, rgb))
        if fitting:
            found[name] = max(fitting)[1]
    return found


def as_json(palette: Palette) -> bytes:
    """Write the palette as imgix's JSON."""
    document = {
        "colors": [_describe(rgb) for rgb in palette.colours],
        "average_luminance": round(palette.luminance, 6),
        "dominant_colors": {name: _describe(rgb) for name, rgb in palette.swatches.items()},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def as_css(palette: Palette, prefix: str) -> bytes:
    """Write the palette as imgix's CSS classes: `.image-fg-1`, `.image-bg-1`, …, then white, black and the swatches."""
    named = {str(n): rgb for n, rgb in enumerate(palette.colours, 1)}
    named |= {"white": (255, 255, 255), "black": (0, 0, 0)}
    named |= {name.replace("_", "-"): rgb for name, rgb in palette.swatches.items()}
    lines = [
        f".{prefix}-fg-{name}{{color:{_hex(rgb)} !important;}}\n"
        f".{prefix}-bg-{name}{{background-color:{_hex(rgb)} !important;}}\n"
        for name, rgb in named.items()
    ]
    return "".join(lines).encode()


def _describe(rgb: Rgb) -> dict[str, float | str]:
    red, green, blue = (round(band / 255, 6) for band in rgb)
    return {"red": red, "green": green, "blue": blue, "hex": _hex(rgb)}


def _hex(rgb: Rgb) -> str:
    return f"#{rgb[0]:02x}{rgb[1]:02x}{rgb[2]:02x}"
