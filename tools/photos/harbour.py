"""
Paints "harbour at dusk": 24 megapixels of gradients, haze, ripples, lit windows and rigging.

Everything is computed from fixed seeds, so the picture is our own work (CC0), and the same on every machine with the
same numpy and pillow. Positions are fractions of the width or the height: `paint_harbour(1500, 1000)` is a quick
preview. Arrays are H x W x 3, float32, 0..1, gamma-encoded; masks are H x W.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.photos.silhouettes import LAMPS, dot, draw_boat, draw_jetty, draw_town

Plane = NDArray[np.float32]

HORIZON = 0.585  # of the height
SUN_X = 0.64  # of the width; the sun is just below the horizon

# The sky from the zenith down to the horizon: (share of the way, R, G, B)
SKY = (
    (0.00, 0.045, 0.085, 0.215),
    (0.30, 0.110, 0.165, 0.350),
    (0.55, 0.270, 0.260, 0.455),
    (0.74, 0.540, 0.345, 0.450),
    (0.88, 0.860, 0.470, 0.360),
    (1.00, 0.985, 0.690, 0.420),
)
# Ridges from far to near: (height of the crest, roughness, colour), heights as shares of the picture's height
RIDGES = (
    (0.080, 0.075, (0.500, 0.330, 0.420)),
    (0.056, 0.062, (0.330, 0.230, 0.340)),
    (0.034, 0.040, (0.165, 0.130, 0.225)),
)
# Sailing boats: (x, waterline y, mast height) as shares of width, height, height
BOATS = (
    (0.145, 0.690, 0.215),
    (0.262, 0.648, 0.115),
    (0.415, 0.735, 0.300),
    (0.545, 0.628, 0.070),
    (0.790, 0.668, 0.150),
    (0.868, 0.640, 0.090),
)


def paint_harbour(width_px: int, height_px: int) -> Image.Image:
    """Paint the picture, as RGB."""
    rng = np.random.default_rng(3)
    scene = _paint_sky(width_px, height_px, rng)
    horizon_px = round(HORIZON * height_px)
    for ridge in RIDGES:
        _paint_ridge(scene, horizon_px, ridge, rng)
    _paint_over(scene, draw_town(width_px, height_px, HORIZON, rng))
    _paint_glow(scene, [(0.915, 0.452, 0.055, (1.0, 0.86, 0.55))])
    slope_x, slope_y = _waves(width_px, height_px - horizon_px, rng)
    _paint_water(scene, horizon_px, slope_x, slope_y)
    for x, waterline, mast in sorted(BOATS, key=lambda boat: boat[1]):
        _paint_boat(scene, (x, waterline, mast), horizon_px, slope_x)
    _paint_over(scene, draw_jetty(width_px, height_px))
    _paint_glow(scene, [(x, y, 0.048, (1.0, 0.72, 0.36)) for x, y, _ in LAMPS])
    # The noise of a sensor; it also prevents banding.
    scene += rng.normal(0.0, 0.0045, scene.shape[:2]).astype(np.float32)[..., None]
    return Image.fromarray(np.asarray(np.clip(scene, 0, 1) * 255 + 0.5, dtype=np.uint8), "RGB")


# --- noise -------------------------------------------------------------------------------------------------------


def _noise(width_px: int, height_px: int, cells: tuple[float, float], rng: np.random.Generator) -> Plane:
    """One octave of smooth noise, about -1..1: a random grid, `cells` across and down, enlarged with a bicubic."""
    across, down = max(2, round(cells[0])), max(2, round(cells[1]))
    grid = Image.fromarray(rng.uniform(-1, 1, (down, across)).astype(np.float32))
    return np.asarray(grid.resize((width_px, height_px), Image.Resampling.BICUBIC), dtype=np.float32)


def _fractal(
    width_px: int, height_px: int, cells: tuple[float, float], octaves: int, rng: np.random.Generator
) -> Plane:
    """Octaves of `_noise`, each twice as fine and a little more than half as strong: about -1..1."""
    total = np.zeros((height_px, width_px), dtype=np.float32)
    strength = 1.0
    for octave in range(octaves):
        scale = 2.0**octave
        total += strength * _noise(width_px, height_px, (cells[0] * scale, cells[1] * scale), rng)
        strength *= 0.52
    return total / 1.4


# --- sky and land ------------------------------------------------------------------------------------------------


def _paint_sky(width_px: int, height_px: int, rng: np.random.Generator) -> Plane:
    """Gradient, afterglow, stars and lit clouds. The part below the horizon is painted over later."""
    rows = np.linspace(0, 1 / HORIZON, height_px, dtype=np.float32)
    stops = [stop[0] for stop in SKY]
    column = np.stack([np.interp(rows, stops, [stop[c] for stop in SKY]) for c in (1, 2, 3)], axis=-1)
    scene = np.repeat(column[:, None, :], width_px, axis=1).astype(np.float32)

    x = np.linspace(0, 1, width_px, dtype=np.float32)[None, :] - SUN_X
    y = (np.linspace(0, 1, height_px, dtype=np.float32)[:, None] - HORIZON) * (height_px / width_px)
    near = np.exp(-(x * x + 5 * y * y) / 0.020)
    wide = np.exp(-(x * x + 3 * y * y) / 0.190)
    scene += wide[..., None] * np.array((0.10, 0.035, -0.03), np.float32)
    scene += near[..., None] * np.array((0.16, 0.20, 0.16), np.float32)

    stars = Image.new("L", (width_px, height_px), 0)
    draw = ImageDraw.Draw(stars)
    for _ in range(300):
        sx, sy, size = rng.uniform(0, 1), rng.beta(1, 3) * 0.36, rng.exponential(0.00022) + 0.0001
        dot(draw, sx * width_px, sy * height_px, size * width_px, int(rng.uniform(70, 210)))
    fade = np.clip(1 - np.linspace(0, 1, height_px, dtype=np.float32)[:, None] / 0.38, 0, 1)
    scene += (np.asarray(stars, np.float32) / 255 * fade)[..., None]
    _paint_clouds(scene, wide, rng)
    return scene


def _paint_clouds(scene: Plane, warmth: Plane, rng: np.random.Generator) -> None:
    """Long clouds, thin above and gathered low, lit from beneath by what is left of the sun."""
    height_px, width_px = scene.shape[:2]
    rows = np.linspace(0, 1, height_px, dtype=np.float32)[:, None] / HORIZON
    shape = _fractal(width_px, height_px, (4, 13), 7, rng)
    cover = np.clip((shape - 0.02 - 0.35 * np.abs(rows - 0.62)) * 2.4, 0, 1) ** 1.25
    cover *= np.clip((0.985 - rows) / 0.12, 0, 1) * 0.92
    lift = round(0.012 * height_px)
    under = np.clip(shape - np.roll(shape, -lift, axis=0) + 0.12, 0, 0.6) / 0.6  # thinner below: lit from there
    shade = np.array((0.235, 0.215, 0.345), np.float32)
    lit = np.array((1.0, 0.55, 0.40), np.float32)
    glow = np.clip(under * (0.35 + 1.0 * warmth) * np.clip(rows * 1.35, 0, 1), 0, 1)[..., None]
    scene += cover[..., None] * (shade * (1 - glow) + lit * glow - scene)


def _paint_ridge(
    scene: Plane,
    horizon_px: int,
    ridge: tuple[float, float, tuple[float, float, float]],
    rng: np.random.Generator,
) -> None:
    """Paint one line of hills, with haze towards the water."""
    height_px, width_px = scene.shape[:2]
    crest, roughness, colour = ridge
    line = _fractal(width_px, 2, (5, 2), 9, rng)[0] * roughness
    x = np.linspace(0, 1, width_px, dtype=np.float32)
    valley = 1 - 0.62 * np.exp(-(((x - SUN_X) / 0.20) ** 2))  # a gap for the sun
    top_px = horizon_px - (crest * valley + line * valley) * height_px
    y = np.arange(height_px, dtype=np.float32)[:, None]
    mask = np.clip(y - top_px[None, :] + 0.5, 0, 1) * (y < horizon_px)
    depth = np.clip((y - top_px[None, :]) / (crest * height_px), 0, 1)
    haze = np.array((0.93, 0.60, 0.45), np.float32)
    paint = np.array(colour, np.float32) + (haze - np.array(colour, np.float32)) * (0.30 * depth)[..., None]
    paint *= 1 + 0.07 * _fractal(width_px, height_px, (18 / crest, 14 / crest), 3, rng)[..., None]  # woods
    scene += mask[..., None] * (paint - scene)


# --- water -------------------------------------------------------------------------------------------------------


def _waves(width_px: int, height_px: int, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """
    Slopes of the water in x and in y for each pixel below the horizon, about -1..1.

    A sum of waves on a plane seen in perspective: a pixel at depth d below the horizon lies at (x / d, 1 / d). Waves
    too fine for their distance are faded out before they alias.
    """
    depth = (np.arange(height_px, dtype=np.float32)[:, None] + 1.0) / height_px
    aspect = width_px / height_px
    ground_x = (np.linspace(-0.5, 0.5, width_px, dtype=np.float32)[None, :] * aspect) / depth
    ground_y = 1.0 / depth
    pixel_y = ground_y / (depth * height_px)  # how much ground one row covers
    slope_x = np.zeros((height_px, width_px), dtype=np.float32)
    slope_y = np.zeros((height_px, width_px), dtype=np.float32)
    for _ in range(34):
        frequency = float(np.exp(rng.uniform(np.log(4.0), np.log(120.0))))
        angle = float(rng.normal(math.pi / 2, 0.55))
        kx, ky = frequency * math.cos(angle), frequency * math.sin(angle)
        visible = np.exp(-((np.abs(ky) * pixel_y / 1.6) ** 2))
        wave = np.cos(kx * ground_x + ky * ground_y + rng.uniform(0, 2 * math.pi)) * visible
        strength = frequency**-0.25 * 0.42
        slope_x += strength * math.cos(angle) * wave
        slope_y += strength * math.sin(angle) * wave
    return slope_x, slope_y


def _paint_water(scene: Plane, horizon_px: int, slope_x: Plane, slope_y: Plane) -> None:
    """Paint the reflection of everything above the horizon, broken by the waves, darker towards the viewer."""
    height_px, width_px = scene.shape[:2]
    below = height_px - horizon_px
    depth = (np.arange(below, dtype=np.float32)[:, None] + 1.0) / below
    reach = (0.012 + 0.30 * depth) * below
    row = horizon_px - depth * below * 1.15 + slope_y * reach * 0.62 - 1
    column = np.arange(width_px, dtype=np.float32)[None, :] + slope_x * reach * 0.22
    row = np.where(row > horizon_px - 1, 2 * (horizon_px - 1) - row, row)
    rows = np.clip(row, 0, horizon_px - 1).astype(np.int32)
    columns = np.clip(column, 0, width_px - 1).astype(np.int32)
    mirror = scene[rows, columns]
    deep = np.array((0.030, 0.055, 0.105), np.float32)
    share = np.clip(0.90 - 0.46 * depth + 0.16 * slope_y, 0.12, 0.97)[..., None]  # Fresnel: flat views reflect more
    scene[horizon_px:] = deep + (mirror - deep) * share
    shore = np.exp(-depth * 240)[..., None]
    scene[horizon_px:] += shore * (np.array((0.10, 0.08, 0.13), np.float32) - scene[horizon_px:]) * 0.75


# --- things on the water -----------------------------------------------------------------------------------------


def _paint_boat(scene: Plane, boat: tuple[float, float, float], horizon_px: int, slope_x: Plane) -> None:
    """Paint a sailing boat at anchor and its reflection."""
    height_px, width_px = scene.shape[:2]
    mast_px = boat[2] * height_px
    sprite = draw_boat(mast_px)
    tall, wide = sprite.shape[:2]
    left, base = round(boat[0] * width_px - wide / 2), round(boat[1] * height_px)
    squash = 0.80
    for row in range(min(round(tall * squash), height_px - base)):
        source = tall - 1 - int(row / squash)
        wobble = slope_x[min(base + row - horizon_px, slope_x.shape[0] - 1), max(left, 0) : left + wide]
        shift = wobble * (1.2 + row * 0.11) * (mast_px / 500)
        x = np.clip(np.arange(wobble.size) + max(-left, 0) + shift * 3, 0, wide - 1).astype(np.int32)
        pixel = sprite[source, x]
        target = scene[base + row, max(left, 0) : left + wide]
        alpha = pixel[:, 3:] * max(0.0, 0.80 - 0.55 * row / tall)
        target += alpha * (pixel[:, :3] * 0.75 - target)
    top, first = base - tall, max(-left, 0)
    view = scene[top:base, max(left, 0) : left + wide]
    part = sprite[:, first : first + view.shape[1]]
    view += part[..., 3:] * (part[..., :3] - view)


# --- putting paint on the picture --------------------------------------------------------------------------------


def _paint_over(scene: Plane, layer: Image.Image) -> None:
    """Composite an RGBA layer of the scene's size."""
    pixels = np.asarray(layer, np.float32) / 255
    scene += pixels[..., 3:] * (pixels[..., :3] - scene)


def _paint_glow(scene: Plane, lamps: list[tuple[float, float, float, tuple[float, float, float]]]) -> None:
    """Add a halo around each lamp: (x, y, radius, colour), shares of width, height and height."""
    height_px, width_px = scene.shape[:2]
    for x, y, radius, colour in lamps:
        size = round(radius * height_px)
        cx, cy = round(x * width_px), round(y * height_px)
        offset = np.arange(-size, size + 1, dtype=np.float32) / size
        distance = np.sqrt(offset[:, None] ** 2 + offset[None, :] ** 2)
        halo = np.clip(1 - distance, 0, 1) ** 2.6 * 0.75
        scene[cy - size : cy + size + 1, cx - size : cx + size + 1] += halo[..., None] * np.array(colour, np.float32)
