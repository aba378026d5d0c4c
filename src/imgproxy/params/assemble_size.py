"""
The plan's region, size, crop, frame and trim from the values of a URL.

Equal pictures must have equal plans. So a value that cannot change the picture is set to its default here: a crop
without `fit=crop`, a bound that the size keeps anyway, a fill colour without a fill. The rules are in docs/urls.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.params.appearance import Border, Mask, Sides
from imgproxy.params.kinds import round_half_up
from imgproxy.params.plan import (
    DEFAULT_TOLERANCE,
    Bounds,
    Crop,
    FaceChoice,
    Fit,
    Focal,
    Length,
    Px,
    Ratio,
    Rect,
    Resize,
    Trim,
)
from imgproxy.params.table import framing, region, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgproxy.params.parameter import Parameter
    from imgproxy.params.parse import Values

_WHOLE: Final = Rect(Px(0), Px(0), Ratio(1.0), Ratio(1.0))
_FULL: Final = Ratio(1.0)
_PAD: Final = frozenset((framing.PAD, framing.PAD_TOP, framing.PAD_RIGHT, framing.PAD_BOTTOM, framing.PAD_LEFT))
_SIDES: Final = (Crop.TOP, Crop.BOTTOM, Crop.LEFT, Crop.RIGHT)


@dataclass(frozen=True, slots=True)
class Sizing:
    """Width and height, in device pixels or parts of the source, and the factor for every other length."""

    width: Length | None = None
    height: Length | None = None
    scale: float = 1.0

    def px(self, css_px: float) -> int:
        """Return a length of the URL in device pixels."""
        return round_half_up(css_px * self.scale)


def scaled(length: Length | None, scale: float) -> Length | None:
    """Multiply a length. Pixels stay at least 1, and are not rounded yet: the other side follows from them."""
    if length is None or scale == 1.0:
        return length
    value = round(length.value * scale, 6)
    return Ratio(value) if isinstance(length, Ratio) else Px(max(1.0, value))


def rect_of(values: Values) -> Rect | None:
    """Return the region; None for the whole source."""
    rect = values.get(region.RECT)
    return None if rect == _WHOLE else rect


def resize_of(values: Values, sizing: Sizing, pad: Sides, *, finds_faces: bool = False) -> Resize:
    """Return size, fit and crop. Without a detector (`finds_faces`), the plan is that of a picture without faces."""
    width, height = sizing.width, sizing.height
    given = (width is not None) + (height is not None)
    modes = values.get(size.FIT) or (Fit.CLIP,)
    fit = next((mode for mode in modes if isinstance(mode, Fit)), Fit.CROP)
    aspect = values.get(size.AR) if given < 2 and fit in (Fit.CROP, Fit.FILL) else None
    bounds = Bounds()
    if fit is Fit.CROP:
        width, height, bounds = _settle_bounds(width, height, _bounds(values, sizing))
    crop, focal = _crop(values) if fit in (Fit.CROP, Fit.MIN) else ((), None)
    is_plain = aspect is None and bounds == Bounds() and (focal is None or focal.zoom == 1.0)
    faces = _faces(values, modes, given) if finds_faces else None
    is_area = faces is not None and faces.is_area
    if is_plain and not is_area and pad == Sides() and _is_source_size(fit, width, height):
        return Resize()
    if is_plain and given < 2:
        fit = _one_sided(fit, given)
    is_filled = fit in (Fit.FILL, Fit.FILLMAX)
    is_blurred = is_filled and values.get(size.FILL) == "blur"
    return Resize(
        width=width,
        height=height,
        aspect=aspect,
        fit=fit,
        bounds=bounds,
        crop=crop if fit in (Fit.CROP, Fit.MIN) else (),
        focal=focal if fit in (Fit.CROP, Fit.MIN) else None,
        fill_blur=is_blurred,
        fill_colour=values.get(size.FILL_COLOUR) if is_filled and not is_blurred else None,
        faces=faces if is_area or fit in (Fit.CROP, Fit.MIN) else None,
    )


def pad_of(values: Values, sizing: Sizing) -> Sides:
    """Return the padding; none if it would leave no space for the picture inside the size."""
    if _PAD.isdisjoint(values.keys()):
        return Sides()
    around = values.get(framing.PAD, 0)
    pad = Sides(
        sizing.px(values.get(framing.PAD_TOP, around)),
        sizing.px(values.get(framing.PAD_RIGHT, around)),
        sizing.px(values.get(framing.PAD_BOTTOM, around)),
        sizing.px(values.get(framing.PAD_LEFT, around)),
    )
    if isinstance(sizing.width, Px) and round_half_up(sizing.width.value) <= pad.left_px + pad.right_px:
        return Sides()
    if isinstance(sizing.height, Px) and round_half_up(sizing.height.value) <= pad.top_px + pad.bottom_px:
        return Sides()
    return pad


def border_of(values: Values, sizing: Sizing) -> Border | None:
    """Return the border; None without a visible width."""
    border = values.get(framing.BORDER)
    if border is None:
        return None
    width, colour = border
    sides = Sides(
        sizing.px(values.get(framing.BORDER_TOP, width)),
        sizing.px(values.get(framing.BORDER_RIGHT, width)),
        sizing.px(values.get(framing.BORDER_BOTTOM, width)),
        sizing.px(values.get(framing.BORDER_LEFT, width)),
    )
    if sides == Sides():
        return None
    outer, inner = _radii(values, framing.BORDER_RADIUS, sizing), _radii(values, framing.BORDER_RADIUS_INNER, sizing)
    return Border(sides, colour, () if outer == (0,) else outer, () if inner == (0,) else inner)


def mask_of(values: Values, sizing: Sizing) -> Mask | None:
    """Return the mask; None without one, and for corners without a radius."""
    shape = values.get(framing.MASK)
    if shape is None:
        return None
    radius = _radii(values, framing.CORNER_RADIUS, sizing) if shape == "corners" else ()
    return None if radius == (0,) else Mask(shape, radius, values.get(framing.MASK_BG))


def trim_of(values: Values) -> Trim | None:
    """Return the trim, with the values its mode uses."""
    mode = values.get(framing.TRIM)
    if mode is None:
        return None
    pad_px = values.get(framing.TRIM_PAD, 0)
    if mode == "auto":
        mean, deviation = values.get(framing.TRIM_MD, 11.0), values.get(framing.TRIM_SD, 10.0)
        return Trim(mode, mean_difference=mean, standard_deviation=deviation, pad_px=pad_px)
    alpha = values.get(framing.TRIM_ALPHA, 0)
    if mode == "alpha":
        return Trim(mode, alpha=alpha, pad_px=pad_px)
    colour, tolerance = values.get(framing.TRIM_COLOUR), values.get(framing.TRIM_TOL, DEFAULT_TOLERANCE)
    alpha = alpha if mode == "colorunlessalpha" else 0
    return Trim(mode, colour, tolerance, alpha=alpha, pad_px=pad_px)


def _radii(values: Values, parameter: Parameter[tuple[int, ...]], sizing: Sizing) -> tuple[int, ...]:
    return tuple(sizing.px(radius) for radius in values.get(parameter, ()))


def _is_source_size(fit: Fit, width: Length | None, height: Length | None) -> bool:
    """Tell whether the requested size is that of the source, so that no fit changes anything."""
    if isinstance(width, Px) or isinstance(height, Px):
        return False
    if width == _FULL and height == _FULL:
        return True
    return (fit is Fit.CLIP or fit is Fit.MAX) and (width, height) in ((_FULL, None), (None, _FULL))


def _one_sided(fit: Fit, given: int) -> Fit:
    """Return the simplest fit that means the same if only one side is given, or none."""
    if given and fit is Fit.MIN:
        return Fit.MAX
    if given and fit in (Fit.MAX, Fit.FILLMAX):
        return fit
    return Fit.CLIP


def _bounds(values: Values, sizing: Sizing) -> Bounds:
    def bound(parameter: Parameter[int]) -> int | None:
        value = values.get(parameter)
        return None if value is None else max(1, sizing.px(value))

    least_width, most_width = bound(size.MIN_W), bound(size.MAX_W)
    least_height, most_height = bound(size.MIN_H), bound(size.MAX_H)
    if least_width is not None and most_width is not None:
        most_width = max(least_width, most_width)
    if least_height is not None and most_height is not None:
        most_height = max(least_height, most_height)
    return Bounds(least_width, most_width, least_height, most_height)


def _settle_bounds(
    width: Length | None, height: Length | None, bounds: Bounds
) -> tuple[Length | None, Length | None, Bounds]:
    """Apply the bounds that do not depend on the source. Drop those that the size keeps anyway."""
    bounded_width = _held(width, bounds.min_width_px, bounds.max_width_px)
    bounded_height = _held(height, bounds.min_height_px, bounds.max_height_px)
    if isinstance(width, Px) and isinstance(height, Px):
        return bounded_width, bounded_height, Bounds()
    # The free side follows the given side as it was before its bounds. So a bound with an effect has to stay.
    keeps_width = not isinstance(width, Px) or bounded_width != width
    keeps_height = not isinstance(height, Px) or bounded_height != height
    return (
        width,
        height,
        Bounds(
            bounds.min_width_px if keeps_width else None,
            bounds.max_width_px if keeps_width else None,
            bounds.min_height_px if keeps_height else None,
            bounds.max_height_px if keeps_height else None,
        ),
    )


def _held(length: Length | None, least: int | None, most: int | None) -> Length | None:
    if not isinstance(length, Px):
        return length
    value = length.value if most is None else min(length.value, most)
    return Px(value if least is None else max(value, least))


def _crop(values: Values) -> tuple[tuple[Crop, ...], Focal | None]:
    """
    Return the one crop that applies to a picture without faces, and the focal point if it is that.

    `faces` gives way to the next crop of the list, else to the centre, as imgix documents.
    """
    chain = values.get(region.CROP, ())
    rest = tuple(item for item in chain if item is not Crop.FACES)
    if not rest:
        return (), None
    first = rest[0]
    if first in (Crop.ENTROPY, Crop.EDGES):
        return (first,), None
    if first is Crop.FOCALPOINT:
        return _focal(values)
    sides = []
    for item in rest:
        if item not in _SIDES:
            break
        sides.append(item)
    return _anchored(sides), None


def _faces(values: Values, modes: tuple[Fit | str, ...], given: int) -> FaceChoice | None:
    """Return which faces are kept, if `facearea` or `faces` is the first of its list. An area needs a size."""
    index = values.get(region.FACEINDEX)
    if not isinstance(modes[0], Fit):
        return FaceChoice(index, is_area=True, pad=values.get(region.FACEPAD, 1.0)) if given else None
    chain = values.get(region.CROP, ())
    return FaceChoice(index) if chain and chain[0] is Crop.FACES else None


def _anchored(sides: Iterable[Crop]) -> tuple[Crop, ...]:
    """Return at most one side for each axis, the vertical one first. Of two opposite sides the first one counts."""
    sides = tuple(sides)
    vertical = next(((side,) for side in sides if side in (Crop.TOP, Crop.BOTTOM)), ())
    horizontal = next(((side,) for side in sides if side in (Crop.LEFT, Crop.RIGHT)), ())
    return vertical + horizontal


def _focal(values: Values) -> tuple[tuple[Crop, ...], Focal | None]:
    focal = Focal(values.get(region.FP_X, 0.5), values.get(region.FP_Y, 0.5), values.get(region.FP_Z, 1.0))
    if focal.zoom == 1.0 and {focal.x, focal.y} <= {0.0, 0.5, 1.0}:
        # Without zoom these nine points are the edges, the corners and the centre.
        horizontal = {0.0: [Crop.LEFT], 0.5: [], 1.0: [Crop.RIGHT]}[focal.x]
        vertical = {0.0: [Crop.TOP], 0.5: [], 1.0: [Crop.BOTTOM]}[focal.y]
        return _anchored(vertical + horizontal), None
    return (Crop.FOCALPOINT,), focal
