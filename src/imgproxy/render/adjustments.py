"""
Tone, colour and style: the parameters of imgix's "Adjustment" and "Stylize" groups, on 8-bit sRGB or grey.

imgix publishes no formulas. Hue, saturation and sepia are those of the W3C's Filter Effects Module Level 1. The others
are ours: simple, monotone, and without effect at 0. Values v are 0-1 per band; alpha does not change.

    exp   linear light times 2^(exp/20)            gam   v^(1/2^(gam/100))
    bri   v + bri/200                              con   (v - 1/2)(1 + con/100) + 1/2
    shad  v + 1.5 shad/100 v(1-v)^3                high  v - 1.5 |high|/100 (1-v)v^3
    hue   hueRotate matrix                         sat   saturate matrix of 1 + sat/100
    vib   chroma times 1 + vib/100 (1 - chroma)    sharp v + sharp/50 (luma - gauss(luma, 1/2 + sharp/50))
    usm   v + usm/100 (v - gauss(v, usmrad))       blur  gauss(v, blur/10)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.render import srgb
from imgproxy.render.colour import as_rgb
from imgproxy.render.sampling import Enlargement
from imgproxy.render.scaling import enlarge
from imgproxy.render.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.params.appearance import Adjust, Colour

# Rec. 709 luma, as rounded in Filter Effects Module Level 1.
_LUMA: Final = (0.213, 0.715, 0.072)

# A Gauss kernel is six sigmas long. Above this sigma it runs on a smaller copy: no difference can be seen, and the cost
# no longer grows with the sigma.
_FULL_SIZE_SIGMA: Final = 8.0

_CLIPPED_SHARE: Final = 0.005


def split_alpha(image: Any) -> tuple[Any, Any | None]:
    """Return the colour bands, and the alpha band or None."""
    if not image.hasalpha():
        return image, None
    colours = image.bands - 1
    return image.extract_band(0, n=colours), image.extract_band(colours)


def join_alpha(image: Any, alpha: Any | None) -> Any:
    """Put the alpha band back."""
    return image if alpha is None else image.bandjoin(alpha)


def change_colours(image: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a change to the colour bands alone. The result is uchar, clipped and rounded."""
    colours, alpha = split_alpha(image)
    changed = change(colours)
    if changed.format != "uchar":
        changed = changed.rint().cast("uchar")
    interpretation = "srgb" if changed.bands > 2 else "b-w"
    return join_alpha(changed.copy(interpretation=interpretation), alpha)


# --- tone ---------------------------------------------------------------------------------------------------


def has_tone(adjust: Adjust) -> bool:
    """Whether a curve is set that changes each value alone."""
    return any((adjust.brightness, adjust.contrast, adjust.exposure, adjust.gamma, adjust.highlight, adjust.shadow))


def tone(image: Any, adjust: Adjust) -> Any:
    """Apply all curves at once, by one table of 256 values."""
    table = [round(255 * min(1.0, max(0.0, tone_curve(n / 255, adjust)))) for n in range(256)]
    lut = pyvips.Image.new_from_array([table]).cast("uchar")
    return change_colours(image, lambda colours: colours.maplut(lut))


def tone_curve(value: float, adjust: Adjust) -> float:
    """Return what a value of 0-1 becomes. The result may lie outside 0-1."""
    if adjust.exposure:
        value = srgb.encode(srgb.decode(value) * 2 ** (adjust.exposure / 20))
    if adjust.gamma:
        value = max(0.0, value) ** (1 / 2 ** (adjust.gamma / 100))
    value += adjust.brightness / 200
    value = (value - 0.5) * (1 + adjust.contrast / 100) + 0.5
    value = min(1.0, max(0.0, value))
    value += 1.5 * adjust.shadow / 100 * value * (1 - value) ** 3
    return value - 1.5 * abs(adjust.highlight) / 100 * (1 - value) * value**3


