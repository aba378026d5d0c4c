"""
Crop, scale and turn pictures.

The filter is Lanczos with three lobes, in the picture's own gamma, as in libvips' thumbnail and in all peers. Pictures
are enlarged by Catmull-Rom's cubic, as by libvips' resize. Pictures with alpha are scaled with premultiplied colour, so
that the colour of invisible pixels does not bleed into visible ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyvips

from imgproxy.render.orientation import is_swapped, mirrors, stored_box, swap, turn_upright
from imgproxy.render.sampling import sample
from imgproxy.render.sizes import Box, Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.draft import Decoded
    from imgproxy.render.sampling import Enlargement
    from imgproxy.render.sizes import Window


def resample(image: Any, window: Window, target: Size, *, decoded: Decoded, in_memory: bool) -> Any:
    """
    Return a window of the source at the target's size, upright.

    Args:
        image: one of the decoded frames: as stored, perhaps shrunk on load, in any colour space.
        window: in pixels of the upright source at full size.
        target: the size that the window becomes.
        decoded: the decoded source that the frame belongs to.
        in_memory: keep the scaled pixels in memory, because later steps read them more than once or in another order.
    """
    orientation = decoded.orientation
    stored = Size(image.width, image.height)
    loaded = swap(stored, orientation)
    window = _shift(window, loaded, decoded)
    sampling = sample(window, target, loaded=loaded, ratio=decoded.upright_ratio)
    image = crop(image, stored_box(sampling.box, loaded, orientation))
    factors = (sampling.across, sampling.down)
    across, down = factors[::-1] if is_swapped(orientation) else factors
    image = scale(image, swap(sampling.reduced, orientation), across, down)
    wider = sampling.enlargement
    if orientation != 1 or (in_memory and wider is None):
        image = turn_upright(image.copy_memory(), orientation)
    if sampling.cut is not None:
        image = crop(image, sampling.cut)
    if wider is None:
        return image
    image = _change_premultiplied(image, lambda work: enlarge(work, wider))
    return image.copy_memory() if in_memory else image


def _shift(window: Window, loaded: Size, decoded: Decoded) -> Window:
    """
    Return where a window lies if its left and top are measured from the edges of the loaded picture.

    A shrink on load cuts off what is left of an odd side, at the right and bottom as stored. Upright, that may be left
    and top.
    """
    left, top = mirrors(decoded.orientation)
    across, down = decoded.upright_ratio
    return replace(
        window,
        left=window.left - (decoded.upright.width_px - loaded.width_px / across if left else 0.0),
        top=window.top - (decoded.upright.height_px - loaded.height_px / down if top else 0.0),
    )


def crop(image: Any, box: Box) -> Any:
    """Cut a box out. A box of the whole picture returns the picture itself."""
    if box.size == Size(image.width, image.height):
        return image
    return image.crop(box.left_px, box.top_px, box.width_px, box.height_px)


def scale(image: Any, size: Size, across: float, down: float) -> Any:
    """
    Reduce by exact factors of at most 1. `size` is the picture's size times the factors, rounded.

    To scale to `size` instead would stretch the picture by up to half a pixel over its width. That is as much of a
    difference as everything else that a shrink on load does (DSSIM 0.0029 against 0.0019 at 800 of 2725 px).
    """
    if across == 1.0 and down == 1.0:
        return _fit(image, size)
    return _fit(_change_premultiplied(image, lambda work: work.resize(across, vscale=down)), size)


def enlarge(image: Any, wanted: Enlargement) -> Any:
    """
    Enlarge a picture, with premultiplied colour if it has alpha. Its edge pixels are repeated outwards.

    Not by libvips' resize: it lays the middle of the first pixel on the edge of the result, so that everything is half
    a pixel of the result too far right and down. Here edge lies on edge: x of the result is (x + 1/2) / factor + left
    - 1/2 of the picture. Source: https://www.libvips.org/API/current/method.Image.affine.html
    """
    return image.affine(
        [wanted.across, 0.0, 0.0, wanted.down],
        interpolate=pyvips.Interpolate.new("bicubic"),
        idx=0.5 - wanted.left,
        idy=0.5 - wanted.top,
        odx=-0.5,
        ody=-0.5,
        oarea=[0, 0, wanted.size.width_px, wanted.size.height_px],
        extend="copy",
        premultiplied=True,
    )


def halve(image: Any) -> Any:
    """Average 2 x 2 pixels, in memory. On an odd side the last row or column is repeated, as in libvips' resize."""
    return _change_premultiplied(image, _halve).copy_memory()


def _halve(image: Any) -> Any:
    # libvips rounds halves up. Two roundings in each halving make a picture lighter by a level after two or three
    # halvings, so the second one rounds the negative. Columns come first because they are quicker to halve, and leave
    # half as many pixels for the rows.
    return image.shrinkh(2, ceil=True).invert().shrinkv(2, ceil=True).invert()


def _change_premultiplied(image: Any, change: Callable[[Any], Any]) -> Any:
    """Change a picture; one with alpha in premultiplied colour, as float: 8 bits are too few for faint pixels."""
    if not image.hasalpha():
        return change(image)
    changed = change(image.premultiply()).unpremultiply()
    if image.format in ("uchar", "ushort"):
        changed = changed.rint().cast(image.format)
    return changed.copy(interpretation=image.interpretation)


def _fit(image: Any, size: Size) -> Any:
    """Bring a picture to its size if rounding made it a pixel too large or too small."""
    if (image.width, image.height) == (size.width_px, size.height_px):
        return image
    return image.embed(0, 0, size.width_px, size.height_px, extend="copy")


def rotate(image: Any, degrees: float, zoom: float, frame: Size) -> Any:
    """
    Turn a picture counter-clockwise about its centre, enlarge it by `zoom`, and cut or extend it to `frame`.

    Args:
        image: must have alpha if the turned picture does not cover the frame: the uncovered part is transparent.
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
