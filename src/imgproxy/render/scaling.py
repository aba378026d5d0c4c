"""
A window of a decoded picture at its new size: crop, scale, turn upright, cut. And turning by any angle.

Lanczos with three lobes, in the picture's own gamma, as libvips' thumbnail and every peer do. Pictures with alpha are
scaled premultiplied, so that what is invisible cannot bleed its colour into what is seen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyvips

from imgproxy.render import orientation as orient
from imgproxy.render.geometry import sample
from imgproxy.render.sizes import Box, Size
from imgproxy.render.vips import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.draft import Decoded
    from imgproxy.render.sizes import Window


def resample(image: Any, window: Window, target: Size, *, decoded: Decoded, in_memory: bool) -> Any:
    """
    Return a window of the source at the target's size, upright.

    Args:
        image: one of the decoded frames: as stored, perhaps shrunk on load, in any colour space.
        window: in pixels of the upright source at full size.
        target: what the window becomes.
        decoded: what the frame is of.
        in_memory: hold the scaled pixels, because later steps read them in another order or more than once.
    """
    orientation = decoded.orientation
    stored = Size(image.width, image.height)
    loaded = orient.swap(stored, orientation)
    sampling = sample(window, target, source=decoded.upright, loaded=loaded, ratio=decoded.upright_ratio)
    box = orient.stored_box(sampling.box, loaded, orientation)
    if box.size != stored:
        image = crop(image, box)
    factors = (sampling.across, sampling.down)
    across, down = factors[::-1] if orient.is_swapped(orientation) else factors
    image = scale(image, orient.swap(sampling.scaled, orientation), across, down)
    if in_memory or orientation != 1:
        image = orient.turn_upright(image.copy_memory(), orientation)
    return image if sampling.cut is None else crop(image, sampling.cut)


def crop(image: Any, box: Box) -> Any:
    """Cut a box out; the whole picture is returned as it is."""
    if box.size == Size(image.width, image.height):
        return image
    return call("extract_area", image, box.left_px, box.top_px, box.width_px, box.height_px)


def scale(image: Any, size: Size, across: float, down: float) -> Any:
    """
    Scale by exact factors to a size that is theirs to the nearest pixel.

    Scaling to the size instead would stretch the picture by up to half a pixel over its width, which is as much of a
    difference as all else that a shrink on load does (DSSIM 0.0029 against 0.0019 at 800 of 2725 px).
    """
    if across == 1.0 and down == 1.0:
        return _fitted(image, size)
    if not image.hasalpha():
        return _fitted(call("resize", image, across, vscale=down), size)
    scaled = _premultiplied(image, lambda work: work.resize(across, vscale=down))
    return _fitted(scaled, size)


def halve(image: Any) -> Any:
    """Average 2 x 2 pixels, in memory; of an odd side the last row or column is repeated, as by libvips' own resize."""
    return (_premultiplied(image, _halved) if image.hasalpha() else _halved(image)).copy_memory()


def _halved(image: Any) -> Any:
    # libvips rounds halves up, twice a halving, which makes a picture lighter by a level in two or three of them. So
    # the second time it rounds the negative. Columns first, as they are quicker to halve: rows then have half as many.
    return image.shrinkh(2, ceil=True).invert().shrinkv(2, ceil=True).invert()


def _premultiplied(image: Any, change: Callable[[Any], Any]) -> Any:
    """Change a picture with alpha in premultiplied colour: as float, because 8 bits are too few for faint pixels."""
    changed = change(image.premultiply()).unpremultiply()
    if image.format in ("uchar", "ushort"):
        changed = changed.rint().cast(image.format)
    return changed.copy(interpretation=image.interpretation)


def _fitted(image: Any, size: Size) -> Any:
    """Bring a picture that is a pixel too large or too small, by rounding, to its size."""
    if (image.width, image.height) == (size.width_px, size.height_px):
        return image
    return image.embed(0, 0, size.width_px, size.height_px, extend="copy")


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
