"""
The steps of a render, in order, each with its own guard: a step that has nothing to do returns the work as it is.

The order is the specification's (docs/urls.md, "Order"): geometry first, then tone and style, then what is laid over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.errors import ImgproxyError
from imgproxy.params.plan import Crop, Sides
from imgproxy.render import adjustments as adjust
from imgproxy.render import colour, paint, watermark
from imgproxy.render.geometry import corner_radii, shrink_sides
from imgproxy.render.scaling import crop, resample, rotate
from imgproxy.render.sizes import Box, Size

if TYPE_CHECKING:
    from imgproxy.render.draft import Work

# The blurred backdrop of fill=blur: this part of the longer side as sigma hides every detail and keeps the colours.
_BACKDROP_SIGMA: Final = 1 / 40


def scale(work: Work) -> Work:
    """Cut the window out of the decoded picture, scale it, turn it upright."""
    geometry, decoded = work.geometry, work.decoded

    def scaled(image: Any) -> Any:
        return resample(
            image,
            geometry.window,
            geometry.scaled,
            decoded=decoded,
            in_memory=work.is_in_memory,
        )

    return replace(work, frames=tuple(scaled(image) for image in decoded.frames))


def smart_crop(work: Work) -> Work:
    """Let libvips find the part that keeps most detail (entropy) or draws the eye (edges), once for all frames."""
    smart, size = work.geometry.smart, work.geometry.picture
    if smart is None:
        return work
    interesting = "entropy" if smart is Crop.ENTROPY else "attention"
    found = colour.to_srgb(work.first).smartcrop(size.width_px, size.height_px, interesting=interesting)
    box = Box(-int(found.xoffset), -int(found.yoffset), size.width_px, size.height_px)
    return work.each(lambda image: crop(image, box))


def to_colour_space(work: Work) -> Work:
    """Bring the pixels into the colour space that the variant leaves in."""
    converted = [colour.convert(image, work.plan.output.colour_space) for image in work.frames]
    return replace(work, frames=tuple(item.image for item in converted), profile=converted[0].profile)


def fill(work: Work) -> Work:
    """Lay the picture on the larger canvas of fit=fill, fillmax and clamp."""
    canvas = work.geometry.canvas
    if canvas is None:
        return work
    size, left, top = canvas.size, canvas.left_px, canvas.top_px
    if canvas.extend == "copy":
        return work.each(lambda image: image.embed(left, top, size.width_px, size.height_px, extend="copy"))
    if canvas.extend == "color" or canvas.backdrop is None:
        color = work.plan.resize.fill_colour or work.plan.background
        return work.each(lambda image: paint.extend(image, size, left, top, color))
    pairs = zip(work.frames, work.decoded.frames, strict=True)
    return replace(work, frames=tuple(_on_backdrop(work, image, decoded) for image, decoded in pairs))


def _on_backdrop(work: Work, image: Any, decoded: Any) -> Any:
    canvas = work.geometry.canvas
    assert canvas is not None
    assert canvas.backdrop is not None
    behind = resample(
        decoded,
        canvas.backdrop,
        canvas.size,
        decoded=work.decoded,
        in_memory=True,
    )
    behind = colour.as_rgb(colour.convert(behind, work.plan.output.colour_space).image)
    sigma = max(1.0, max(canvas.size.width_px, canvas.size.height_px) * _BACKDROP_SIGMA)
    return paint.over(adjust.blur(behind, sigma).copy_memory(), image, canvas.left_px, canvas.top_px)


def flip(work: Work) -> Work:
    """Mirror left-right (h), top-bottom (v)."""
    if "h" in work.plan.flip:
        work = work.each(lambda image: image.fliphor())
    return work.each(lambda image: image.flipver()) if "v" in work.plan.flip else work


def turn(work: Work) -> Work:
    """Turn counter-clockwise: enlarged to cover the frame, or whole in a larger frame whose corners stay empty."""
    degrees, geometry = work.plan.rotation, work.geometry
    if not degrees:
        return work
    if work.plan.is_pivot and degrees % 90:
        work = work.each(paint.with_alpha)
    return work.each(lambda image: rotate(image, degrees, geometry.rotation_zoom, geometry.frame))


def tone(work: Work) -> Work:
    """Curves, hue, saturation."""
    wanted = work.plan.adjust
    if wanted.enhance:
        work = work.each(adjust.enhance)
    if adjust.has_tone(wanted):
        work = work.each(lambda image: adjust.tone(image, wanted))
    return work.each(lambda image: adjust.colour(image, wanted)) if adjust.has_colour(wanted) else work


def stylize(work: Work) -> Work:
    """Blur, pixel blocks, tints."""
    wanted = work.plan.adjust
    if wanted.blur:
        work = work.each(lambda image: adjust.blur(image, wanted.blur / 10))
    if wanted.pixellate_px > 1:
        work = work.each(lambda image: adjust.pixellate(image, wanted.pixellate_px))
    if (color := wanted.monochrome) is not None:
        work = work.each(lambda image: adjust.monochrome(image, color))
    if wanted.sepia:
        work = work.each(lambda image: adjust.sepia(image, wanted.sepia / 100))
    if (colors := wanted.duotone) is not None:
        work = work.each(lambda image: adjust.duotone(image, colors, wanted.duotone_alpha / 100))
    return work.each(adjust.invert) if wanted.invert else work


def sharpen(work: Work) -> Work:
    """Sharpen luma, or by unsharp mask."""
    wanted = work.plan.adjust
    if wanted.sharpen:
        work = work.each(lambda image: adjust.sharpen(image, wanted.sharpen))
    if wanted.unsharp:
        work = work.each(lambda image: adjust.unsharp(image, wanted.unsharp / 100, wanted.unsharp_radius))
    return work


def blend(work: Work) -> Work:
    """Blend a colour over the picture."""
    wanted = work.plan.blend
    if wanted is None:
        return work
    return work.each(lambda image: paint.blend(image, wanted.colour, wanted.mode, wanted.alpha / 100))


def mark(work: Work) -> Work:
    """Paint the watermark; a missing or broken one leaves the picture as it is, and says so."""
    wanted = work.plan.mark
    if wanted is None:
        return work
    base = Size(work.first.width, work.first.height)
    if base.width_px < wanted.min_width_px or base.height_px < wanted.min_height_px:
        return work
    path = work.marks.get(wanted.source)
    try:
        if path is None:
            return replace(work, is_mark_missing=True)
        layer = watermark.layer(path, wanted, base, work.limits, work.geometry.limit_scale)
    except (ImgproxyError, pyvips.Error, OSError):
        return replace(work, is_mark_missing=True)
    return work.each(lambda image: paint.over(image, layer))


def border(work: Work) -> Work:
    """Paint a frame over the picture's edge."""
    wanted = work.plan.border
    if wanted is None:
        return work
    limit = work.geometry.limit_scale
    sides, size = shrink_sides(wanted.sides, limit), Size(work.first.width, work.first.height)
    outer = corner_radii(wanted.radius_px, size, limit_scale=limit) if wanted.radius_px else (0, 0, 0, 0)
    if wanted.inner_radius_px:
        inner = corner_radii(wanted.inner_radius_px, size, limit_scale=limit)
    else:
        width = max(sides.top_px, sides.right_px, sides.bottom_px, sides.left_px)
        inner = (max(0, outer[0] - width), max(0, outer[1] - width), max(0, outer[2] - width), max(0, outer[3] - width))
    return work.each(lambda image: paint.border(image, sides, wanted.colour, outer, inner))


