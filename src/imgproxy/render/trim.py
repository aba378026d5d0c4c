"""
The `trim` parameter: find the uniform edges of a picture, which are cut before it is resized.

    auto    cut the lines of a side while they are even (standard deviation at most `sd`) and alike, if the lines after
            them differ by more than `md` on average: a lower `md` cuts more
    color   cut lines whose pixels are all within `tolerance` of a colour, by default that of the top left pixel
    alpha   cut lines whose pixels all have at most this alpha

`auto` and `color` compare what is seen: colours premultiplied by alpha, and alpha itself. So transparent pixels are all
alike, and differ from opaque ones of the same colour. Of an animation, what remains holds what remains of every frame.

libvips makes the statistics of rows and columns; the decisions on them are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgproxy.render.adjustments import luma_of, split_alpha
from imgproxy.render.colour import as_rgb, to_srgb
from imgproxy.render.paint import add_alpha
from imgproxy.render.sizes import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.params.plan import Trim

# How many lines count as "the lines after them", as a share of the side.
_LOOK_AHEAD: Final = 0.1


def find(frames: Sequence[Any], trim: Trim) -> Box | None:
    """
    Return the box that remains of a picture, or None if nothing is cut or nothing would remain.

    `frames` are upright, in memory, in any colour space. A still has one.
    """
    frames = [to_srgb(frame) for frame in frames]
    mode = trim.mode
    if mode == "colorunlessalpha":
        mode = "alpha" if frames[0].hasalpha() else "color"
    if mode == "alpha":
        found = [_find_by_alpha(frame, trim) for frame in frames]
    elif mode == "color":
        ground = _ground(frames[0], trim)
        found = [_find_by_colour(frame, ground, trim) for frame in frames]
    else:
        found = [_find_even(frame, trim) for frame in frames]
    whole = Box(0, 0, frames[0].width, frames[0].height)
    around = _unite([box for box in found if box is not None])
    return None if around == whole else around


def _unite(boxes: list[Box]) -> Box | None:
    """Return the smallest box around some boxes; None without one."""
    if not boxes:
        return None
    left, top = min(box.left_px for box in boxes), min(box.top_px for box in boxes)
    right = max(box.left_px + box.width_px for box in boxes)
    bottom = max(box.top_px + box.height_px for box in boxes)
    return Box(left, top, right - left, bottom - top)


def _find_by_alpha(image: Any, trim: Trim) -> Box | None:
    _, alpha = split_alpha(image)
    return Box(0, 0, image.width, image.height) if alpha is None else _bounds(alpha > trim.alpha)


def _ground(first: Any, trim: Trim) -> tuple[float, float, float, float]:
    """Return the colour to cut, as RGB premultiplied by alpha, and alpha, all 0-255."""
    if trim.colour is None:
        red, green, blue, alpha = (float(band) for band in add_alpha(first)(0, 0))
    else:
        (red, green, blue), alpha = trim.colour.rgb, trim.colour.alpha
    return red * alpha / 255, green * alpha / 255, blue * alpha / 255, float(alpha)


def _find_by_colour(image: Any, ground: tuple[float, float, float, float], trim: Trim) -> Box | None:
    image = as_rgb(image)
    if image.hasalpha():
        image, wanted = image.premultiply(), list(ground)
    else:
        wanted = list(ground[:3])
        if 255 - ground[3] > trim.tolerance:  # nothing here is transparent
            return Box(0, 0, image.width, image.height)
    return _bounds(((image - wanted).abs() > trim.tolerance).bandor())


def _bounds(mask: Any) -> Box | None:
    """Return the box around all pixels that are set, or None if there are none."""
    columns, rows = mask.project()
    across, down = _span(_numbers(columns)), _span(_numbers(rows))
    if across is None or down is None:
        return None
    return Box(across[0], down[0], across[1] - across[0], down[1] - down[0])


def _numbers(line: Any) -> list[float]:
    """Return the pixels of an image of one row or one column."""
    return [float(value) for row in line.tolist() for value in row]


def _span(sums: list[float]) -> tuple[int, int] | None:
    found = [at for at, value in enumerate(sums) if value > 0]
    return (found[0], found[-1] + 1) if found else None


def _find_even(image: Any, trim: Trim) -> Box | None:
    colours, alpha = split_alpha(image)
    planes = [luma_of(colours)]
    if alpha is not None:
        planes = [planes[0] * (alpha / 255.0), alpha.cast("float")]
    columns, rows = [], []
    for plane in planes:
        sums, squares = plane.project(), (plane * plane).project()
        columns.append(Lines.of(_numbers(sums[0]), _numbers(squares[0]), image.height))
        rows.append(Lines.of(_numbers(sums[1]), _numbers(squares[1]), image.width))
    across, down = cut_even(columns, trim), cut_even(rows, trim)
    if across is None or down is None:
        return None
    return Box(across[0], down[0], across[1] - across[0], down[1] - down[0])


@dataclass(frozen=True, slots=True)
class Lines:
    """The mean and the standard deviation of each row or column of a plane, in levels of 0-255."""

    means: list[float]
    deviations: list[float]

    @classmethod
    def of(cls, sums: list[float], squares: list[float], length: int) -> Lines:
        """From the sum of the values of each line, the sum of their squares, and the pixels of a line."""
        means = [value / length for value in sums]
        variances = [square / length - mean * mean for square, mean in zip(squares, means, strict=True)]
        return cls(means, [max(0.0, variance) ** 0.5 for variance in variances])

    def reversed(self) -> Lines:
        """The same lines from the other end."""
        return Lines(self.means[::-1], self.deviations[::-1])


def cut_even(planes: list[Lines], trim: Trim) -> tuple[int, int] | None:
    """
    Return the first line that stays and the line after the last, or None if all lines are even.

    `planes` are the luma, and the alpha if there is one. A line is cut if it is even in all of them.
    """
    count = len(planes[0].means)
    first = _count_even(planes, trim)
    last = _count_even([plane.reversed() for plane in planes], trim)
    if first + last >= count:
        return None
    return first, count - last


def _count_even(planes: list[Lines], trim: Trim) -> int:
    """Count the lines that are cut from the front."""
    length = len(planes[0].means)
    alike = max(trim.mean_difference, 1.0)
    count = 0
    while count < length and all(
        plane.deviations[count] <= trim.standard_deviation and abs(plane.means[count] - plane.means[0]) <= alike
        for plane in planes
    ):
        count += 1
    if count == length:
        return count
    ahead = range(count, min(length, count + max(1, int(length * _LOOK_AHEAD))))
    change = max(abs(plane.means[n] - plane.means[0]) for plane in planes for n in ahead)
    return count if change > trim.mean_difference else 0
