"""
What a picture's container says about its colours without an ICC profile: primaries, transfer curve, range.

AVIF and HEIC say it by the code points of ITU-T H.273 (CICP), PNG by the same codes (`cICP`) or by `gAMA` and `cHRM`.
libvips reads none of them. Sources: H.273 (2023), tables 2 and 3; PNG, third edition, sections 4.3 and 11.3.2.

The curves of BT.709, BT.601 and BT.2020 count as the curve of sRGB. They are curves of cameras, not of screens, and
files name them carelessly. Chromium (`gfx::ColorSpace`) and Firefox (`gfx.color_management.rec709_gamma_as_srgb`) do
the same, so a variant looks as the original does in a browser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Final

from imgproxy.render.png_chunks import before_pixels
from imgproxy.render.primaries import BT709, BT2020, Chromaticities


class Transfer(StrEnum):
    """How sample values become light."""

    SRGB = "sRGB"
    GAMMA = "gamma"
    PQ = "PQ"
    HLG = "HLG"


@dataclass(frozen=True, slots=True)
class Characteristics:
    """
    The colours of a picture. The default is sRGB in full range.

    `gamma` is the exponent that decodes, for Transfer.GAMMA. `is_limited`: the samples still have video range, 16 to
    235 of 255, when libvips has decoded them.
    """

    primaries: Chromaticities = BT709
    transfer: Transfer = Transfer.SRGB
    gamma: float = 1.0
    is_limited: bool = False

    @property
    def is_srgb(self) -> bool:
        """Whether primaries and curve are those of sRGB."""
        return self.primaries == BT709 and self.transfer is Transfer.SRGB

    @property
    def is_hdr(self) -> bool:
        """Whether values above the white of paper are possible."""
        return self.transfer in (Transfer.PQ, Transfer.HLG)

    @property
    def name(self) -> str:
        """A short name, for the description of a profile."""
        curve = f"gamma {self.gamma:.3g}" if self.transfer is Transfer.GAMMA else self.transfer.value
        return f"{self.primaries.name}, {curve}"


_ILLUMINANT_C: Final = (0.310, 0.316)
_D65: Final = (0.3127, 0.3290)

# H.273, table 2. The codes 2 (unspecified) and 10 (XYZ) are left out.
_PRIMARIES: Final = {
    1: BT709,
    4: Chromaticities("BT.470 M", (0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _ILLUMINANT_C),
    5: Chromaticities("BT.601 625", (0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: Chromaticities("BT.601 525", (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: Chromaticities("SMPTE 240M", (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: Chromaticities("Film", (0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _ILLUMINANT_C),
    9: BT2020,
    11: Chromaticities("DCI P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Chromaticities("Display P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: Chromaticities("EBU 3213", (0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_UNSPECIFIED: Final = 2

# H.273, table 3. 1, 6, 14 and 15 are camera curves, see above; 13 is sRGB.
_TRANSFERS: Final = {
    1: (Transfer.SRGB, 1.0),
    2: (Transfer.SRGB, 1.0),
    4: (Transfer.GAMMA, 2.2),
    5: (Transfer.GAMMA, 2.8),
    6: (Transfer.SRGB, 1.0),
    8: (Transfer.GAMMA, 1.0),
    13: (Transfer.SRGB, 1.0),
    14: (Transfer.SRGB, 1.0),
    15: (Transfer.SRGB, 1.0),
    16: (Transfer.PQ, 1.0),
    18: (Transfer.HLG, 1.0),
}

# gAMA and cHRM are in 1/100,000. A gamma this close to sRGB's 0.45455 means sRGB's curve, as in libpng, unless the
# primaries are others than sRGB's.
_UNITS: Final = 100_000
_SRGB_GAMMA: Final = 0.45455
_GAMMA_SLACK: Final = 0.05
# PNG allows any number. Beyond these a picture would be black or white.
_GAMMA_MIN: Final = 0.1
_GAMMA_MAX: Final = 10.0
# Primaries that differ by less than this are sRGB's.
_CHROMATICITY_SLACK: Final = 0.001

_COLOUR_CHUNKS: Final = frozenset({b"cICP", b"gAMA", b"cHRM"})
_COLOUR_CHUNK_BYTES: Final = 32


def from_codes(primaries: int, transfer: int, *, is_limited: bool = False) -> Characteristics | None:
    """Return what two codes of H.273 mean, or None if one of them is not known, or nothing is specified."""
    curve = _TRANSFERS.get(transfer)
    if primaries == _UNSPECIFIED:  # PQ and HLG are defined with BT.2020's primaries (BT.2100)
        chromaticities = BT2020 if curve and curve[0] in (Transfer.PQ, Transfer.HLG) else BT709
    elif primaries in _PRIMARIES:
        chromaticities = _PRIMARIES[primaries]
    else:
        return None
    return None if curve is None else Characteristics(chromaticities, curve[0], curve[1], is_limited=is_limited)


def read_png(file: BinaryIO) -> Characteristics | None:
    """
    Return what the colour chunks of a PNG say, or None if they say nothing, or leave it to the ICC profile.

    `cICP` is stronger than a profile; `sRGB` and a profile are stronger than `gAMA` and `cHRM`.
    """
    found: dict[bytes, bytes] = {}
    for name, start, end in before_pixels(file):
        file.seek(start)
        found[name] = file.read(min(end - start, _COLOUR_CHUNK_BYTES)) if name in _COLOUR_CHUNKS else b""
    if len(codes := found.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full_range = codes
        known = from_codes(primaries, transfer, is_limited=full_range == 0)
        if known is not None and matrix == 0:
            return known
    if b"iCCP" in found or b"sRGB" in found:
        return None
    return _from_gamma(found.get(b"gAMA", b""), found.get(b"cHRM", b""))


def _from_gamma(gamma: bytes, chromaticities: bytes) -> Characteristics | None:
    """Return what `gAMA` and `cHRM` say. One without the other means sRGB's curve, or sRGB's primaries."""
    primaries = BT709
    if len(chromaticities) == 32:
        white, *rgb = [(x / _UNITS, y / _UNITS) for x, y in struct.iter_unpack(">2I", chromaticities)]
        named = Chromaticities("cHRM", rgb[0], rgb[1], rgb[2], white)
        if named.is_possible and not named.is_near(BT709, _CHROMATICITY_SLACK):
            primaries = named
    value = int.from_bytes(gamma, "big") / _UNITS if len(gamma) == 4 else 0.0
    means_srgb = primaries == BT709 and abs(value / _SRGB_GAMMA - 1) <= _GAMMA_SLACK
    if _GAMMA_MIN <= value <= _GAMMA_MAX and not means_srgb:
        return Characteristics(primaries, Transfer.GAMMA, 1 / value)
    return None if primaries == BT709 else Characteristics(primaries)
