"""
A window of a decoded picture at its new size: crop, scale, turn upright, cut. And turning by any angle.

Lanczos with three lobes, in the picture's own gamma, as libvips' thumbnail and every peer do. Pictures with alpha are
scaled premultiplied, so that what is invisible cannot bleed its colour into what is seen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyvips

from imgproxy.render import orient
from imgproxy.render.geometry import sample
from imgproxy.render.shapes import Size

if TYPE_CHECKING:
    from imgproxy.render.shapes import Box, Window


def resample(image: Any, window: Window, target: Size, *, upright: Size, orientation: int, in_memory: bool) -> Any:
    """
    Return a window of the source at the target's size, upright.

    Args:
        image: the decoded picture as stored, perhaps shrunk on load, in any colour space.
        window: in pixels of the upright source at full size.
        target: what the window becomes.
        upright: the upright source at full size.
        orientation: EXIF orientation 1-8 that brings the picture upright.
        in_memory: hold the scaled pixels, because later steps read them in another order or more than once.
    """
    loaded = orient.swap(Size(image.width, image.height), orientation)
    sampling = sample(window, target, source=upright, loaded=loaded)
    image = crop(image, orient.stored_box(sampling.box, loaded, orientation))
    image = scale(image, orient.swap(sampling.scaled, orientation))
    if in_memory or orientation != 1:
        image = orient.turn_upright(image.copy_memory(), orientation)
    return image if sampling.cut is None else crop(image, sampling.cut)


def crop(image: Any, box: Box) -> Any:
    """Cut a box out; the whole picture is returned as it is."""
    if box.size == Size(image.width, image.height):
        return image
    return image.crop(box.left_px, box.top_px, box.width_px, box.height_px)


def scale(image: Any, size: Size) -> Any:
    """Scale to exactly this size."""
    across, down = size.width_px / image.width, size.height_px / image.height
    if across == 1.0 and down == 1.0:
        return image
    if not image.hasalpha():
        return image.resize(across, vscale=down)
    # 8 bits of premultiplied colour are too few for faint pixels; the integer formats of the source are kept after.
    scaled = image.premultiply().resize(across, vscale=down).unpremultiply()
    top = 65535 if image.format == "ushort" else 255
    if image.format in ("uchar", "ushort"):
        scaled = (scaled > top).ifthenelse(top, scaled.rint()).cast(image.format)
    return scaled.copy(interpretation=image.interpretation)


def rotate(image: Any, degrees: float, zoom: float, frame: Size) -> Any:
    """
    Turn counter-clockwise about the centre, enlarged by `zoom`, into a frame of this size.

    Args:
        image: with alpha where the turned picture does not cover the frame; what is uncovered is transparent.
        degrees: counter-clockwise.
        zoom: at least 1.
        frame: size of the result, around the same centre.
    """
    if degrees % 90 == 0 and zoom == 1.0:
        return getattr(image, ("copy", "rot270", "rot180", "rot90")[int(degrees // 90) % 4])()
    cosine, sine = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    work = image.premultiply() if image.hasalpha() else image
    turned = work.affine(
        [cosine, sine, -sine, cosine],
        interpolate=pyvips.Interpolate.new("bicubic"),
        idx=-(image.width - 1) / 2,
        idy=-(image.height - 1) / 2,
        odx=(frame.width_px - 1) / 2,
        ody=(frame.height_px - 1) / 2,
        oarea=[0, 0, frame.width_px, frame.height_px],
        extend="background" if image.hasalpha() else "copy",
        background=[0.0] * image.bands,
        premultiplied=True,
    )
    if image.hasalpha():
        turned = turned.unpremultiply().rint().cast("uchar")
    return turned.copy(interpretation=image.interpretation)