def mask(work: Work) -> Work:
    """Keep what an ellipse or a rounded rectangle covers."""
    wanted = work.plan.mask
    if wanted is None:
        return work
    size = Size(work.first.width, work.first.height)
    if wanted.shape == "ellipse":
        coverage = paint.ellipse(size)
    else:
        radii = corner_radii(wanted.radius_px, size, limit_scale=work.geometry.limit_scale)
        coverage = paint.rounded(size, Sides(), radii)
    work = work.each(lambda image: paint.cut_out(image, coverage))
    ground = wanted.background
    return work if ground is None else work.each(lambda image: paint.underlay(image, ground))


def pad(work: Work) -> Work:
    """Add space around the picture, in the background's colour."""
    sides = work.geometry.pad
    if sides == Sides():
        return work
    return work.each(lambda image: paint.pad(image, sides, work.plan.background))


def background(work: Work) -> Work:
    """Paint what is transparent with the background, where the plan has one."""
    ground = work.plan.background
    return work if ground.alpha == 0 else work.each(lambda image: paint.underlay(image, ground))


STEPS: Final = (
    scale,
    smart_crop,
    to_colour_space,
    fill,
    flip,
    turn,
    tone,
    stylize,
    sharpen,
    blend,
    mark,
    border,
    mask,
    pad,
    background,
)
