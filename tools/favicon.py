"""
Draws the favicon: a picture with a hill and a sun, and a smaller copy of it in front, as the service makes them.

`python -m tools.favicon` writes `src/imgproxy/edge/assets/favicon.ico`, with the icon in three sizes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

FILE: Final = Path(__file__).parents[1] / "src" / "imgproxy" / "edge" / "assets" / "favicon.ico"
SIZES_PX: Final = (16, 32, 48)
# The drawing is made on a grid of 16 by 16, then enlarged, so that its edges fall between pixels in every size.
GRID: Final = 16
# Each pixel of the icon is the mean of this many, squared.
OVERSAMPLING: Final = 8

SKY: Final = "#1d6f8a"
HILL: Final = "#0d3b4f"
SUN: Final = "#ffd166"
FRAME: Final = "#ffffff"


def icon() -> bytes:
    """Return the file: an ICO with a PNG of each size."""
    largest, *others = (drawing(size_px) for size_px in reversed(SIZES_PX))
    out = io.BytesIO()
    largest.save(out, "ICO", sizes=[(size_px, size_px) for size_px in SIZES_PX], append_images=others)
    return out.getvalue()


def drawing(size_px: int) -> Image.Image:
    """Return the icon in one size, with alpha."""
    unit = size_px * OVERSAMPLING / GRID
    side = size_px * OVERSAMPLING
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)

    def at(*grid: float) -> list[float]:
        return [value * unit for value in grid]

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * unit, top * unit, right * unit - 1, bottom * unit - 1

    # The original.
    draw.rounded_rectangle(box(0, 0, 14, 13), 2 * unit, fill=SKY)
    draw.ellipse(box(8, 2, 11, 5), fill=SUN)
    draw.polygon(at(0, 11, 5, 4, 10, 11), fill=HILL)
    draw.rounded_rectangle(box(0, 10, 14, 13), 2 * unit, fill=HILL)
    # The variant: a white frame, and the same picture at half the size.
    draw.rounded_rectangle(box(7, 7, 16, 16), 1.5 * unit, fill=FRAME)
    draw.rectangle(box(8, 8, 15, 15), fill=SKY)
    draw.ellipse(box(12, 9, 14, 11), fill=SUN)
    draw.polygon(at(8, 14, 10.5, 10.5, 13, 14), fill=HILL)
    draw.rectangle(box(8, 13, 15, 15), fill=HILL)
    return canvas.resize((size_px, size_px), Image.Resampling.BOX)


if __name__ == "__main__":
    FILE.write_bytes(icon())
