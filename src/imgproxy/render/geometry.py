"""
All sizes and positions of a variant: pure arithmetic, no image library, no I/O.

    find_region      upright size, rect           -> the region of the source that is used
    trim_region      region, what the trim found  -> a smaller region
    place            region, plan                 -> Geometry: window, sizes, canvas, rotation, pad

Coordinates are pixels of the upright source at full size, also if it is shrunk on load (see `sampling`). Sizes of
results are exact device pixels. Rounding is half up, and no side is below one pixel. Source of the rules: docs/urls.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imgproxy.params.appearance import Sides
from imgproxy.params.plan import MAX_SIDE_PX, Anchor, Bounds, Crop, Fit, Px, Ratio
from imgproxy.render.fit import Fitted, centre_cover, fit_region
from imgproxy.render.sizes import Box, Size, Window, round_half_up, round_px

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.params.plan import Length, Position, Rect, RenderPlan


@dataclass(frozen=True, slots=True)
class Canvas:
    """
    A larger area that the picture lies on, `left_px` and `top_px` from its corner.

    `extend` says what the rest of it shows: "colour" (the plan's fill_colour, else its background), "blur" (the
    source's `backdrop` window, scaled to `size` and blurred) or "copy" (the picture's edge pixels, repeated).
    """

    size: Size
    left_px: int
    top_px: int
    extend: str
    backdrop: Window | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes and positions of one variant, in the order of the steps."""

    window: Window  # source px: the part of the region (after rect and trim) that is scaled
    scaled: Size  # what the window is scaled to; larger than `picture` only if `smart` is set
    smart: Crop | None  # ENTROPY or EDGES: libvips finds `picture` inside `scaled`
    picture: Size  # the picture itself
    canvas: Canvas | None  # fit=fill, fillmax, clamp: if the picture does not fill the frame
    rotation_zoom: float  # enlarge by this while turning, so that the frame stays covered; 1 for pivot
    frame: Size  # after canvas and rotation
    pad: Sides  # around the frame
    final: Size  # what is encoded
    limit_scale: float  # below 1 if the size limit shrank these sizes: border, mask radius and mark shrink too

    @property
    def factor(self) -> float:
        """Source pixels per pixel of the result. A loader may shrink by this."""
        return min(self.window.width / self.scaled.width_px, self.window.height / self.scaled.height_px)


def find_region(source: Size, rect: Rect | None) -> Box:
    """Return the part of the upright source that `rect` names, or the whole source if they do not overlap."""
    whole = Box(0, 0, source.width_px, source.height_px)
    if rect is None:
        return whole
    left, right = _span(source.width_px, rect.x, rect.width)
    top, bottom = _span(source.height_px, rect.y, rect.height)
    if right <= left or bottom <= top:
        return whole
    return Box(left, top, right - left, bottom - top)


def trim_region(region: Box, found: Box | None, *, pad_px: int = 0) -> Box:
    """
    Return the box that a trim found (in source pixels), enlarged by `pad_px` within the region.

    A negative pad cuts further. If the trim found nothing, or would leave nothing, the region stays as it is.
    """
    if found is None:
        return region
    left = max(region.left_px, found.left_px - pad_px)
    top = max(region.top_px, found.top_px - pad_px)
    right = min(region.left_px + region.width_px, found.left_px + found.width_px + pad_px)
    bottom = min(region.top_px + region.height_px, found.top_px + found.height_px + pad_px)
    if right <= left or bottom <= top:
        return region
    return Box(left, top, right - left, bottom - top)


def place(region: Box, plan: RenderPlan, *, faces: Sequence[Window] = (), max_side_px: int = MAX_SIDE_PX) -> Geometry:
    """
    Decide every size and position of a variant from its region of the source and its plan.

    `faces` are those of the upright source, the largest first. No side of the result is longer than `max_side_px`: a
    larger result is scaled down as a whole.
    """
    resize, pad = plan.resize, plan.pad
    width = _resolve(resize.width, region.width_px)
    height = _resolve(resize.height, region.height_px)
    across, down = pad.left_px + pad.right_px, pad.top_px + pad.bottom_px
    is_filled_across = width is not None and round_px(width) <= across
    is_filled_down = height is not None and round_px(height) <= down
    if is_filled_across or is_filled_down:
        pad, across, down = Sides(), 0, 0
    bounds = resize.bounds
    if width is not None or height is not None:
        # If a size is given, the picture and its padding fit into it together.
        width = None if width is None else width - across
        height = None if height is None else height - down
        bounds = _narrow(bounds, across, down)
    fitted = fit_region(region, replace(resize, bounds=bounds), width, height, faces)
    found = _assemble(region, plan, fitted, pad)
    largest_px = max(found.final.width_px, found.final.height_px)
    if largest_px <= max_side_px:
        return found
    return _assemble(region, plan, fitted, pad, limit_scale=max_side_px / largest_px, max_side_px=max_side_px)


