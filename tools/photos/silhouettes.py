"""
Parts of the harbour: town, lighthouse, boats and jetty, as RGBA layers on a transparent background.

Each is drawn `SUPERSAMPLE` times too large and then reduced, which smooths its edges.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUPERSAMPLE = 3
LAMPS = ((0.052, 0.742, 0.918), (0.246, 0.798, 0.884))  # on the jetty: x, lamp y, foot y, shares of the picture


def draw_town(width_px: int, height_px: int, horizon: float, rng: np.random.Generator) -> Image.Image:
    """The shore: roofs, towers, cranes, lit windows, and a lighthouse on its rock. RGBA."""
    big = (width_px * SUPERSAMPLE, round(0.30 * height_px) * SUPERSAMPLE)
    layer = Image.new("RGBA", big, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    unit = height_px * SUPERSAMPLE
    ground = big[1]
    x = -0.01 * big[0]
    while x < 0.57 * big[0]:
        bulk = 1 - 0.75 * max(0.0, x / (0.57 * big[0])) ** 1.6
        wide, tall = rng.uniform(0.007, 0.019) * unit, rng.uniform(0.009, 0.034) * unit * bulk + 0.004 * unit
        _draw_house(draw, (x, ground - tall, x + wide, ground), unit, rng)
        x += wide * rng.uniform(0.86, 1.04)
    _draw_tower(draw, 0.118 * big[0], ground, 0.092 * unit)
    _draw_tower(draw, 0.347 * big[0], ground, 0.060 * unit)
    for crane_x in (0.452, 0.476):
        _draw_crane(draw, crane_x * big[0], ground, 0.052 * unit)
    _draw_lighthouse(draw, 0.915 * big[0], ground, unit, rng)
    reduced = layer.resize((width_px, big[1] // SUPERSAMPLE), Image.Resampling.BOX)
    full = Image.new("RGBA", (width_px, height_px), (0, 0, 0, 0))
    full.paste(reduced, (0, round(horizon * height_px) - reduced.height))
    return full


def _draw_house(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], unit: float, rng: np.random.Generator
) -> None:
    left, top, right, bottom = box
    tone = rng.integers(0, 14)
    wall = (int(34 + tone), int(27 + tone), int(50 + tone), 255)
    draw.rectangle(box, fill=wall)
    if rng.random() < 0.62:
        ridge = top - (right - left) * rng.uniform(0.22, 0.45)
        draw.polygon([(left, top), ((left + right) / 2, ridge), (right, top)], fill=wall)
        if rng.random() < 0.5:
            chimney = left + (right - left) * 0.7
            draw.rectangle((chimney, ridge - 0.001 * unit, chimney + 0.0016 * unit, top), fill=wall)
    step_x, step_y = 0.0031 * unit, 0.0042 * unit
    warm = ((255, 205, 120), (255, 184, 92), (255, 226, 168), (214, 220, 255))
    y = top + 0.0018 * unit
    while y + step_y < bottom:
        x = left + 0.0014 * unit
        while x + step_x * 0.8 < right:
            if rng.random() < 0.34:
                glow = warm[int(rng.choice(4, p=(0.45, 0.3, 0.2, 0.05)))]
                draw.rectangle((x, y, x + step_x * 0.42, y + step_y * 0.48), fill=(*glow, 255))
            x += step_x
        y += step_y


def _draw_tower(draw: ImageDraw.ImageDraw, x: float, ground: float, tall: float) -> None:
    """A church tower with its spire and a lit clock."""
    ink, half = (31, 25, 47, 255), tall * 0.095
    draw.rectangle((x - half, ground - tall * 0.62, x + half, ground), fill=ink)
    draw.polygon(
        [(x - half * 1.2, ground - tall * 0.62), (x, ground - tall), (x + half * 1.2, ground - tall * 0.62)],
        fill=ink,
    )
    dot(draw, x, ground - tall * 0.54, half * 0.5, (255, 232, 180, 255))


def _draw_crane(draw: ImageDraw.ImageDraw, x: float, ground: float, tall: float) -> None:
    """A harbour crane: two legs, a lattice, a jib with its cable and a red lamp."""
    ink, pen = (29, 24, 44, 255), max(1, round(tall * 0.022))
    for side in (-0.16, 0.16):
        draw.line((x + side * tall, ground, x, ground - 0.72 * tall), fill=ink, width=pen)
    for level in (0.2, 0.4, 0.6):
        half = 0.16 * tall * (1 - level / 0.72)
        draw.line((x - half, ground - level * tall, x + half, ground - level * tall), fill=ink, width=pen)
    draw.line((x - 0.3 * tall, ground - 0.66 * tall, x + 0.72 * tall, ground - tall), fill=ink, width=pen)
    draw.line((x, ground - 0.72 * tall, x + 0.66 * tall, ground - 0.97 * tall), fill=ink, width=pen)
    draw.line((x + 0.70 * tall, ground - tall, x + 0.70 * tall, ground - 0.42 * tall), fill=ink, width=1)
    dot(draw, x + 0.72 * tall, ground - tall, pen * 1.4, (255, 70, 60, 255))


def _draw_lighthouse(draw: ImageDraw.ImageDraw, x: float, ground: float, unit: float, rng: np.random.Generator) -> None:
    """The rock, the striped tower, its gallery and its lamp."""
    rock = [(x - 0.155 * unit, ground)]
    for share in np.linspace(-0.15, 0.27, 90):
        bulge = 0.034 * math.exp(-((share / 0.11) ** 2)) + (0.010 if share > 0 else 0.0) * min(1.0, share * 12)
        rock.append((x + float(share) * unit, ground - (bulge + rng.uniform(0.0, 0.0035)) * unit))
    rock.append((x + 0.27 * unit, ground))
    draw.polygon(rock, fill=(27, 21, 36, 255))
    foot, top = ground - 0.030 * unit, ground - 0.122 * unit
    for stripe in range(6):
        upper, lower = foot + (top - foot) * (stripe + 1) / 6, foot + (top - foot) * stripe / 6
        half_low, half_high = (0.0098 - 0.0006 * stripe) * unit, (0.0092 - 0.0006 * stripe) * unit
        pale = (176, 150, 158, 255) if stripe % 2 == 0 else (110, 38, 48, 255)
        draw.polygon(
            [(x - half_low, lower), (x - half_high, upper), (x + half_high, upper), (x + half_low, lower)], fill=pale
        )
        shadow = (pale[0] // 2, pale[1] // 2, pale[2] // 2, 255)  # the side away from the afterglow
        draw.polygon(
            [(x + half_low, lower), (x + half_high, upper), (x + 0.002 * unit, upper), (x + 0.002 * unit, lower)],
            fill=shadow,
        )
    draw.rectangle((x - 0.0085 * unit, top - 0.0022 * unit, x + 0.0085 * unit, top), fill=(24, 20, 34, 255))
    draw.rectangle(
        (x - 0.0042 * unit, top - 0.0135 * unit, x + 0.0042 * unit, top - 0.0022 * unit), fill=(255, 240, 190, 255)
    )
    for bar in (-0.0042, -0.0014, 0.0014, 0.0042):
        draw.line((x + bar * unit, top - 0.0135 * unit, x + bar * unit, top), fill=(24, 20, 34, 255), width=SUPERSAMPLE)
    draw.polygon(
        [(x - 0.0062 * unit, top - 0.0135 * unit), (x, top - 0.021 * unit), (x + 0.0062 * unit, top - 0.0135 * unit)],
        fill=(24, 20, 34, 255),
    )


def draw_boat(mast_px: float) -> NDArray[np.float32]:
    """A sloop with furled sails, stays, rails and a riding light: H x W x 4."""
    scale = SUPERSAMPLE
    unit = mast_px * scale
    wide, tall = round(0.92 * unit), round(1.06 * unit)
    layer = Image.new("RGBA", (wide, tall), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    middle, deck, top = wide * 0.47, tall - 0.085 * unit, tall - unit
    hull = (26, 24, 42, 255)
    draw.polygon(
        [
            (middle - 0.36 * unit, deck + 0.004 * unit),
            (middle + 0.43 * unit, deck - 0.022 * unit),
            (middle + 0.34 * unit, tall),
            (middle - 0.31 * unit, tall),
        ],
        fill=hull,
    )
    stripe = max(1, round(0.007 * unit))
    draw.line(
        (middle - 0.345 * unit, deck + 0.03 * unit, middle + 0.40 * unit, deck + 0.008 * unit),
        fill=(214, 160, 140, 255),
        width=stripe,
    )
    draw.polygon(
        [
            (middle - 0.15 * unit, deck),
            (middle - 0.12 * unit, deck - 0.048 * unit),
            (middle + 0.12 * unit, deck - 0.052 * unit),
            (middle + 0.19 * unit, deck - 0.008 * unit),
        ],
        fill=(58, 50, 74, 255),
    )
    for port in range(4):
        x = middle + (-0.085 + 0.055 * port) * unit
        draw.rectangle((x, deck - 0.036 * unit, x + 0.026 * unit, deck - 0.019 * unit), fill=(255, 205, 128, 255))
    mast, pen = max(2, round(0.0105 * unit)), max(1, round(0.0032 * unit))
    draw.line((middle, deck, middle, top), fill=hull, width=mast)
    draw.line((middle, deck - 0.115 * unit, middle - 0.31 * unit, deck - 0.10 * unit), fill=hull, width=mast)
    draw.line(
        (middle - 0.01 * unit, deck - 0.13 * unit, middle - 0.29 * unit, deck - 0.116 * unit),
        fill=(168, 138, 148, 255),
        width=mast * 2,
    )
    for end_x, end_y in ((0.43, deck - 0.022 * unit), (-0.36, deck), (0.10, deck), (-0.08, deck)):
        draw.line((middle, top + 0.01 * unit, middle + end_x * unit, end_y), fill=hull, width=pen)
    for height in (0.42, 0.70):
        draw.line(
            (middle - 0.052 * unit, tall - height * unit, middle + 0.052 * unit, tall - height * unit),
            fill=hull,
            width=pen,
        )
    for post in range(11):
        x = middle + (-0.34 + 0.074 * post) * unit
        draw.line((x, deck - 0.052 * unit, x, deck), fill=hull, width=pen)
    draw.line(
        (middle - 0.34 * unit, deck - 0.05 * unit, middle + 0.41 * unit, deck - 0.068 * unit), fill=hull, width=pen
    )
    dot(draw, middle, top + 0.012 * unit, 0.011 * unit, (255, 244, 214, 255))
    reduced = layer.resize((wide // scale, tall // scale), Image.Resampling.BOX)
    return np.asarray(reduced, np.float32) / np.float32(255)


def draw_jetty(width_px: int, height_px: int) -> Image.Image:
    """The wooden jetty in the lower left corner: planks, posts, a rope and two lamps. RGBA."""
    big = (round(width_px * 0.36) * SUPERSAMPLE, height_px * SUPERSAMPLE)
    layer = Image.new("RGBA", big, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    wide, tall = width_px * SUPERSAMPLE, height_px * SUPERSAMPLE
    ink, edge = (20, 17, 30, 255), (70, 52, 66, 255)
    near, far = (-0.02 * wide, 0.925 * tall), (0.30 * wide, 0.872 * tall)
    thick = 0.016 * tall
    draw.polygon(
        [near, far, (0.335 * wide, 0.884 * tall), (0.06 * wide, tall), (-0.02 * wide, tall)], fill=(33, 27, 43, 255)
    )
    for plank in np.linspace(0, 1, 46):
        ax, ay = near[0] + (far[0] - near[0]) * plank, near[1] + (far[1] - near[1]) * plank
        bx, by = 0.06 * wide + 0.275 * wide * plank, tall - 0.116 * tall * plank
        draw.line((ax, ay, bx, by), fill=(18, 14, 25, 255), width=max(1, round(0.0014 * tall * (1.5 - plank))))
    draw.line((*near, *far), fill=edge, width=max(1, round(0.0022 * tall)))
    draw.polygon(
        [(0.06 * wide, tall), (0.335 * wide, 0.884 * tall), (0.335 * wide, 0.884 * tall + thick), (0.09 * wide, tall)],
        fill=ink,
    )
    ropes: list[tuple[float, float]] = []
    for share in (0.10, 0.36, 0.62, 0.86):
        x, y = near[0] + (far[0] - near[0]) * share, near[1] + (far[1] - near[1]) * share
        half, high = (0.0072 - 0.0028 * share) * tall, (0.062 - 0.022 * share) * tall
        draw.rectangle((x - half, y - high, x + half, y + 0.02 * tall), fill=ink)
        draw.rectangle((x - half, y - high, x - half * 0.35, y + 0.012 * tall), fill=(52, 41, 58, 255))
        draw.ellipse((x - half, y - high - half * 0.5, x + half, y - high + half * 0.5), fill=(84, 64, 74, 255))
        ropes.append((x, y - high * 0.72))
    for (ax, ay), (bx, by) in itertools.pairwise(ropes):
        sag = [(ax + (bx - ax) * t, ay + (by - ay) * t + 0.022 * tall * 4 * t * (1 - t)) for t in np.linspace(0, 1, 40)]
        draw.line(
            [(float(px), float(py)) for px, py in sag], fill=(60, 46, 56, 255), width=max(1, round(0.0022 * tall))
        )
    for x, lamp_y, foot in LAMPS:
        pen = max(2, round(0.0034 * tall))
        draw.line((x * wide, foot * tall, x * wide, lamp_y * tall), fill=ink, width=pen)
        dot(draw, x * wide, lamp_y * tall, 0.0062 * tall, (255, 226, 160, 255))
        draw.line(
            (x * wide - 2.4 * pen, lamp_y * tall - 2 * pen, x * wide + 2.4 * pen, lamp_y * tall - 2 * pen),
            fill=ink,
            width=pen,
        )
    reduced = layer.resize((big[0] // SUPERSAMPLE, height_px), Image.Resampling.BOX)
    full = Image.new("RGBA", (width_px, height_px), (0, 0, 0, 0))
    full.paste(reduced, (0, 0))
    return full


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int | tuple[int, int, int, int]) -> None:
    """A filled circle; all lengths in pixels of the enlarged layer."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
