"""
The `blend` parameter: one colour over a picture, in a blend mode of the W3C.

libvips has the separable modes, which mix each band alone. The four others (hue, saturation, color, luminosity) mix all
bands; they are computed here, on three float bands of 0-1.
Source: W3C Compositing and Blending Level 1, section 8.2 (Lum, Sat, ClipColor, SetLum, SetSat).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.render.adjustments import change_colours, find_band_extremes
from imgproxy.render.colour import as_rgb
from imgproxy.render.paint import make_flat
from imgproxy.render.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.params.appearance import Colour

Rgb = tuple[float, ...]

# imgix's names of the separable modes, and libvips' names.
_SEPARABLE: Final = {
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

_LUM: Final = (0.3, 0.59, 0.11)
# A pixel whose bands differ by less counts as grey: it has no hue.
_GREY: Final = 1e-6


def blend(image: Any, colour: Colour, mode: str, alpha: float) -> Any:
    """
    Blend a colour over a picture. The picture's alpha stays as it is.

    Args:
        image: uchar, sRGB or grey.
        colour: its alpha is multiplied with `alpha`.
        mode: one of imgix's names; an unknown name is overlay.
        alpha: 0-1.
    """
    strength = alpha * colour.alpha / 255

    def change(colours: Any) -> Any:
        if mode in _NON_SEPARABLE:
            mixed = _NON_SEPARABLE[mode](colours / 255.0, tuple(band / 255 for band in colour.rgb)) * 255.0
        else:
            # libvips' modes match the W3C's only for an opaque layer. So the layer is opaque, and is mixed in
            # afterwards.
            layer = make_flat(Size(colours.width, colours.height), replace(colour, alpha=255))
            mixed = colours.composite2(layer, _SEPARABLE.get(mode, "overlay")).extract_band(0, n=3)
        return mixed if strength >= 1.0 else colours * (1 - strength) + mixed * strength

    return change_colours(as_rgb(image), change)


def _hue(base: Any, source: Rgb) -> Any:
    """The colour's hue with the picture's saturation and luminosity."""
    low, high = min(source), max(source)
    if high - low < _GREY:
        return _set_lum(base * 0.0, _lum_of(base))
    spread = tuple((band - low) / (high - low) for band in source)
    base_low, base_high = find_band_extremes(base)
    return _set_lum((base_high - base_low) * spread, _lum_of(base))


def _saturation(base: Any, source: Rgb) -> Any:
    """The colour's saturation with the picture's hue and luminosity."""
    low, high = find_band_extremes(base)
    span = high - low
    spread = (base - low) / (span < _GREY).ifthenelse(1.0, span)
    return _set_lum(spread * (max(source) - min(source)), _lum_of(base))


def _colour(base: Any, source: Rgb) -> Any:
    """The colour's hue and saturation with the picture's luminosity."""
    return _set_lum(base * 0.0 + list(source), _lum_of(base))


def _luminosity(base: Any, source: Rgb) -> Any:
    """The colour's luminosity with the picture's hue and saturation."""
    lum = sum(weight * band for weight, band in zip(_LUM, source, strict=True))
    return _set_lum(base, _lum_of(base) * 0.0 + lum)


_NON_SEPARABLE: Final[dict[str, Callable[[Any, Rgb], Any]]] = {
    "hue": _hue,
    "saturation": _saturation,
    "color": _colour,
    "luminosity": _luminosity,
}


def _lum_of(image: Any) -> Any:
    return image.recomb(pyvips.Image.new_from_array([list(_LUM)]))


def _set_lum(image: Any, lum: Any) -> Any:
    """SetLum, then ClipColor: values outside 0-1 move towards the luminosity, all bands by the same share."""
    image += lum - _lum_of(image)
    lum = _lum_of(image)
    low, high = find_band_extremes(image)
    below, above = lum - low, high - lum
    image = (low < 0.0).ifthenelse(lum + (image - lum) * lum / (below < _GREY).ifthenelse(1.0, below), image)
    return (high > 1.0).ifthenelse(
        lum + (image - lum) * (lum * -1.0 + 1.0) / (above < _GREY).ifthenelse(1.0, above), image
    )