def corner_radii(radius_px: tuple[int, ...], size: Size, *, limit_scale: float = 1.0) -> tuple[int, int, int, int]:
    """
    Return the four corner radii from the top left clockwise, at most half the smaller side.

    The default is a fifth of the smaller side.
    """
    smaller = min(size.width_px, size.height_px)
    radii = tuple(round_half_up(radius * limit_scale) for radius in radius_px) or (round_half_up(smaller / 5),)
    radii = tuple(min(radius, smaller // 2) for radius in radii)
    return (radii[0],) * 4 if len(radii) < 4 else (radii[0], radii[1], radii[2], radii[3])


def shrink_sides(sides: Sides, scale: float) -> Sides:
    """Scale the four widths, rounded down, so that picture and sides together stay within the limit."""
    if scale == 1.0:
        return sides
    return Sides(
        top_px=int(sides.top_px * scale),
        right_px=int(sides.right_px * scale),
        bottom_px=int(sides.bottom_px * scale),
        left_px=int(sides.left_px * scale),
    )


# --- lengths ------------------------------------------------------------------------------------------------


def _resolve(length: Length | None, side_px: int) -> float | None:
    """Return pixels, not rounded yet: the other side follows from them."""
    if length is None:
        return None
    return length.value if isinstance(length, Px) else max(1.0, length.value * side_px)


def _span(side_px: int, position: Position, length: Length) -> tuple[int, int]:
    size = round_px(length.value if isinstance(length, Px) else length.value * side_px)
    if isinstance(position, Anchor):
        start = round_half_up(position.value * (side_px - size))
    elif isinstance(position, Ratio):
        start = round_half_up(position.value * side_px)
    else:
        start = round_half_up(position.value)
    return max(0, start), min(side_px, start + size)


def _narrow(bounds: Bounds, across: int, down: int) -> Bounds:
    def less(value: int | None, by: int) -> int | None:
        return None if value is None else max(1, value - by)

    return Bounds(
        less(bounds.min_width_px, across),
        less(bounds.max_width_px, across),
        less(bounds.min_height_px, down),
        less(bounds.max_height_px, down),
    )


# --- frame, rotation, padding, limit -------------------------------------------------------------------------------


def _assemble(
    region: Box,
    plan: RenderPlan,
    fitted: Fitted,
    pad: Sides,
    *,
    limit_scale: float = 1.0,
    max_side_px: int | None = None,
) -> Geometry:
    """Round the sizes once, and put canvas, rotation and padding around the picture."""

    def rounded(size: tuple[float, float]) -> Size:
        width_px, height_px = round_px(size[0] * limit_scale), round_px(size[1] * limit_scale)
        return _within(Size(width_px, height_px), max_side_px, max_side_px)

    picture = frame = rounded(fitted.picture)
    canvas = None
    if fitted.canvas is not None and rounded(fitted.canvas) != picture:
        frame = rounded(fitted.canvas)
        canvas = _canvas(region, plan, frame, picture)
    zoom = 1.0
    if plan.rotation:
        zoom, frame = _rotate(frame, plan.rotation, is_pivot=plan.is_pivot)
    pad = _shrink_pad(pad, limit_scale, max_side_px)
    if max_side_px is not None:
        frame = _within(frame, max_side_px - pad.left_px - pad.right_px, max_side_px - pad.top_px - pad.bottom_px)
        if canvas is None and not plan.rotation:
            picture = frame
    cover = rounded(fitted.cover) if fitted.cover else picture
    return Geometry(
        window=fitted.window,
        scaled=Size(max(cover.width_px, picture.width_px), max(cover.height_px, picture.height_px)),
        smart=fitted.smart,
        picture=picture,
        canvas=canvas,
        rotation_zoom=zoom,
        frame=frame,
        pad=pad,
        final=Size(frame.width_px + pad.left_px + pad.right_px, frame.height_px + pad.top_px + pad.bottom_px),
        limit_scale=limit_scale,
    )


def _canvas(region: Box, plan: RenderPlan, size: Size, picture: Size) -> Canvas:
    left, top = (size.width_px - picture.width_px) // 2, (size.height_px - picture.height_px) // 2
    if plan.resize.fit is Fit.CLAMP:
        return Canvas(size, left, top, "copy")
    if not plan.resize.fill_blur:
        return Canvas(size, left, top, "colour")
    return Canvas(size, left, top, "blur", centre_cover(region, size))


def _rotate(frame: Size, degrees: float, *, is_pivot: bool) -> tuple[float, Size]:
    """
    Return the zoom while turning, and the frame afterwards.

    `straighten` keeps the frame and enlarges the picture until it covers the frame; `pivot` keeps the picture and
    enlarges the frame to the box around it.
    """
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    width, height = frame.width_px, frame.height_px
    if is_pivot:
        return 1.0, Size(round_px(width * cosine + height * sine), round_px(width * sine + height * cosine))
    return cosine + sine * max(width / height, height / width), frame


def _within(size: Size, most_width_px: int | None, most_height_px: int | None) -> Size:
    """Remove the pixel by which rounding may have passed the limit."""
    if most_width_px is None or most_height_px is None:
        return size
    return Size(min(size.width_px, max(1, most_width_px)), min(size.height_px, max(1, most_height_px)))


def _shrink_pad(pad: Sides, scale: float, max_side_px: int | None) -> Sides:
    """Scale the padding. If it fills the limit alone, leave one pixel for the picture."""
    pad = shrink_sides(pad, scale)
    if max_side_px is None:
        return pad
    surplus_across = max(0, pad.left_px + pad.right_px - max_side_px + 1)
    surplus_down = max(0, pad.top_px + pad.bottom_px - max_side_px + 1)
    return Sides(
        top_px=pad.top_px - min(surplus_down, pad.top_px),
        right_px=pad.right_px - (surplus_across - min(surplus_across, pad.left_px)),
        bottom_px=pad.bottom_px - (surplus_down - min(surplus_down, pad.top_px)),
        left_px=pad.left_px - min(surplus_across, pad.left_px),
    )
