"""
The four blend modes that mix all bands: hue, saturation, color, luminosity, for one colour over a picture.

Source: W3C Compositing and Blending Level 1, section 8.2 (Lum, Sat, ClipColor, SetLum, SetSat).
Pictures are three float bands of 0-1; a colour is three floats of 0-1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.render.adjustments import band_extremes

if TYPE_CHECKING:
    from collections.abc import Callable

_LUM: Final = (0.3, 0.59, 0.11)
# Below this a pixel counts as grey: it has no hue to keep.
_GREY: Final = 1e-6

Rgb = tuple[float, ...]


def hue(base: Any, source: Rgb) -> Any:
    """The colour's hue, with the picture's saturation and luminosity."""
    low, high = min(source), max(source)
    if high - low < _GREY:
        return _set_lum(base * 0.0, _lum_of(base))
    spread = tuple((band - low) / (high - low) for band in source)
    return _set_lum(_sat_of(base) * spread, _lum_of(base))


def saturation(base: Any, source: Rgb) -> Any:
    """The colour's saturation, with the picture's hue and luminosity."""
    low, high = band_extremes(base)
    span = high - low
    spread = (base - low) / (span < _GREY).ifthenelse(1.0, span)
    return _set_lum(spread * (max(source) - min(source)), _lum_of(base))


def color(base: Any, source: Rgb) -> Any:
    """The colour's hue and saturation, with the picture's luminosity."""
    return _set_lum(base * 0.0 + list(source), _lum_of(base))


def luminosity(base: Any, source: Rgb) -> Any:
    """The colour's luminosity, with the picture's hue and saturation."""
    lum = sum(weight * band for weight, band in zip(_LUM, source, strict=True))
    return _set_lum(base, _lum_of(base) * 0.0 + lum)


MODES: Final[dict[str, Callable[[Any, Rgb], Any]]] = {
    "hue": hue,
    "saturation": saturation,
    "color": color,
    "luminosity": luminosity,
}


def _lum_of(image: Any) -> Any:
    return image.recomb(pyvips.Image.new_from_array([list(_LUM)]))


def _sat_of(image: Any) -> Any:
    low, high = band_extremes(image)
    return high - low


def _set_lum(image: Any, lum: Any) -> Any:
    moved = image + (lum - _lum_of(image))
    return _clip(moved)


def _clip(image: Any) -> Any:
    """ClipColor: pull values outside 0-1 towards the luminosity, all bands by the same share."""
    lum = _lum_of(image)
    low, high = band_extremes(image)
    below, above = lum - low, high - lum
    image = (low < 0.0).ifthenelse(lum + (image - lum) * lum / (below < _GREY).ifthenelse(1.0, below), image)
    return (high > 1.0).ifthenelse(
        lum + (image - lum) * (lum * -1.0 + 1.0) / (above < _GREY).ifthenelse(1.0, above), image
    )
