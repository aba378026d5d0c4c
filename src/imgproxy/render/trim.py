"""
The `trim` parameter: find the uniform edges of a picture, which are cut before it is resized.

    auto    cut the lines of a side while they are even (standard deviation at most `sd`) and alike, if the lines after
            them differ by more than `md` on average: a lower `md` cuts more
    color   cut lines whose pixels are all within `tolerance` of a colour, by default the colour of the top left pixel
    alpha   cut lines whose pixels all have at most this alpha

libvips makes the statistics of rows and columns; the decisions on them are pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgproxy.render.adjustments import luma_of, split_alpha
from imgproxy.render.colour import to_srgb
from imgproxy.render.sizes import Box

if TYPE_CHECKING:
    from imgproxy.params.plan import Trim

# JPEG leaves noise of a few levels on plain areas, so a default of 0 would trim nothing.
DEFAULT_TOLERANCE: Final = 10.0

# How many lines count as "the lines after them", as a share of the side.
_LOOK_AHEAD: Final = 0.1


def find(image: Any, trim: Trim) -> Box | None:
    """
    Return the box that remains of a picture, or None if nothing is cut or nothing would remain.

    `image` is upright, in memory, in any colour space.
    """
    image = to_srgb(image)
    mode = trim.mode
    if mode == "colorunlessalpha":
        mode = "alpha" if image.hasalpha() else "color"
    if mode == "alpha":
        return _find_by_alpha(image, trim)
    return _find_by_colour(image, trim) if mode == "color" else _find_even(image, trim)


def _find_by_alpha(image: Any, trim: Trim) -> Box | None:
    _, alpha = split_alpha(image)
    return None if alpha is None else _bounds(alpha > trim.alpha)


def _find_by_colour(image: Any, trim: Trim) -> Box | None:
    colours, _ = split_alpha(image)
    ground = colours(0, 0) if trim.colour is None else trim.colour.rgb[: colours.bands]
    if trim.colour is not None and colours.bands == 1:
        colours = colours.colourspace("srgb")
        ground = trim.colour.rgb
    tolerance = trim.tolerance or DEFAULT_TOLERANCE
    differs = (colours - [float(band) for band in ground]).abs() > tolerance
    return _bounds(differs.bandor() if differs.bands > 1 else differs)


def _bounds(mask: Any) -> Box | None:
    """Return the box around all pixels that are set, or None if it is empty or the whole picture."""
    columns, rows = mask.project()
    across, down = _span(_numbers(columns)), _span(_numbers(rows))
    if across is None or down is None:
        return None
    box = Box(across[0], down[0], across[1] - across[0], down[1] - down[0])
    return None if (box.width_px, box.height_px) == (mask.width, mask.height) else box


def _numbers(line: Any) -> list[float]:
    """Return the pixels of an image of one row or one column."""
    return [float(value) for row in line.tolist() for value in row]


def _span(sums: list[float]) -> tuple[int, int] | None:
    found = [at for at, value in enumerate(sums) if value > 0]
    return (found[0], found[-1] + 1) if found else None


def _find_even(image: Any, trim: Trim) -> Box | None:
    colours, _ = split_alpha(image)
    luma = luma_of(colours)
    columns, rows = luma.project()
    columns_squared, rows_squared = (luma * luma).project()
    across = cut_even(_numbers(columns), _numbers(columns_squared), luma.height, trim)
    down = cut_even(_numbers(rows), _numbers(rows_squared), luma.width, trim)
    if across is None or down is None or (across == (0, luma.width) and down == (0, luma.height)):
        return None
    return Box(across[0], down[0], across[1] - across[0], down[1] - down[0])


def cut_even(sums: list[float], squares: list[float], length: int, trim: Trim) -> tuple[int, int] | None:
    """
    Return the first line that stays and the line after the last, or None if all lines are even.

    Args:
        sums: sum of the luma values of each line.
        squares: sum of their squares.
        length: pixels of a line.
        trim: has the thresholds.
    """
    means = [value / length for value in sums]
    deviations = [max(0.0, square / length - mean * mean) ** 0.5 for square, mean in zip(squares, means, strict=True)]
    first = _count_even(means, deviations, trim)
    last = _count_even(means[::-1], deviations[::-1], trim)
    if first + last >= len(means):
        return None
    return first, len(means) - last


def _count_even(means: list[float], deviations: list[float], trim: Trim) -> int:
    """Count the lines that are cut from the front."""
    count = 0
    while (
        count < len(means)
        and deviations[count] <= trim.standard_deviation
        and abs(means[count] - means[0]) <= max(trim.mean_difference, 1.0)
    ):
        count += 1
    if count == len(means):
        return count
    ahead = means[count : count + max(1, int(len(means) * _LOOK_AHEAD))]
    return count if max(abs(mean - means[0]) for mean in ahead) > trim.mean_difference else 0
