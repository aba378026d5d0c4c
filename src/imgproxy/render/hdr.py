"""
Tone-map PQ and HLG pictures to SDR.

The light of each pixel is computed for a screen of 1000 cd/m2, the nominal peak of BT.2100. Each of red, green and blue
then goes through the EETF of BT.2390, with the peak of the target at 203 cd/m2, the reference white of BT.2408:

- up to 88 cd/m2 nothing changes;
- above, a Hermite spline in PQ values bends 1000 down to 203. Reference white becomes 159 cd/m2, level 229 of 255;
- brighter than 1000 is white.

Then the primaries are converted, and what lies outside of sRGB is clipped. Sources: BT.2100-2, tables 4 (PQ) and 5
(HLG); BT.2390-11, 5.4.1 (EETF); BT.2408-7, 2.1 (reference white).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.render.characteristics import Transfer
from imgproxy.render.primaries import luminance, to_bt709

if TYPE_CHECKING:
    from imgproxy.render.characteristics import Characteristics

PEAK_NITS: Final = 1000.0
WHITE_NITS: Final = 203.0

# BT.2100-2, table 4.
_PQ_NITS: Final = 10_000.0
_M1: Final = 2610 / 16384
_M2: Final = 2523 / 4096 * 128
_C1: Final = 3424 / 4096
_C2: Final = 2413 / 4096 * 32
_C3: Final = 2392 / 4096 * 32

# BT.2100-2, table 5. The gamma is that of a screen of 1000 cd/m2.
_HLG_A: Final = 0.17883277
_HLG_B: Final = 0.28466892
_HLG_C: Final = 0.55991073
_HLG_GAMMA: Final = 1.2


def to_sdr(image: Any, colours: Characteristics) -> Any:
    """
    Convert a PQ or HLG picture to 8-bit sRGB, or to 8-bit grey if it has one colour band. Alpha does not change.

    `image` is uchar or ushort. libheif's 10 and 12 bits are in the upper bits of ushort.
    """
    bands = image.bands - (1 if image.hasalpha() else 0)
    codes = _to_16_bit(image.extract_band(0, n=bands))
    if colours.transfer is Transfer.PQ:
        light = codes.maplut(_tone_curve(_pq_to_nits(_ramp())))
    else:
        light = _hlg_to_light(codes, colours)
    if bands == 3:
        light = light.recomb([list(row) for row in to_bt709(colours.primaries)])
        sdr = light.copy(interpretation="scrgb").colourspace("srgb")
    else:  # scRGB has three bands
        grey = light.bandjoin([light, light]).copy(interpretation="scrgb")
        sdr = grey.colourspace("srgb").extract_band(0).copy(interpretation="b-w")
    if not image.hasalpha():
        return sdr
    alpha = image.extract_band(bands)
    return sdr.bandjoin(alpha if alpha.format == "uchar" else (alpha >> 8).cast("uchar"))


def _to_16_bit(image: Any) -> Any:
    """Return the sample values as ushort, so that 65,535 is the largest one."""
    if image.format == "uchar":
        return (image.cast("ushort") * 257).cast("ushort")
    bits = int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 16
    if not 8 < bits < 16:
        return image.cast("ushort")
    return (image * (65535 / (65536 - 2 ** (16 - bits)))).rint().cast("ushort")


def _ramp() -> Any:
    """Return 0 to 1 in 65,536 steps: the axis of a lookup table."""
    return pyvips.Image.identity(ushort=True) / 65535


def _hlg_to_light(codes: Any, colours: Characteristics) -> Any:
    """Return linear SDR light, 1 is white. Source: BT.2100-2, table 5, inverse OETF and OOTF."""
    signal = _ramp()
    scene = (signal <= 0.5).ifthenelse(signal**2 / 3, (((signal - _HLG_C) / _HLG_A).exp() + _HLG_B) / 12)
    light = codes.maplut(scene)
    weights = luminance(colours.primaries)
    brightness = light.recomb([list(weights)]) if light.bands == 3 else light
    shown = light * brightness ** (_HLG_GAMMA - 1)
    return (shown * 65535).rint().cast("ushort").maplut(_tone_curve(_ramp() * PEAK_NITS))


def _tone_curve(nits: Any) -> Any:
    """Return a lookup table: for light in cd/m2, linear SDR light. Source: BT.2390-11, 5.4.1."""
    top = _nits_to_pq(PEAK_NITS)
    most = _nits_to_pq(WHITE_NITS) / top
    knee = 1.5 * most - 0.5
    before = _nits_to_pq_image(nits) / top
    before = (before > 1).ifthenelse(1, before)
    t = (before - knee) / (1 - knee)
    t2, t3 = t**2, t**3
    spline = (t3 * 2 - t2 * 3 + 1) * knee + (t3 - t2 * 2 + t) * (1 - knee) + (t2 * 3 - t3 * 2) * most
    after = (before < knee).ifthenelse(before, spline)
    return (_pq_to_nits(after * top) / WHITE_NITS).cast("float")


def _pq_to_nits(values: Any) -> Any:
    """Return cd/m2 for PQ values from 0 to 1: the EOTF."""
    power = values ** (1 / _M2)
    above = power - _C1
    above = (above < 0).ifthenelse(0, above)
    return (above / (power * -_C3 + _C2)) ** (1 / _M1) * _PQ_NITS


def _nits_to_pq_image(nits: Any) -> Any:
    power = (nits / _PQ_NITS) ** _M1
    return ((power * _C2 + _C1) / (power * _C3 + 1)) ** _M2


def _nits_to_pq(nits: float) -> float:
    """Return the PQ value of cd/m2: the inverse EOTF."""
    power = (nits / _PQ_NITS) ** _M1
    return float(((power * _C2 + _C1) / (power * _C3 + 1)) ** _M2)