def enhance(image: Any) -> Any:
    """Stretch the tones until half a per cent of the pixels is black and half a per cent white; at most by two."""
    colours, _ = split_alpha(image)
    grey = colours.colourspace("b-w") if colours.bands > 2 else colours
    low, high = grey.percent(100 * _CLIPPED_SHARE), grey.percent(100 * (1 - _CLIPPED_SHARE))
    scale = min(2.0, 255 / max(1, high - low))
    if scale <= 1.0:
        return image
    offset = -low * scale + max(0.0, (255 - (high - low) * scale) / 2)
    return change_colours(image, lambda colours: colours.linear(scale, offset))


# --- colour -------------------------------------------------------------------------------------------------


def has_colour(adjust: Adjust) -> bool:
    """Whether hue, saturation or vibrance is set."""
    return any((adjust.hue, adjust.saturation, adjust.vibrance))


def colour(image: Any, adjust: Adjust) -> Any:
    """Turn the hue, scale the saturation, raise the vibrance."""

    def change(colours: Any) -> Any:
        if adjust.hue:
            colours = colours.recomb(_as_matrix(hue_matrix(adjust.hue)))
        if adjust.saturation:
            colours = colours.recomb(_as_matrix(saturation_matrix(1 + adjust.saturation / 100)))
        return _vibrance(colours, adjust.vibrance) if adjust.vibrance else colours

    return change_colours(as_rgb(image), change)


def saturation_matrix(s: float) -> list[list[float]]:
    """The `saturate` matrix of Filter Effects: 0 is greyscale, 1 leaves the picture."""
    return [[_LUMA[j] * (1 - s) + (s if i == j else 0.0) for j in range(3)] for i in range(3)]


def hue_matrix(degrees: float) -> list[list[float]]:
    """The `hueRotate` matrix of Filter Effects: luma stays, chroma turns."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cosines = ((0.787, -0.715, -0.072), (-0.213, 0.285, -0.072), (-0.213, -0.715, 0.928))
    sines = ((-0.213, -0.715, 0.928), (0.143, 0.140, -0.283), (-0.787, 0.715, 0.072))
    return [[_LUMA[j] + c * cosines[i][j] + s * sines[i][j] for j in range(3)] for i in range(3)]


def _vibrance(colours: Any, vibrance: float) -> Any:
    """Move each pixel away from its luma; a pixel that is colourful already moves less."""
    luma = colours.recomb(_as_matrix([list(_LUMA)]))
    low, high = find_band_extremes(colours)
    factor = ((high - low) / 255.0).linear(-vibrance / 100, 1 + vibrance / 100)
    return luma + (colours - luma) * factor


def find_band_extremes(image: Any) -> tuple[Any, Any]:
    """Return, per pixel, the smallest and the largest of the three colour bands."""
    red, green, blue = (image.extract_band(n) for n in range(3))
    return red.bandrank([green, blue], index=0), red.bandrank([green, blue], index=2)


def _as_matrix(rows: list[list[float]]) -> Any:
    return pyvips.Image.new_from_array(rows)


def luma_of(image: Any) -> Any:
    """One float band: the luma of RGB, or grey as it is."""
    return image.recomb(_as_matrix([list(_LUMA)])) if image.bands > 2 else image.cast("float")


# --- style --------------------------------------------------------------------------------------------------


def gauss(image: Any, sigma: float) -> Any:
    """Blur. Edge pixels are repeated outwards. The result has the picture's format."""
    if sigma <= _FULL_SIZE_SIGMA:
        return _convolve(image, sigma) if sigma >= 0.2 else image
    shrink = sigma / (_FULL_SIZE_SIGMA / 2)
    width, height = max(1, round(image.width / shrink)), max(1, round(image.height / shrink))
    small = image.resize(width / image.width, vscale=height / image.height, kernel="linear")
    small = _convolve(small, _FULL_SIZE_SIGMA / 2)
    return enlarge(small, Enlargement(Size(image.width, image.height), image.width / width, image.height / height))


