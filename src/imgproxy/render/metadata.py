"""
The metadata of a variant. It is set just before encoding.

The policy is one of

    none     nothing
    credit   creator, credit line, copyright, licence URLs, digital source type (see `credit`)
    all      the source's EXIF, XMP and IPTC, without private fields

Private fields are always removed: GPS positions, serial numbers and owner names of devices, maker notes (they hold
both), thumbnails (they show what was cropped away), and the orientation (the pixels are upright already).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.plan import Metadata
from imgproxy.render import credit
from imgproxy.render.markup import MarkupError, parse, write
from imgproxy.render.tagging import PROFILE_FIELD

if TYPE_CHECKING:
    from imgproxy.render.markup import Element
    from imgproxy.render.source import Source

# Bits of VipsForeignKeep.
KEEP_EXIF: Final = 1
KEEP_XMP: Final = 2
KEEP_IPTC: Final = 4
KEEP_ICC: Final = 8

_XMP: Final = "xmp-data"
_IPTC: Final = "iptc-data"
_EXIF: Final = "exif-data"

# libvips names EXIF fields exif-ifd<n>-<tag>: 0 is the picture, 1 its thumbnail, 2 the camera, 3 GPS.
_PRIVATE_PREFIXES: Final = ("exif-ifd1-", "exif-ifd3-", "jpeg-thumbnail-data", "heif-thumbnail")
_PRIVATE_WORDS: Final = (
    "gps",
    "serial",
    "owner",
    "makernote",
    "thumbnail",
    "imageuniqueid",
    "orientation",
    "xpauthor",
    "hostcomputer",
    "documentancestors",
    "history",
)


def _read_credit(source: Source) -> credit.Credit:
    """Return the credit in the original."""
    return credit.read(
        _blob(source.header, _XMP),
        _blob(source.header, _IPTC),
        exif_text(source.header, "exif-ifd0-Artist"),
        exif_text(source.header, "exif-ifd0-Copyright"),
    )


def apply(image: Any, source: Source, policy: Metadata, profile: bytes | None) -> tuple[Any, int]:
    """
    Set the metadata that the policy allows, and remove all other.

    Returns the picture, and the bits of VipsForeignKeep for the encoder.
    """
    found = _read_credit(source) if policy is Metadata.CREDIT else credit.Credit()
    is_bare = policy is not Metadata.ALL and not (found or profile)
    if is_bare and not image.get_typeof("orientation"):
        return image, 0  # with these bits the encoder writes no metadata, so there is nothing to remove
    image = image.copy()
    fields = [name for name in image.get_fields() if is_metadata(name)]
    kept_fields = _exif_fields(source.header) if policy is Metadata.ALL else frozenset[str]()
    for name in fields:
        if name not in kept_fields:
            image.remove(name)
    keep = 0
    if profile is not None:
        _set_blob(image, PROFILE_FIELD, profile)
        keep |= KEEP_ICC
    if policy is Metadata.CREDIT:
        keep |= _apply_credit(image, found)
    elif policy is Metadata.ALL:
        keep |= _apply_all(image, source, kept_fields)
    return image, keep


def is_metadata(field: str) -> bool:
    """Whether a header field is metadata, and not a fact that libvips needs."""
    return field.startswith(("exif-", "xmp-", "iptc-", "icc-", "photoshop-", "png-comment", "gif-comment")) or (
        field in ("orientation", "jpeg-thumbnail-data", "image-description", "gainmap-data")
    )


def exif_text(header: Any, field: str) -> str:
    """Return an EXIF field without the type that libvips adds: "Doe (Doe, ASCII, 4 components, 4 bytes)"."""
    if not header.get_typeof(field):
        return ""
    text = str(header.get(field))
    return text.rpartition(" (")[0] if text.endswith(")") else text


def is_private(name: str) -> bool:
    """Whether a field or property is private: it is removed under every policy."""
    lowered = name.lower()
    return name.startswith(_PRIVATE_PREFIXES) or any(word in lowered for word in _PRIVATE_WORDS)


def _apply_credit(image: Any, found: credit.Credit) -> int:
    if not found:
        return 0
    _set_blob(image, _XMP, credit.as_xmp(found))
    iptc = credit.as_iptc(found)
    if iptc:
        _set_blob(image, _IPTC, iptc)
    return KEEP_XMP | KEEP_IPTC


def _apply_all(image: Any, source: Source, kept_fields: frozenset[str]) -> int:
    keep = KEEP_EXIF if kept_fields else 0
    xmp = _blob(source.header, _XMP)
    if xmp and (filtered := filter_xmp(xmp)):
        _set_blob(image, _XMP, filtered)
        keep |= KEEP_XMP
    iptc = _blob(source.header, _IPTC)
    iim = credit.find_iim(iptc) if iptc else b""
    if iim:
        _set_blob(image, _IPTC, credit.wrap_iim(iim))
        keep |= KEEP_IPTC
    return keep


def _exif_fields(header: Any) -> frozenset[str]:
    """Return the EXIF fields that may stay, and the whole block: libvips drops from it the fields that were removed."""
    fields = {name for name in header.get_fields() if name.startswith("exif-ifd") and not is_private(name)}
    return frozenset(fields | {_EXIF}) if fields else frozenset()


def filter_xmp(packet: bytes) -> bytes:
    """Return a packet without its private properties, or nothing if it cannot be read."""
    try:
        root = parse(packet.strip(b"\0 \t\r\n"), max_bytes=credit.XMP_MAX_BYTES)
    except MarkupError:
        return b""
    _drop_private(root)
    return write(root, credit.PREFIXES)


def _drop_private(element: Element) -> None:
    element.attributes = {name: value for name, value in element.attributes.items() if not is_private(name)}
    element.children = [child for child in element.children if isinstance(child, str) or not is_private(child.local)]
    for child in element.elements():
        _drop_private(child)


def _blob(header: Any, name: str) -> bytes | None:
    return bytes(header.get(name)) if header.get_typeof(name) else None


def _set_blob(image: Any, name: str, data: bytes) -> None:
    image.set_type(pyvips.GValue.blob_type, name, data)
