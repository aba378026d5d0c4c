"""
Reads HEIC, which iPhones write, by pi-heif: libheif with a decoder of HEVC. Optional: the extra `imgproxy-edge[heic]`.

The primary item of the file is the picture. Its thumbnails, depth maps, gain maps and the other pictures of the file
are never decoded. libheif joins tiles (grids) and applies the file's own turns, mirrors and crops, which are part of
the picture. So an EXIF orientation beside them has no effect, as in browsers and on phones.
Source: ISO/IEC 23008-12, 6.5.10, 6.5.12 (irot, imir), annex A.2.1 (EXIF in HEIF); pillow-heif.readthedocs.io.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyvips

from imgproxy.errors import DecodeFailed, HeicNotInstalled, NotAnImage
from imgproxy.render.heif_items import make_ascii
from imgproxy.render.tagging import PROFILE_FIELD

# libvips' name of the bits of a sample.
_DEPTH_FIELD: Final = "bits-per-sample"

# pi-heif's names of the bands. `a` is alpha that the colours were multiplied with.
_BANDS: Final = {"L": 1, "I": 1, "LA": 2, "La": 2, "RGB": 3, "RGBA": 4, "RGBa": 4}

# The longest side that libvips can have.
_SIDE_MAX_PX: Final = 10_000_000

_EXIF_HEAD: Final = b"Exif\0\0"
# As long as a JPEG can have it. A longer block counts as missing.
_EXIF_MAX_BYTES: Final = 65_533


@dataclass(frozen=True, slots=True)
class Heic:
    """
    An open file, and the header of its picture: size, bands, format, metadata. The header's pixels are never read.

    `picture` owns the memory of the decoded pixels: they are valid as long as this object lives.
    """

    picture: Any
    header: Any


def open_file(path: str) -> Heic:
    """
    Read the header. No pixel is decoded.

    Raises HeicNotInstalled without the extra; NotAnImage if the picture is not coded in HEVC; DecodeFailed.
    """
    with open(path, "rb") as file:
        data = make_ascii(file.read())
    try:
        import pi_heif  # noqa: PLC0415 - optional, and it takes a tenth of a second

        pi_heif.options.DECODE_THREADS = 1  # as libvips, see `workers.process`
        pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
        opened = pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        picture = opened[opened.primary_index]
    except ImportError as exc:
        raise HeicNotInstalled from exc
    except (SyntaxError, IndexError) as exc:
        raise NotAnImage from exc
    except (ValueError, EOFError, RuntimeError, OSError) as exc:
        raise DecodeFailed from exc
    if not all(1 <= side <= _SIDE_MAX_PX for side in picture.size):
        raise DecodeFailed
    return Heic(picture, _read_header(picture))


def decode(heic: Heic) -> Any:
    """
    Return the pixels: uchar, or ushort where the file has more than 8 bits, with the header's fields.

    Raises NotAnImage, DecodeFailed. A damaged picture fails as a whole, also with `allow_truncated`.
    """
    picture, size = heic.picture, heic.picture.size
    try:
        data = picture.data
    except (SyntaxError, RuntimeError) as exc:
        raise NotAnImage from exc
    except (ValueError, EOFError, OSError) as exc:
        raise DecodeFailed from exc
    if picture.size != size:
        raise DecodeFailed
    bands, depth = _layout(picture)
    image = pyvips.Image.new_from_memory(data, *size, bands, "uchar" if depth == 8 else "ushort")
    image = _tag(_stretch(image, picture, depth), picture)
    if "a" not in picture.mode:
        return image
    return image.unpremultiply().rint().cast(image.format).copy(interpretation=image.interpretation)


def _layout(picture: Any) -> tuple[int, int]:
    """Return bands and bits of a sample. The mode says 12 of everything between 9 and 15 bits, but 10."""
    name, _, deep = picture.mode.partition(";")
    return _BANDS[name], int(picture.info["bit_depth"]) if deep else 8


def _stretch(image: Any, picture: Any, depth: int) -> Any:
    """
    Stretch samples to all of 8 or 16 bits: 1023 of 10 bits is 65535.

    libheif does it for colour in limited range, not for grey. Source: ITU-T H.273, 8.3 (VideoFullRangeFlag).
    """
    low, high, most = 0, 2**depth - 1, 255 if depth == 8 else 65535
    if image.bands < 3 and not picture.info.get("nclx_profile", {}).get("full_range_flag", 1):
        low, high = 16 << (depth - 8), 235 << (depth - 8)
    if (low, high) == (0, most):
        return image
    factor = most / (high - low)
    return image.linear(factor, -low * factor).rint().cast(image.format)


def _read_header(picture: Any) -> Any:
    bands, depth = _layout(picture)
    return _tag(pyvips.Image.black(*picture.size, bands=bands).cast("uchar" if depth == 8 else "ushort"), picture)


def _tag(image: Any, picture: Any) -> Any:
    """
    Name the colour space, and set the fields that libvips' own loaders set.

    libvips reads an EXIF block as soon as it is set. Its orientation is removed: the pixels are upright.
    """
    bands, depth = _layout(picture)
    names = ("b-w", "grey16") if bands < 3 else ("srgb", "rgb16")
    image = image.copy(interpretation=names[depth > 8])
    exif = picture.info.get("exif") or b""
    exif = exif if exif.startswith(_EXIF_HEAD) else _EXIF_HEAD + exif
    blobs = {"xmp-data": picture.info.get("xmp"), PROFILE_FIELD: picture.info.get("icc_profile")}
    if len(_EXIF_HEAD) < len(exif) <= _EXIF_MAX_BYTES:
        blobs["exif-data"] = exif
    for name, data in blobs.items():
        if data:
            image.set_type(pyvips.GValue.blob_type, name, bytes(data))
    for name in ("orientation", "exif-ifd0-Orientation"):
        if image.get_typeof(name):
            image.remove(name)
    image.set_type(pyvips.GValue.gint_type, _DEPTH_FIELD, depth)
    return image
