"""
Draws a weather symbol with transparency, and a rain radar of 24 frames.

Both come from fixed seeds and are our own work (CC0). The symbol tests alpha: glows and shadows that fade out, holes,
and colour under alpha near 0. The radar tests frames, delays and a palette.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUPERSAMPLE = 2
RADAR_FRAMES = 24
# Rain from light to heavy; then the colours of the map
RAIN = ((156, 205, 235), (92, 160, 220), (44, 108, 196), (250, 214, 92), (240, 132, 58), (206, 52, 66))
SEA, LAND, COAST, BORDER, INK = (205, 219, 228), (240, 238, 228), (150, 160, 162), (190, 186, 172), (46, 52, 60)
# Invented places on the invented coast: (name, x, y) as shares of width and height
TOWNS = (("Harbour", 0.40, 0.52), ("Northgate", 0.60, 0.22), ("Millbridge", 0.74, 0.55), ("Saltford", 0.47, 0.80))


def draw_weather_symbol(width_px: int, height_px: int) -> Image.Image:
    """Draw a sun behind a cloud, with rain, on a transparent background: RGBA, straight alpha."""
    size = (width_px * SUPERSAMPLE, height_px * SUPERSAMPLE)
    unit = size[1]
    picture = Image.new("RGBA", size, (255, 190, 60, 0))
    sun = (0.60 * size[0], 0.36 * unit)
    picture.alpha_composite(_glow(size, sun, 0.46 * unit))
    rays = Image.new("RGBA", size, (255, 196, 40, 0))
    pen = ImageDraw.Draw(rays)
    for ray in range(16):
        angle = 2 * math.pi * ray / 16 + 0.1
        inner, outer = 0.215 * unit, (0.325 if ray % 2 == 0 else 0.28) * unit
        spread = 0.055
        pen.polygon(
            [
                (sun[0] + inner * math.cos(angle - spread), sun[1] + inner * math.sin(angle - spread)),
                (sun[0] + outer * math.cos(angle), sun[1] + outer * math.sin(angle)),
                (sun[0] + inner * math.cos(angle + spread), sun[1] + inner * math.sin(angle + spread)),
            ],
            fill=(255, 190, 30, 235),
        )
    picture.alpha_composite(rays)
    picture.alpha_composite(_disc(size, sun, 0.185 * unit, (255, 226, 110), (250, 158, 24)))

    cloud = _cloud_mask(size)
    shadow = Image.new("RGBA", size, (24, 36, 66, 0))
    shadow.putalpha(
        _shifted(cloud, 0, round(0.030 * unit)).filter(ImageFilter.GaussianBlur(0.028 * unit)).point(lambda a: a * 0.42)
    )
    picture.alpha_composite(_rain(size))
    picture.alpha_composite(shadow)
    body = _vertical_gradient(size, (0.30, 0.78), (252, 253, 255), (168, 184, 210))
    body.putalpha(cloud)
    picture.alpha_composite(body)
    return picture.resize((width_px, height_px), Image.Resampling.LANCZOS)


def _glow(size: tuple[int, int], centre: tuple[float, float], radius: float) -> Image.Image:
    """A halo that fades from half opaque to transparent; its colour stays the same."""
    x = np.arange(size[0], dtype=np.float32)[None, :] - centre[0]
    y = np.arange(size[1], dtype=np.float32)[:, None] - centre[1]
    share = np.clip(1 - np.sqrt(x * x + y * y) / radius, 0, 1)
    halo = np.empty((size[1], size[0], 4), dtype=np.uint8)
    halo[..., :3] = (255, 206, 92)
    halo[..., 3] = (share**1.7 * 175).astype(np.uint8)
    return Image.fromarray(halo, "RGBA")


def _disc(
    size: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    top: tuple[int, int, int],
    bottom: tuple[int, int, int],
) -> Image.Image:
    mask = Image.new("L", size, 0)
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    disc = _vertical_gradient(size, (box[1] / size[1], box[3] / size[1]), top, bottom)
    disc.putalpha(mask)
    return disc


def _vertical_gradient(
    size: tuple[int, int], span: tuple[float, float], top: tuple[int, int, int], bottom: tuple[int, int, int]
) -> Image.Image:
    """From `top` to `bottom` between two shares of the height."""
    share = np.clip((np.arange(size[1]) / size[1] - span[0]) / (span[1] - span[0]), 0, 1)[:, None]
    column = np.array(top) * (1 - share) + np.array(bottom) * share
    pixels = np.repeat(column[:, None, :], size[0], axis=1)
    return Image.fromarray(np.asarray(pixels + 0.5, np.uint8), "RGB").convert("RGBA")


def _cloud_mask(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    pen, unit, left = ImageDraw.Draw(mask), size[1], 0.16 * size[0]
    for x, y, radius in ((0.17, 0.56, 0.145), (0.37, 0.46, 0.200), (0.60, 0.52, 0.165), (0.77, 0.585, 0.120)):
        cx, cy, r = left + x * unit, y * unit, radius * unit
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    pen.rectangle((left + 0.17 * unit, 0.5 * unit, left + 0.77 * unit, 0.705 * unit), fill=255)
    return mask


def _shifted(mask: Image.Image, x: int, y: int) -> Image.Image:
    moved = Image.new("L", mask.size, 0)
    moved.paste(mask, (x, y))
    return moved


def _rain(size: tuple[int, int]) -> Image.Image:
    layer = Image.new("RGBA", size, (40, 120, 220, 0))
    pen, unit, left = ImageDraw.Draw(layer), size[1], 0.16 * size[0]
    for drop in range(6):
        x, y = left + (0.13 + 0.135 * drop) * unit, (0.755 + 0.045 * (drop % 2)) * unit
        lean, long, wide = 0.035 * unit, 0.115 * unit, 0.017 * unit
        pen.polygon(
            [(x + lean, y), (x - wide * 1.1, y + long * 0.74), (x + wide * 1.1, y + long * 0.80)],
            fill=(52, 132, 224, 225),
        )
        pen.ellipse(
            (x - wide * 1.15, y + long * 0.62, x + wide * 1.15, y + long * 0.62 + wide * 2.3), fill=(52, 132, 224, 225)
        )
    return layer


# --- the radar ---------------------------------------------------------------------------------------------------


def draw_radar(width_px: int, height_px: int) -> list[Image.Image]:
    """Draw rain over an invented coast as an endless loop: 24 RGB frames of few flat colours."""
    rng = np.random.default_rng(14)
    land = _tileable(width_px, height_px, 3, 5, rng) + np.linspace(-0.85, 0.75, width_px)[None, :]
    below, above = _tileable(width_px, height_px, 4, 4, rng), _tileable(width_px, height_px, 7, 3, rng)
    chart = _draw_map(land)
    frames = []
    for number in range(RADAR_FRAMES):
        # One field moves east, one south, each by a whole picture in a loop: cells form and dissolve without a jump.
        shift = round(number * width_px / RADAR_FRAMES)
        rain = np.roll(below, shift, axis=1) + 0.6 * np.roll(above, round(number * height_px / RADAR_FRAMES), axis=0)
        rain = rain + 0.25 * np.sin(2 * math.pi * number / RADAR_FRAMES)
        frame = np.asarray(chart).copy()
        for level, colour in enumerate(RAIN):
            frame[rain > 0.50 + 0.30 * level] = colour
        picture = Image.fromarray(frame, "RGB")
        _draw_labels(picture, number)
        frames.append(picture)
    return frames


def _tileable(width_px: int, height_px: int, waves: int, octaves: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of about -1..1 that continues over the edges: left to right, top to bottom."""
    x = np.linspace(0, 2 * math.pi, width_px, endpoint=False)[None, :]
    y = np.linspace(0, 2 * math.pi, height_px, endpoint=False)[:, None]
    total = np.zeros((height_px, width_px))
    for octave in range(octaves):
        top = waves * 2**octave
        for _ in range(9):
            kx, ky = rng.integers(1, top + 1), rng.integers(-top, top + 1)
            total += np.cos(kx * x + ky * y + rng.uniform(0, 2 * math.pi)) * 0.5**octave / 3.2
    return total


