"""
What is painted over, around and away from a finished picture: colours, blends, borders, masks, padding, watermarks.

All pictures here are uchar, upright, sRGB or grey, in memory, and small: they have their final size already. Round
shapes are drawn by librsvg from SVG text of our own, which gives exact, anti-aliased coverage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyvips

from imgproxy.params.plan import Sides
from imgproxy.render import nonseparable
from imgproxy.render.adjustments import on_colours, split_alpha
from imgproxy.render.colour import as_rgb
from imgproxy.render.sizes import Size

if TYPE_CHECKING:
    from imgproxy.params.plan import Colour


def with_alpha(image: Any) -> Any:
    """RGB with an alpha band, opaque where there was none."""
    image = as_rgb(image)
    return image if image.hasalpha() else image.bandjoin(255)


def is_opaque(image: Any) -> bool:
    """Whether every pixel of a picture with alpha is fully opaque; reads all of them."""
    return bool(image.extract_band(image.bands - 1).min() == 255)


def flat(size: Size, color: Colour) -> Any:
    """A picture of one colour, with alpha where the colour is not opaque."""
    bands = [*color.rgb] if color.alpha == 255 else [*color.rgb, color.alpha]
    pixel = pyvips.Image.black(1, 1).linear([1.0] * len(bands), bands).cast("uchar").copy(interpretation="srgb")
    return pixel.embed(0, 0, size.width_px, size.height_px, extend="copy")


def over(base: Any, top: Any, left_px: int = 0, top_px: int = 0) -> Any:
    """Paint one picture over another; the result has the base's size, and alpha where the base has it."""
    base, top = as_rgb(base), with_alpha(top)
    painted = base.composite2(top, "over", x=left_px, y=top_px)
    colours, _ = split_alpha(painted)
    return painted if base.hasalpha() else colours


def flatten(image: Any, background: Colour) -> Any:
    """Paint a picture with alpha on a colour; a colour with alpha itself lies on white."""
    if not image.hasalpha():
        return image
    grounds = [band * background.alpha / 255 + 255 * (1 - background.alpha / 255) for band in background.rgb]
    return as_rgb(image).flatten(background=[round(ground) for ground in grounds])


def underlay(image: Any, background: Colour) -> Any:
    """Paint a picture with alpha on a colour, which may leave it partly transparent."""
    if background.alpha == 0 or not image.hasalpha():
        return image
    if background.alpha == 255:
        return flatten(image, background)
    return over(flat(Size(image.width, image.height), background), image)


def extend(image: Any, size: Size, left_px: int, top_px: int, color: Colour) -> Any:
    """Lay a picture on a larger canvas of a colour."""
    if color.alpha < 255 or image.hasalpha():
        image = with_alpha(image)
        ground = [*color.rgb, color.alpha]
        laid = image.embed(left_px, top_px, size.width_px, size.height_px, extend="background", background=ground)
        return laid.copy(interpretation="srgb")
    image = as_rgb(image)
    return image.embed(left_px, top_px, size.width_px, size.height_px, extend="background", background=[*color.rgb])


def pad(image: Any, sides: Sides, color: Colour) -> Any:
    """Add space around a picture."""
    size = Size(
        image.width + sides.left_px + sides.right_px,
        image.height + sides.top_px + sides.bottom_px,
    )
    return extend(image, size, sides.left_px, sides.top_px, color)


# --- shapes -------------------------------------------------------------------------------------------------


def ellipse(size: Size) -> Any:
    """The coverage (one band, 0-255) of the ellipse that touches all four sides."""
    rx, ry = size.width_px / 2, size.height_px / 2
    return _coverage(size, f'<ellipse cx="{rx}" cy="{ry}" rx="{rx}" ry="{ry}" fill="#fff"/>')


def rounded(size: Size, sides: Sides, radii: tuple[int, int, int, int]) -> Any:
    """The coverage of a rectangle `sides` inside the frame, with corner radii from the top left clockwise."""
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
    return _coverage(size, f'<path d="{path}" fill="#fff"/>')


def _coverage(size: Size, shape: str) -> Any:
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size.width_px}" height="{size.height_px}">{shape}</svg>'
    drawn = pyvips.Image.svgload_buffer(text.encode())
    return drawn.extract_band(drawn.bands - 1)


def cut_out(image: Any, coverage: Any) -> Any:
    """Keep only what a shape covers: the rest becomes transparent."""
    image = with_alpha(image)
    colours, alpha = split_alpha(image)
    assert alpha is not None
    kept = (alpha * (coverage / 255.0)).rint().cast("uchar")
    return colours.bandjoin(kept).copy(interpretation="srgb")


def stain(image: Any, coverage: Any, color: Colour) -> Any:
    """Paint a colour over a picture where a shape covers it."""
    layer = flat(Size(image.width, image.height), color)
    colours, alpha = split_alpha(layer)
    share = coverage if alpha is None else (coverage * (alpha / 255.0)).rint().cast("uchar")
    return over(image, colours.bandjoin(share).copy(interpretation="srgb"))


# --- border -------------------------------------------------------------------------------------------------


def border(
    image: Any, sides: Sides, color: Colour, outer: tuple[int, int, int, int], inner: tuple[int, int, int, int]
) -> Any:
    """Paint a frame over a picture's edge; outside rounded outer corners the picture becomes transparent."""
    size = Size(image.width, image.height)
    whole = rounded(size, Sides(), outer) if any(outer) else pyvips.Image.black(*_pair(size)).linear(1, 255)
    hole = rounded(size, sides, inner)
    ring = (whole - hole.cast("float")).cast("uchar")
    painted = stain(image, ring, color)
    return cut_out(painted, whole.cast("uchar")) if any(outer) else painted


def _pair(size: Size) -> tuple[int, int]:
    return size.width_px, size.height_px


# --- blend --------------------------------------------------------------------------------------------------

# imgix's names of the separable modes and libvips' ones; both follow the W3C's Compositing and Blending Level 1.
SEPARABLE = {
    "normal": "over",
    "multiply": "multiply",
    "screen": "screen",
    "darken": "darken",
    "lighten": "lighten",
    "overlay": "overlay",
    "softlight": "soft-light",
    "hardlight": "hard-light",
    "difference": "difference",
    "exclusion": "exclusion",
    "burn": "colour-burn",
    "dodge": "colour-dodge",
}


def blend(image: Any, color: Colour, mode: str, alpha: float) -> Any:
    """
    Blend a colour over a picture, whose alpha stays as it is.

    Args:
        image: the picture.
        color: its own alpha counts too.
        mode: one of imgix's names; unknown ones are overlay.
        alpha: 0-1.
    """
    strength = alpha * color.alpha / 255

    def change(colours: Any) -> Any:
        if mode in nonseparable.MODES:
            mixed = nonseparable.MODES[mode](colours / 255.0, tuple(band / 255 for band in color.rgb)) * 255.0
        else:
            # libvips' blend modes are the W3C's where the upper layer is opaque; so it is, and is mixed in afterwards.
            layer = flat(Size(colours.width, colours.height), replace(color, alpha=255))
            mixed = colours.composite2(layer, SEPARABLE.get(mode, "overlay")).extract_band(0, n=3)
        return mixed if strength >= 1.0 else colours * (1 - strength) + mixed * strength

    return on_colours(as_rgb(image), change)
