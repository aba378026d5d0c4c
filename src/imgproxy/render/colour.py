"""
Convert the colours of any source to 8-bit sRGB, to grey, or to the space that `cs` asks for.

Conversions between ICC profiles are relative colorimetric with black point compensation, as in browsers and Photoshop.
A profile that is broken, or does not fit the picture, counts as missing: RGB is then read as sRGB, CMYK by libvips'
built-in press profile. PQ and HLG are tone-mapped (`hdr`). Alpha does not change. Source:
https://www.libvips.org/API/current/method.Image.icc_transform.html
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import pyvips

from imgproxy.params.plan import ColourSpace
from imgproxy.render import hdr, profiles
from imgproxy.render.srgb import is_srgb
from imgproxy.render.tagging import PROFILE_FIELD, read_hdr, untag

# libvips' interpretations that are treated alike.
_CMYK: Final = "cmyk"
_RGB: Final = frozenset({"srgb", "rgb", "rgb16", "scrgb"})
_GREY: Final = frozenset({"b-w", "grey16"})

_TRANSFORM: Final = {"intent": "relative", "black_point_compensation": True}


@dataclass(frozen=True, slots=True)
class Coloured:
    """Pixels in their final colour space, and the profile to embed, if any."""

    image: Any
    profile: bytes | None


def convert(image: Any, wanted: ColourSpace) -> Coloured:
    """
    Convert decoded pixels to the colour space of a plan.

    The result is uchar: one band of grey or three of RGB, and alpha if the source has it. With SRGB, a tagged source
    gets the small sRGB profile. An untagged source stays untagged: browsers read it as sRGB.
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

    If there are several bands beside the colours (spot colours of a TIFF), the first counts as alpha; the others are
    dropped.
    """
    converted = _to_srgb(image)
    return converted.extract_band(0, n=4) if converted.bands > 4 else converted


def _to_srgb(image: Any) -> Any:
    if (hdr_colours := read_hdr(image)) is not None:
        return untag(hdr.to_sdr(image, hdr_colours))
    if image.get_typeof(PROFILE_FIELD) and not _is_srgb_already(image):
        with contextlib.suppress(pyvips.Error):
            return untag(_apply_profile(image))
    if image.interpretation == _CMYK:
        return untag(image.icc_transform("srgb", input_profile="cmyk", **_TRANSFORM))
    return untag(_to_8_bit(image))


def _is_srgb_already(image: Any) -> bool:
    is_plain = image.interpretation == "srgb" and image.format == "uchar" and image.bands in (3, 4)
    return is_plain and is_srgb(bytes(image.get(PROFILE_FIELD)))


def as_rgb(image: Any) -> Any:
    """Give a grey picture three equal colour bands."""
    return image if image.bands > 2 else image.colourspace("srgb")


def _apply_profile(image: Any) -> Any:
    """
    Convert to sRGB by the embedded profile. Raises pyvips.Error if the profile does not fit the picture.

    This is checked first, because libvips would use another profile, with only a warning. It also would cut float
    samples, which are 0 to 1, to whole numbers.
    """
    data = bytes(image.get(PROFILE_FIELD))
    space = data[16:20]
    colours = image.bands - (1 if image.hasalpha() else 0)
    expected = {b"RGB ": 3, b"GRAY": 1, b"CMYK": 4, b"Lab ": 3}
    if data[36:40] != b"acsp" or expected.get(space) != colours:
        raise pyvips.Error("profile does not belong to this picture")
    if image.format == "float" and space in (b"RGB ", b"GRAY"):
        image = (image * 65535).rint().cast("ushort").copy(interpretation="rgb16" if colours == 3 else "grey16")
    converted = image.icc_transform("srgb", embedded=True, depth=8, **_TRANSFORM)
    # A grey picture goes back to one band of grey, with sRGB's curve.
    return converted.colourspace("b-w") if space == b"GRAY" else converted


def _to_adobe(image: Any) -> Coloured:
    source = image
    if not image.get_typeof(PROFILE_FIELD) or image.interpretation not in _RGB:
        source = as_rgb(to_srgb(image))
    try:
        lab = source.icc_import(embedded=True, input_profile="srgb", **_TRANSFORM)
    except pyvips.Error:
        lab = as_rgb(to_srgb(image)).icc_import(input_profile="srgb", **_TRANSFORM)
    # Without the name of a file, icc_export takes its target from the picture's own field.
    lab = lab.copy()
    lab.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, profiles.adobe_rgb())
    return Coloured(untag(lab.icc_export(depth=8, **_TRANSFORM)), profiles.adobe_rgb())


def srgb_profile() -> bytes:
    """Return the small sRGB profile that comes with libvips, 480 bytes."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def _to_grey(image: Any) -> Any:
    """Convert float grey, linear light from 0 to 1 like float RGB, to 8-bit grey."""
    light = image.extract_band(0)
    linear = light.bandjoin([light, light, *([image.extract_band(1)] if image.bands > 1 else [])])
    encoded = linear.copy(interpretation="scrgb").colourspace("srgb")
    grey = encoded.extract_band(0)
    if image.bands > 1:
        grey = grey.bandjoin(encoded.extract_band(3))
    return grey.copy(interpretation="b-w")


def _to_8_bit(image: Any) -> Any:
    """Convert any interpretation to 8-bit sRGB or grey, without profiles."""
    interpretation = image.interpretation
    if interpretation in ("srgb", "b-w") and image.format == "uchar":
        return image
    if interpretation in ("lab", "labs"):  # files mean D50; libvips' own conversion takes D65
        return image.colourspace("lab").icc_export(output_profile="srgb", depth=8, **_TRANSFORM)
    if interpretation == "b-w" and image.format == "float":
        return _to_grey(image)
    if interpretation in ("grey16", "b-w"):
        return image.colourspace("b-w")
    if interpretation in ("multiband", "matrix", "histogram"):
        interpretation = "b-w" if image.bands < 3 else "srgb"
        image = image.copy(interpretation=interpretation)
    return image.cast("uchar") if interpretation == "srgb" else image.colourspace("srgb")
