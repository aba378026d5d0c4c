"""
The steps of a render, in order. A step that the plan does not ask for returns the draft unchanged.

The order is that of docs/urls.md, "Order": geometry first, then tone and style, then layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.errors import ImgproxyError
from imgproxy.params.appearance import TRANSPARENT_WHITE, Sides
from imgproxy.params.plan import Crop
from imgproxy.render import adjustments, blending, colour, paint, watermark
from imgproxy.render.geometry import corner_radii, shrink_sides
from imgproxy.render.scaling import crop, resample, rotate
from imgproxy.render.sizes import Box, Size

if TYPE_CHECKING:
    from imgproxy.params.appearance import Colour
    from imgproxy.render.draft import Draft

# The sigma of the blurred backdrop of fill=blur, as a part of the longer side: it hides every detail, not the colours.
_BACKDROP_SIGMA: Final = 1 / 40


def scale(draft: Draft) -> Draft:
    """Cut the window out of the decoded frames, scale it, turn it upright."""
    window, size, decoded = draft.geometry.window, draft.geometry.scaled, draft.decoded
    frames = (resample(image, window, size, decoded=decoded, in_memory=draft.is_in_memory) for image in decoded.frames)
    return replace(draft, frames=tuple(frames))


def smart_crop(draft: Draft) -> Draft:
    """Let libvips find the part with most detail (entropy) or that catches the eye (edges), once for all frames."""
    smart, size = draft.geometry.smart, draft.geometry.picture
    if smart is None:
        return draft
    interesting = "entropy" if smart is Crop.ENTROPY else "attention"
    found = colour.to_srgb(draft.first).smartcrop(size.width_px, size.height_px, interesting=interesting)
    box = Box(-int(found.xoffset), -int(found.yoffset), size.width_px, size.height_px)
    return draft.change_frames(lambda image: crop(image, box))


def convert_colours(draft: Draft) -> Draft:
    """Convert the pixels to the colour space of the variant."""
    converted = [colour.convert(image, draft.plan.output.colour_space) for image in draft.frames]
    return replace(draft, frames=tuple(item.image for item in converted), profile=converted[0].profile)


def fill(draft: Draft) -> Draft:
    """Put the picture on the larger canvas of fit=fill, fillmax and clamp."""
    canvas = draft.geometry.canvas
    if canvas is None:
        return draft
    size, left, top = canvas.size, canvas.left_px, canvas.top_px
    if canvas.extend == "copy":
        return draft.change_frames(lambda image: image.embed(left, top, size.width_px, size.height_px, extend="copy"))
    if canvas.extend == "colour" or canvas.backdrop is None:
        ground = draft.plan.resize.fill_colour or _ground(draft)
        return draft.change_frames(lambda image: paint.extend(image, size, left, top, ground))
    pairs = zip(draft.frames, draft.decoded.frames, strict=True)
    return replace(draft, frames=tuple(_put_on_backdrop(draft, image, decoded) for image, decoded in pairs))


def _put_on_backdrop(draft: Draft, image: Any, decoded: Any) -> Any:
    canvas = draft.geometry.canvas
    assert canvas is not None
    assert canvas.backdrop is not None
    behind = resample(decoded, canvas.backdrop, canvas.size, decoded=draft.decoded, in_memory=True)
    behind = colour.as_rgb(colour.convert(behind, draft.plan.output.colour_space).image)
    sigma = max(1.0, max(canvas.size.width_px, canvas.size.height_px) * _BACKDROP_SIGMA)
    return paint.over(adjustments.blur(behind, sigma).copy_memory(), image, canvas.left_px, canvas.top_px)


def flip(draft: Draft) -> Draft:
    """Mirror left to right (h), top to bottom (v)."""
    if "h" in draft.plan.flip:
        draft = draft.change_frames(lambda image: image.fliphor())
    return draft.change_frames(lambda image: image.flipver()) if "v" in draft.plan.flip else draft


def turn(draft: Draft) -> Draft:
    """Turn counter-clockwise: enlarged so that it covers the frame, or whole in a larger frame with empty corners."""
    degrees, geometry = draft.plan.rotation, draft.geometry
    if not degrees:
        return draft
    if draft.plan.is_pivot and degrees % 90:
        draft = draft.change_frames(paint.add_alpha)
    return draft.change_frames(lambda image: rotate(image, degrees, geometry.rotation_zoom, geometry.frame))


def tone(draft: Draft) -> Draft:
    """Apply enhance, the tone curves, hue, saturation and vibrance."""
    wanted = draft.plan.adjust
    if wanted.enhance:
        draft = draft.change_frames(adjustments.enhance)
    if adjustments.has_tone(wanted):
        draft = draft.change_frames(lambda image: adjustments.tone(image, wanted))
    if adjustments.has_colour(wanted):
        draft = draft.change_frames(lambda image: adjustments.colour(image, wanted))
    return draft


def stylize(draft: Draft) -> Draft:
    """Apply blur, pixel blocks, tints and invert."""
    wanted = draft.plan.adjust
    if wanted.blur:
        draft = draft.change_frames(lambda image: adjustments.blur(image, wanted.blur / 10))
    if wanted.pixellate_px > 1:
        draft = draft.change_frames(lambda image: adjustments.pixellate(image, wanted.pixellate_px))
    if (tint := wanted.monochrome) is not None:
        draft = draft.change_frames(lambda image: adjustments.monochrome(image, tint))
    if wanted.sepia:
        draft = draft.change_frames(lambda image: adjustments.sepia(image, wanted.sepia / 100))
    if (tones := wanted.duotone) is not None:
        draft = draft.change_frames(lambda image: adjustments.duotone(image, tones, wanted.duotone_alpha / 100))
    return draft.change_frames(adjustments.invert) if wanted.invert else draft


def sharpen(draft: Draft) -> Draft:
    """Sharpen the luma, or by unsharp mask."""
    wanted = draft.plan.adjust
    if wanted.sharpen:
        draft = draft.change_frames(lambda image: adjustments.sharpen(image, wanted.sharpen))
    if wanted.unsharp:
        amount, radius = wanted.unsharp / 100, wanted.unsharp_radius
        draft = draft.change_frames(lambda image: adjustments.unsharp(image, amount, radius))
    return draft


def blend(draft: Draft) -> Draft:
    """Blend a colour over the picture."""
    wanted = draft.plan.blend
    if wanted is None:
        return draft
    return draft.change_frames(lambda image: blending.blend(image, wanted.colour, wanted.mode, wanted.alpha / 100))


def mark(draft: Draft) -> Draft:
    """Paint the watermark. If it is missing or broken, set `is_mark_missing`; the picture does not change."""
    wanted = draft.plan.mark
    if wanted is None:
        return draft
    base = Size(draft.first.width, draft.first.height)
    if base.width_px < wanted.min_width_px or base.height_px < wanted.min_height_px:
        return draft
    path = draft.marks.get(wanted.source)
    try:
        if path is None:
            return replace(draft, is_mark_missing=True)
        layer = watermark.make_layer(path, wanted, base, draft.limits, draft.geometry.limit_scale)
    except (ImgproxyError, pyvips.Error, OSError):
        return replace(draft, is_mark_missing=True)
    return draft.change_frames(lambda image: paint.over(image, layer))


def border(draft: Draft) -> Draft:
    """Paint a frame over the picture's edge."""
    wanted = draft.plan.border
    if wanted is None:
        return draft
    limit = draft.geometry.limit_scale
    sides, size = shrink_sides(wanted.sides, limit), Size(draft.first.width, draft.first.height)
    outer = corner_radii(wanted.radius_px, size, limit_scale=limit) if wanted.radius_px else (0, 0, 0, 0)
    if wanted.inner_radius_px:
        inner = corner_radii(wanted.inner_radius_px, size, limit_scale=limit)
    else:
        width = max(sides.top_px, sides.right_px, sides.bottom_px, sides.left_px)
        a, b, c, d = (max(0, radius - width) for radius in outer)
        inner = (a, b, c, d)
    return draft.change_frames(lambda image: paint.border(image, sides, wanted.colour, outer, inner))


