"""
Turns a window of the source into whole pixels to read, a scale, and a cut. Pure arithmetic.

A loaded picture may be smaller than the source: JPEG, WebP and SVG are decoded near the size that is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.render.sizes import Box, Size, round_half_up

if TYPE_CHECKING:
    from imgproxy.render.sizes import Window

# A window that starts this close to the edge of a pixel starts at it: the difference is floating point.
_EDGE_SLACK: Final = 1e-6
# A factor this close to 1 is 1: over 8192 pixels the difference is a hundredth of a pixel.
_FACTOR_SLACK: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Enlargement:
    """
    Enlarge a picture to `size` by exact factors, each at least 1.

    `left` and `top` say where the window begins in the first pixel: 0 at its edge, 0.5 in its middle.
    """

    size: Size
    across: float
    down: float
    left: float = 0.0
    top: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    Read `box` of the loaded picture, reduce it to `reduced`, cut out `cut` (None: keep all), then enlarge.

    `across` and `down` are the exact factors of the reduction, at most 1. `reduced` is the box times these factors,
    rounded. An axis that is enlarged is neither reduced nor cut: the enlargement places its window exactly.
    """

    box: Box
    reduced: Size
    cut: Box | None
    across: float
    down: float
    enlargement: Enlargement | None = None


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a Sampling: `begin_px` and `length_px` of the box, the factor, what the reduction makes, the cut."""

    begin_px: int
    length_px: int
    factor: float
    reduced_px: int
    cut_px: int
    kept_px: int
    offset: float = 0.0


def sample(window: Window, target: Size, *, loaded: Size, ratio: tuple[float, float]) -> Sampling:
    """
    Turn a window of the source into whole pixels of the loaded picture.

    Args:
        window: in pixels of the upright source at full size.
        target: the size that the window becomes.
        loaded: the size of the loaded picture, upright.
        ratio: loaded pixels per source pixel, across and down. The two sizes do not give it: a JPEG of 2725 px that is
            shrunk by two loads as 1362 px, each of them two source pixels wide. 1362 / 2725 would stretch the picture
            by half a pixel.

    Returns:
        The smallest box of loaded pixels around the window. `cut` is set if the reduced box is larger than the target.
    """
    x = _sample_axis(window.left, window.width, target.width_px, ratio[0], loaded.width_px)
    y = _sample_axis(window.top, window.height, target.height_px, ratio[1], loaded.height_px)
    reduced, kept = Size(x.reduced_px, y.reduced_px), Size(x.kept_px, y.kept_px)
    cut = None if reduced == kept else Box(x.cut_px, y.cut_px, x.kept_px, y.kept_px)
    enlargement = None
    if x.factor > 1.0 or y.factor > 1.0:
        enlargement = Enlargement(target, max(1.0, x.factor), max(1.0, y.factor), x.offset, y.offset)
    box = Box(x.begin_px, y.begin_px, x.length_px, y.length_px)
    return Sampling(box, reduced, cut, min(1.0, x.factor), min(1.0, y.factor), enlargement)


def _sample_axis(start: float, length: float, target_px: int, ratio: float, loaded_px: int) -> _Axis:
    first, last = start * ratio, (start + length) * ratio
    begin = max(0, min(math.floor(first + _EDGE_SLACK), loaded_px - 1))
    end = min(loaded_px, max(math.ceil(last - _EDGE_SLACK), begin + 1))
    factor = target_px / (last - first)
    if abs(factor - 1.0) < _FACTOR_SLACK:
        factor = 1.0
    if factor > 1.0:
        offset = max(0.0, first - begin)
        return _Axis(begin, end - begin, factor, end - begin, 0, end - begin, 0.0 if offset < _EDGE_SLACK else offset)
    reduced = max(target_px, round_half_up((end - begin) * factor))
    cut = min(max(0, round_half_up((first - begin) * factor)), reduced - target_px)
    return _Axis(begin, end - begin, factor, reduced, cut, target_px)
