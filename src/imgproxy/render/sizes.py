"""Sizes and rectangles, and the one rule that turns numbers into pixels: round half up, at least one pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Floating point gives 66.4999999999 where 66.5 is meant; this much is added before rounding.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    """Whole pixels."""

    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int

    @property
    def size(self) -> Size:
        """Its width and height."""
        return Size(self.width_px, self.height_px)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the upright source at full size, in fractions of pixels."""

    left: float
    top: float
    width: float
    height: float


def round_px(value: float) -> int:
    """Round half up to whole pixels, at least one."""
    return max(1, round_half_up(value))


def round_half_up(value: float) -> int:
    """Round to the nearest whole number; halves go up."""
    return math.floor(value + 0.5 + _SLACK)


def clamp(value: float, least: float | None, most: float | None) -> float:
    """Keep a value between two bounds. If the bounds contradict each other, the lower one wins."""
    if most is not None:
        value = min(value, most)
    return value if least is None else max(value, least)