def mask(draft: Draft) -> Draft:
    """Keep what an ellipse or a rounded rectangle covers; the rest becomes transparent, or the mask's background."""
    wanted = draft.plan.mask
    if wanted is None:
        return draft
    size = Size(draft.first.width, draft.first.height)
    if wanted.shape == "ellipse":
        coverage = paint.draw_ellipse(size)
    else:
        radii = corner_radii(wanted.radius_px, size, limit_scale=draft.geometry.limit_scale)
        coverage = paint.draw_rounded(size, Sides(), radii)
    draft = draft.change_frames(lambda image: paint.cut_out(image, coverage))
    ground = wanted.background
    return draft if ground is None else draft.change_frames(lambda image: paint.underlay(image, ground))


def pad(draft: Draft) -> Draft:
    """Add space around the picture, in the background's colour."""
    sides = draft.geometry.pad
    if sides == Sides():
        return draft
    ground = _ground(draft)
    return draft.change_frames(lambda image: paint.pad(image, sides, ground))


def _ground(draft: Draft) -> Colour:
    """
    Return the colour of new space around the picture: the background, if it is opaque.

    A background with alpha is painted by the last step, under all that is transparent. Painted here as well, it would
    be there twice.
    """
    ground = draft.plan.background
    return ground if ground.alpha == 255 else TRANSPARENT_WHITE


def background(draft: Draft) -> Draft:
    """Paint the background under transparent pixels, if the plan has one."""
    ground = draft.plan.background
    return draft if ground.alpha == 0 else draft.change_frames(lambda image: paint.underlay(image, ground))


STEPS: Final = (
    scale,
    smart_crop,
    convert_colours,
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
