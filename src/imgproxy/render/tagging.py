"""
Write what a container says about colours onto the decoded picture, so that `colour` converts it like any other.

Primaries and a curve become an ICC profile. PQ and HLG, for which ICC has no simple profile, become a field of
the picture's header.
"""

from __future__ import annotations

from typing import Any, Final

import pyvips

from imgproxy.render import profiles
from imgproxy.render.characteristics import Characteristics, Transfer
from imgproxy.render.primaries import Chromaticities, to_xyz_d50

PROFILE_FIELD: Final = "icc-profile-data"

# Our own fields of a PQ or HLG picture: the curve, and the primaries and white as eight numbers.
HDR_FIELD: Final = "imgproxy-hdr"
_HDR_PRIMARIES_FIELD: Final = "imgproxy-hdr-primaries"

# Video range in 8 bits: 16 to 235. BT.709-6, 4.6.
_BLACK: Final = 16
_RANGE: Final = 219


def tag(image: Any, colours: Characteristics | None) -> Any:
    """
    Return a decoded picture with the profile or the fields of its characteristics. None leaves it as it is.

    A limited range is extended to the full one. Grey with another curve gets sRGB's at once.
    """
    if colours is None:
        return image
    bands = image.bands - (1 if image.hasalpha() else 0)
    image = (_to_full_range(image, bands) if colours.is_limited else image).copy()
    if colours.is_limited and colours.is_srgb:
        return image  # a monochrome picture with a profile keeps it
    if image.get_typeof(PROFILE_FIELD):
        image.remove(PROFILE_FIELD)
    if bands == 1 and colours.transfer is Transfer.GAMMA:
        return _to_srgb_curve(image, colours.gamma)
    if colours.is_hdr:
        space = colours.primaries
        image.set_type(pyvips.GValue.gstr_type, HDR_FIELD, colours.transfer.value)
        points = [*space.red, *space.green, *space.blue, *space.white]
        image.set_type(pyvips.GValue.array_double_type, _HDR_PRIMARIES_FIELD, points)
    elif (profile := _write_profile(colours, bands)) is not None:
        image.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, profile)
    return image


def read_hdr(image: Any) -> Characteristics | None:
    """Return the characteristics of a PQ or HLG picture, None for any other."""
    if not image.get_typeof(HDR_FIELD):
        return None
    points = image.get(_HDR_PRIMARIES_FIELD)
    red, green, blue, white = zip(points[0::2], points[1::2], strict=True)
    return Characteristics(Chromaticities("HDR", red, green, blue, white), Transfer(image.get(HDR_FIELD)))


def untag(image: Any) -> Any:
    """Return a picture without profile and fields of characteristics."""
    found = [name for name in (PROFILE_FIELD, HDR_FIELD, _HDR_PRIMARIES_FIELD) if image.get_typeof(name)]
    if not found:
        return image
    image = image.copy()
    for name in found:
        image.remove(name)
    return image


def _write_profile(colours: Characteristics, bands: int) -> bytes | None:
    if colours.is_srgb or bands != 3:
        return None
    gamma = round(colours.gamma * 256) if colours.transfer is Transfer.GAMMA else None
    return profiles.write_profile(colours.name, profiles.to_columns(to_xyz_d50(colours.primaries)), gamma)


def _to_srgb_curve(image: Any, gamma: float) -> Any:
    """Change grey from a power to the curve of sRGB. LittleCMS is off by up to 10 levels in the shadows here."""
    most = 65535 if image.format == "ushort" else 255
    light = (pyvips.Image.identity(ushort=image.format == "ushort") / most) ** gamma
    encoded = (light <= 0.0031308).ifthenelse(light * 12.92, light ** (1 / 2.4) * 1.055 - 0.055)
    curve = (encoded * most).rint().cast(image.format)
    grey = image.extract_band(0).maplut(curve)
    found = grey if image.bands == 1 else grey.bandjoin(image.extract_band(1, n=image.bands - 1))
    return found.copy(interpretation=image.interpretation)


def _to_full_range(image: Any, bands: int) -> Any:
    """Extend 16-235 to 0-255, or the same in the upper bits of 16. Alpha is always in full range."""
    black, most, span = float(_BLACK), 255.0, float(_RANGE)
    if image.format == "ushort":
        bits = int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 16
        black, most, span = black * 256, float(65536 - 2 ** (16 - bits)), span * 256
    gain, alphas = most / span, image.bands - bands
    scaled = image.linear([gain] * bands + [1.0] * alphas, [-black * gain] * bands + [0.0] * alphas)
    return scaled.rint().cast(image.format).copy(interpretation=image.interpretation)