def _convolve(image: Any, sigma: float) -> Any:
    """Convolve with a Gaussian cut at a hundredth of its height; libvips' default, a fifth, shows as a box."""
    return image.gaussblur(sigma, min_ampl=0.01, precision="float")


def blur(image: Any, sigma: float) -> Any:
    """Blur a picture. The hidden colour of transparent pixels does not bleed into visible ones."""
    if not image.hasalpha():
        return gauss(image, sigma)
    soft = gauss(image.premultiply(), sigma)
    return soft.unpremultiply().rint().cast("uchar").copy(interpretation=image.interpretation)


def pixellate(image: Any, block_px: int) -> Any:
    """Give every block of `block_px` pixels its mean colour. Blocks at the right and bottom edge may be cut."""
    across, down = math.ceil(image.width / block_px), math.ceil(image.height / block_px)
    whole = image.embed(0, 0, across * block_px, down * block_px, extend="copy")
    blocks = whole.premultiply().shrink(block_px, block_px) if image.hasalpha() else whole.shrink(block_px, block_px)
    if image.hasalpha():
        blocks = blocks.unpremultiply().rint().cast("uchar").copy(interpretation=image.interpretation)
    return blocks.zoom(block_px, block_px).crop(0, 0, image.width, image.height)


def monochrome(image: Any, colour: Colour) -> Any:
    """Map luma from black through the colour to white. The colour's alpha mixes the result with the picture."""
    ramp = [_mix_three_points(n / 255, colour.rgb) for n in range(256)]
    return _map_luma(image, ramp, colour.alpha / 255)


def duotone(image: Any, tones: tuple[Colour, Colour], mix: float) -> Any:
    """Map luma from the dark colour to the light one. `mix`: 0 is the picture, 1 the duotone."""
    dark, light = tones[0].rgb, tones[1].rgb
    ramp = [tuple(d + (b - d) * n / 255 for d, b in zip(dark, light, strict=True)) for n in range(256)]
    return _map_luma(image, ramp, mix)


def _mix_three_points(v: float, rgb: tuple[int, int, int]) -> tuple[float, ...]:
    if v < 0.5:
        return tuple(band * v * 2 for band in rgb)
    return tuple(band + (255 - band) * (v * 2 - 1) for band in rgb)


def _map_luma(image: Any, ramp: list[tuple[float, ...]], mix: float) -> Any:
    bands = [pyvips.Image.new_from_array([[row[band] for row in ramp]]) for band in range(3)]
    lut = bands[0].bandjoin(bands[1:])

    def change(colours: Any) -> Any:
        mapped = luma_of(colours).rint().cast("uchar").maplut(lut)
        return mapped if mix >= 1.0 else colours * (1 - mix) + mapped * mix

    return change_colours(as_rgb(image), change)


def sepia(image: Any, amount: float) -> Any:
    """Apply the `sepia` of Filter Effects; `amount` 0-1."""
    classic = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
    rows = [[amount * classic[i][j] + (1 - amount) * (i == j) for j in range(3)] for i in range(3)]
    return change_colours(as_rgb(image), lambda colours: colours.recomb(_as_matrix(rows)))


def invert(image: Any) -> Any:
    """Replace every value by 255 minus the value."""
    return change_colours(image, lambda colours: colours.linear(-1, 255))


def unsharp(image: Any, amount: float, radius: float) -> Any:
    """Move every value away from its blurred neighbourhood by `amount`. A negative amount moves it closer."""

    def change(colours: Any) -> Any:
        exact = colours.cast("float")
        return exact + (exact - gauss(exact, radius)) * amount

    return change_colours(image, change)


def sharpen(image: Any, sharp: float) -> Any:
    """Add the fine detail of the luma to all bands, so that no coloured fringes appear. `sharp` is 0-100."""

    def change(colours: Any) -> Any:
        luma = luma_of(colours)
        return colours + (luma - gauss(luma, 0.5 + sharp / 50)) * (2 * sharp / 100)

    return change_colours(image, change)