def _draw_map(land: NDArray[np.float64]) -> Image.Image:
    """Draw sea, land, the coast and a grid of degrees."""
    height_px, width_px = land.shape
    pixels = np.empty((height_px, width_px, 3), dtype=np.uint8)
    pixels[:] = SEA
    ashore = land > 0
    pixels[ashore] = LAND
    edge = ashore & ~(np.roll(ashore, 1, 0) & np.roll(ashore, -1, 0) & np.roll(ashore, 1, 1) & np.roll(ashore, -1, 1))
    edge[0, :] = edge[-1, :] = edge[:, 0] = edge[:, -1] = False
    pixels[edge] = COAST
    chart = Image.fromarray(pixels, "RGB")
    pen = ImageDraw.Draw(chart)
    for line in range(1, 6):
        x, y = line * width_px // 6, line * height_px // 6
        for dash in range(0, max(width_px, height_px), 10):
            pen.line((x, dash, x, dash + 3), fill=BORDER)
            pen.line((dash, y, dash + 3, y), fill=BORDER)
    return chart


def _draw_labels(picture: Image.Image, number: int) -> None:
    """Draw towns, clock and scale over the rain, in one colour without smoothing: the palette stays small."""
    pen = ImageDraw.Draw(picture)
    pen.fontmode = "1"
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    for name, x, y in TOWNS:
        px, py = round(x * picture.width), round(y * picture.height)
        pen.rectangle((px - 3, py - 3, px + 3, py + 3), fill=INK, outline=(255, 255, 255))
        pen.text((px + 8, py - 8), name, fill=INK, font=small)
    minutes = 5 * number
    pen.rectangle((12, 12, 186, 44), fill=(255, 255, 255), outline=INK)
    pen.text((22, 18), f"Rain radar  {14 + minutes // 60}:{minutes % 60:02d}", fill=INK, font=font)
    base = picture.height - 26
    for level, colour in enumerate(RAIN):
        pen.rectangle((12 + 26 * level, base, 38 + 26 * level, base + 14), fill=colour, outline=INK)
    pen.rectangle((0, picture.height - 4, round(picture.width * (number + 1) / RADAR_FRAMES), picture.height), fill=INK)
