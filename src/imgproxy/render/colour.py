"""
Colour: whatever the source is in becomes 8-bit sRGB, or grey, or what `cs` asks for.

Conversions between ICC profiles are relative colorimetric with black point compensation, as browsers and Photoshop do
them. A profile that is broken, or belongs to another kind of picture, is treated as missing: RGB is then sRGB, CMYK
is libvips' built-in press profile. Alpha passes through untouched.
Source: https://www.libvips.org/API/current/method.Image.icc_transform.html
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import pyvips

from imgproxy.params.plan import ColourSpace
from imgproxy.render import profiles
from imgproxy.render.srgb import is_srgb

PROFILE_FIELD: Final = "icc-profile-data"

# What needs a conversion of its own, by libvips' interpretation.
_CMYK: Final = "cmyk"
_RGB: Final = frozenset({"srgb", "rgb", "rgb16", "scrgb"})
_GREY: Final = frozenset({"b-w", "grey16"})

_TRANSFORM: Final = {"intent": "relative", "black_point_compensation": True}


@dataclass(frozen=True, slots=True)
class Coloured:
    """Pixels in their final colour space, and the profile to embed: None for none."""

    image: Any
    profile: bytes | None


def convert(image: Any, wanted: ColourSpace) -> Coloured:
    """
    Bring decoded pixels into the colour space a plan wants.

    The result is uchar: one band of grey or three of RGB, and alpha where there was one. With SRGB the small sRGB
    profile is embedded where the source was tagged: an untagged source stays untagged, as the web reads it.
    """
    tagged = bool(image.get_typeof(PROFILE_FIELD))
    if wanted is ColourSpace.ORIGIN and tagged and image.interpretation in _RGB | _GREY:
        profile = bytes(image.get(PROFILE_FIELD))
        return Coloured(_to_8_bit(image), profile)
    if wanted is ColourSpace.ADOBERGB:
        return _to_adobe(image)
    converted = to_srgb(image)
    if wanted is ColourSpace.TINYSRGB or (wanted is ColourSpace.SRGB and tagged and converted.bands > 2):
        return Coloured(converted, srgb_profile())
    return Coloured(converted, None)


def to_srgb(image: Any) -> Any:
    """
    Convert to 8-bit sRGB; a grey picture stays grey. The result carries no profile.

    Of more than one band beside the colours (spot colours of a TIFF) the first counts as alpha, the others go.
    """
    converted = _to_srgb(image)
    return converted.extract_band(0, n=4) if converted.bands > 4 else converted


def _to_srgb(image: Any) -> Any:
    if image.get_typeof(PROFILE_FIELD) and not _is_srgb_already(image):
        with contextlib.suppress(pyvips.Error):
            return _without_profile(_through_profile(image, "srgb"))
    if image.interpretation == _CMYK:
        return _without_profile(image.icc_transform("srgb", input_profile="cmyk", **_TRANSFORM))
    return _without_profile(_to_8_bit(image))


def _is_srgb_already(image: Any) -> bool:
    is_plain = image.interpretation == "srgb" and image.format == "uchar" and image.bands in (3, 4)
    return is_plain and is_srgb(bytes(image.get(PROFILE_FIELD)))


def as_rgb(image: Any) -> Any:
    """Give a grey picture three equal colour bands."""
    return image if image.bands > 2 else image.colourspace("srgb")


def _through_profile(image: Any, target: str) -> Any:
    """
    Use the embedded profile. Raises pyvips.Error where it does not fit the picture.

    libvips would then fall back on a guess of its own, with a warning only; so the fit is checked first.
    """
    data = bytes(image.get(PROFILE_FIELD))
    space = data[16:20]
    colours = image.bands - (1 if image.hasalpha() else 0)
    expected = {b"RGB ": 3, b"GRAY": 1, b"CMYK": 4, b"Lab ": 3}
    if data[36:40] != b"acsp" or expected.get(space) != colours:
        raise pyvips.Error("profile does not belong to this picture")
    depth = 8
    if space == b"GRAY":
        # To grey again where nothing is lost: sRGB's curve, one band.
        grey = image.icc_transform(target, embedded=True, depth=depth, **_TRANSFORM)
        return grey.colourspace("b-w")
    return image.icc_transform(target, embedded=True, depth=depth, **_TRANSFORM)


def _to_adobe(image: Any) -> Coloured:
    source = image
    if not image.get_typeof(PROFILE_FIELD) or image.interpretation not in _RGB:
        source = as_rgb(to_srgb(image))
    try:
        lab = source.icc_import(embedded=True, input_profile="srgb", **_TRANSFORM)
    except pyvips.Error:
        lab = as_rgb(to_srgb(image)).icc_import(input_profile="srgb", **_TRANSFORM)
    # icc_export takes its target from the picture's own field where no file is named.
    lab = lab.copy()
    lab.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, profiles.adobe_rgb())
    return Coloured(_without_profile(lab.icc_export(depth=8, **_TRANSFORM)), profiles.adobe_rgb())


def srgb_profile() -> bytes:
    """The small sRGB profile that comes with libvips, 480 bytes."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def _to_8_bit(image: Any) -> Any:
    """Map any interpretation without regard to profiles to 8-bit sRGB or grey."""
    interpretation = image.interpretation
    if interpretation in ("srgb", "b-w") and image.format == "uchar":
        return image
    if interpretation in ("grey16", "b-w"):
        return image.colourspace("b-w")
    if interpretation in ("multiband", "matrix", "histogram"):
        interpretation = "b-w" if image.bands < 3 else "srgb"
        image = image.copy(interpretation=interpretation)
    return image.cast("uchar") if interpretation == "srgb" else image.colourspace("srgb")


def _without_profile(image: Any) -> Any:
    if not image.get_typeof(PROFILE_FIELD):
        return image
    image = image.copy()
    image.remove(PROFILE_FIELD)
    return image
