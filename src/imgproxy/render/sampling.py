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


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    Read `box` of the loaded picture, scale it to `scaled`, then cut out `cut` (None: keep all).

    `across` and `down` are the exact scale factors. `scaled` is the box times these factors, rounded.
    """

    box: Box
    scaled: Size
    cut: Box | None
    across: float
    down: float


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
        The smallest box of loaded pixels around the window. `cut` is set if the scaled box is larger than the target.
    """
    ratio_x, ratio_y = ratio
    left, width, scaled_width, cut_left = _sample_axis(
        window.left, window.width, target.width_px, ratio_x, loaded.width_px
    )
    top, height, scaled_height, cut_top = _sample_axis(
        window.top, window.height, target.height_px, ratio_y, loaded.height_px
    )
    scaled = Size(scaled_width, scaled_height)
    cut = None if scaled == target else Box(cut_left, cut_top, target.width_px, target.height_px)
    across, down = target.width_px / (window.width * ratio_x), target.height_px / (window.height * ratio_y)
    return Sampling(Box(left, top, width, height), scaled, cut, across, down)


def _sample_axis(
    start: float, length: float, target_px: int, ratio: float, loaded_px: int
) -> tuple[int, int, int, int]:
    """Return the start and length of the box in loaded pixels, the scaled length, and where the cut starts."""
    first, last = start * ratio, (start + length) * ratio
    begin = max(0, min(math.floor(first + _EDGE_SLACK), loaded_px - 1))
    end = min(loaded_px, max(math.ceil(last - _EDGE_SLACK), begin + 1))
    scale = target_px / (last - first)
    scaled = max(target_px, round_half_up((end - begin) * scale))
    cut = min(max(0, round_half_up((first - begin) * scale)), scaled - target_px)
    return begin, end - begin, scaled, cut
