"""
Paint colours, borders, masks and padding on a finished picture.

All pictures here are uchar, upright, sRGB or grey, in memory, and at their final size. librsvg draws round shapes from
SVG text, which gives exact, anti-aliased coverage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyvips

from imgproxy.params.appearance import Sides
from imgproxy.render.adjustments import split_alpha
from imgproxy.render.colour import as_rgb
from imgproxy.render.sizes import Size

if TYPE_CHECKING:
    from imgproxy.params.appearance import Colour


def add_alpha(image: Any) -> Any:
    """Return RGB with alpha. A picture without alpha becomes opaque."""
    image = as_rgb(image)
    return image if image.hasalpha() else image.bandjoin(255)


def is_opaque(image: Any) -> bool:
    """Whether every pixel of a picture with alpha is opaque. Reads all pixels."""
    return bool(image.extract_band(image.bands - 1).min() == 255)


def make_flat(size: Size, colour: Colour) -> Any:
    """Return a picture of one colour, with alpha if the colour is not opaque."""
    bands = [*colour.rgb] if colour.alpha == 255 else [*colour.rgb, colour.alpha]
    pixel = pyvips.Image.black(1, 1).linear([1.0] * len(bands), bands).cast("uchar").copy(interpretation="srgb")
    return pixel.embed(0, 0, size.width_px, size.height_px, extend="copy")


def over(base: Any, top: Any, left_px: int = 0, top_px: int = 0) -> Any:
    """Paint one picture over another. The result has the base's size, and alpha if the base has alpha."""
    base, top = as_rgb(base), add_alpha(top)
    painted = base.composite2(top, "over", x=left_px, y=top_px)
    colours, _ = split_alpha(painted)
    return painted if base.hasalpha() else colours


def flatten(image: Any, background: Colour) -> Any:
    """Paint a picture with alpha on a colour. If the colour has alpha too, it is painted on white first."""
    if not image.hasalpha():
        return image
    grounds = [band * background.alpha / 255 + 255 * (1 - background.alpha / 255) for band in background.rgb]
    return as_rgb(image).flatten(background=[round(ground) for ground in grounds])


def underlay(image: Any, background: Colour) -> Any:
    """Paint a picture with alpha on a colour. If the colour has alpha, the result has alpha too."""
    if background.alpha == 0 or not image.hasalpha():
        return image
    if background.alpha == 255:
        return flatten(image, background)
    return over(make_flat(Size(image.width, image.height), background), image)


def extend(image: Any, size: Size, left_px: int, top_px: int, colour: Colour) -> Any:
    """Put a picture on a larger canvas of a colour."""
    if colour.alpha < 255 or image.hasalpha():
        image = add_alpha(image)
        ground = [*colour.rgb, colour.alpha]
        laid = image.embed(left_px, top_px, size.width_px, size.height_px, extend="background", background=ground)
        return laid.copy(interpretation="srgb")
    image = as_rgb(image)
    return image.embed(left_px, top_px, size.width_px, size.height_px, extend="background", background=[*colour.rgb])


def pad(image: Any, sides: Sides, colour: Colour) -> Any:
    """Add space around a picture."""
    size = Size(
        image.width + sides.left_px + sides.right_px,
        image.height + sides.top_px + sides.bottom_px,
    )
    return extend(image, size, sides.left_px, sides.top_px, colour)


# --- shapes -------------------------------------------------------------------------------------------------


def draw_ellipse(size: Size) -> Any:
    """Return the coverage (one band, 0-255) of the ellipse that touches all four sides."""
    rx, ry = size.width_px / 2, size.height_px / 2
    return _draw(size, f'<ellipse cx="{rx}" cy="{ry}" rx="{rx}" ry="{ry}" fill="#fff"/>')


def draw_rounded(size: Size, sides: Sides, radii: tuple[int, int, int, int]) -> Any:
    """Return the coverage of a rectangle `sides` inside the frame, with corner radii from the top left clockwise."""
    left, top = sides.left_px, sides.top_px
    right, bottom = size.width_px - sides.right_px, size.height_px - sides.bottom_px
    if right <= left or bottom <= top:
        return pyvips.Image.black(size.width_px, size.height_px)
    a, b, c, d = (min(radius, (right - left) / 2, (bottom - top) / 2) for radius in radii)
    path = (
        f"M{left + a} {top}H{right - b}A{b} {b} 0 0 1 {right} {top + b}V{bottom - c}"
        f"A{c} {c} 0 0 1 {right - c} {bottom}H{left + d}A{d} {d} 0 0 1 {left} {bottom - d}"
        f"V{top + a}A{a} {a} 0 0 1 {left + a} {top}Z"
    )
    return _draw(size, f'<path d="{path}" fill="#fff"/>')


def _draw(size: Size, shape: str) -> Any:
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size.width_px}" height="{size.height_px}">{shape}</svg>'
    drawn = pyvips.Image.svgload_buffer(text.encode())
    return drawn.extract_band(drawn.bands - 1)


def cut_out(image: Any, coverage: Any) -> Any:
    """Keep what a shape covers; the rest becomes transparent."""
    image = add_alpha(image)
    colours, alpha = split_alpha(image)
    assert alpha is not None
    kept = (alpha * (coverage / 255.0)).rint().cast("uchar")
    return colours.bandjoin(kept).copy(interpretation="srgb")


def stain(image: Any, coverage: Any, colour: Colour) -> Any:
    """Paint a colour on the part of a picture that a shape covers."""
    layer = make_flat(Size(image.width, image.height), colour)
    colours, alpha = split_alpha(layer)
    share = coverage if alpha is None else (coverage * (alpha / 255.0)).rint().cast("uchar")
    return over(image, colours.bandjoin(share).copy(interpretation="srgb"))


# --- border -------------------------------------------------------------------------------------------------


def border(
    image: Any, sides: Sides, colour: Colour, outer: tuple[int, int, int, int], inner: tuple[int, int, int, int]
) -> Any:
    """Paint a frame over a picture's edge. Outside rounded outer corners the picture becomes transparent."""
    size = Size(image.width, image.height)
    whole, hole = draw_rounded(size, Sides(), outer), draw_rounded(size, sides, inner)
    painted = stain(image, (whole - hole).cast("uchar"), colour)
    return cut_out(painted, whole) if any(outer) else painted
