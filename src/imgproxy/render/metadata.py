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
from imgproxy.render import credit, exif, xmp
from imgproxy.render.tagging import PROFILE_FIELD
from imgproxy.render.text_blocks import EXIF_FIELD, IPTC_FIELD, XMP_FIELD, Blocks, read_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.render.directories import Value
    from imgproxy.render.source import Source

# Bits of VipsForeignKeep.
KEEP_EXIF: Final = 1
KEEP_XMP: Final = 2
KEEP_IPTC: Final = 4
KEEP_ICC: Final = 8

# The tags that hold a credit, and how many bytes of them are read: EXIF's own, and one of Exif 3.0.
_CREDIT_TAGS: Final = {exif.ARTIST: 8_000, exif.COPYRIGHT: 16_000}
_CREDIT_TAGS_OF_CAMERA: Final = {exif.PHOTOGRAPHER: 8_000}

# What a segment of a JPEG holds of XMP. libvips drops a longer packet; then the credit alone is kept.
_SEGMENT_BYTES: Final = 65_500

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
    "elevation",
    "waterdepth",
    "pressure",
    # Blocks of their own inside of EXIF, with positions and previews. They are read and written by themselves.
    "xmlpacket",
    "iptc/naa",
    "imageresources",
    "padding",
)


def _read_credit(blocks: Blocks) -> credit.Credit:
    """Return the credit in the original."""
    if blocks == Blocks():
        return credit.Credit()
    artist, notice = (_text_bytes(blocks.exif.picture, tag) for tag in (exif.ARTIST, exif.COPYRIGHT))
    return credit.merge(
        credit.read_xmp(blocks.xmp),
        credit.read_iptc(blocks.iptc),
        credit.read_exif(artist, notice),
        credit.read_exif(_text_bytes(blocks.exif.camera, exif.PHOTOGRAPHER), b""),  # an Artist may be blank
        credit.read_png(blocks.texts),
    )


def _text_bytes(tags: Mapping[int, Value], tag: int) -> bytes:
    return tags[tag].text_bytes if tag in tags else b""


def apply(image: Any, source: Source, policy: Metadata, profile: bytes | None) -> tuple[Any, int]:
    """
    Set the metadata that the policy allows, and remove all other.

    Returns the picture, and the bits of VipsForeignKeep for the encoder.
    """
    blocks = Blocks() if policy is Metadata.NONE else read_blocks(source, _CREDIT_TAGS, _CREDIT_TAGS_OF_CAMERA)
    found = _read_credit(blocks)
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
        keep |= _apply_all(image, blocks, kept_fields, found)
    return image, keep


def is_metadata(field: str) -> bool:
    """Whether a header field is metadata, and not a fact that libvips needs."""
    return field.startswith(("exif-", "xmp-", "iptc-", "icc-", "photoshop-", "png-comment", "gif-comment")) or (
        field in ("orientation", "jpeg-thumbnail-data", "image-description", "gainmap-data")
    )


def _is_private(name: str) -> bool:
    """Whether an EXIF field, by libvips' name, is private: it is removed under every policy."""
    lowered = name.lower()
    return name.startswith(_PRIVATE_PREFIXES) or any(word in lowered for word in _PRIVATE_WORDS)


def _apply_credit(image: Any, found: credit.Credit) -> int:
    if not found:
        return 0
    _set_blob(image, XMP_FIELD, credit.as_xmp(found))
    iptc = credit.as_iptc(found)
    if iptc:
        _set_blob(image, IPTC_FIELD, iptc)
    return KEEP_XMP | KEEP_IPTC


def _apply_all(image: Any, blocks: Blocks, kept_fields: frozenset[str], found: credit.Credit) -> int:
    """Set the source's XMP, with what only other blocks say of the credit, and its IPTC."""
    keep = KEEP_EXIF if kept_fields else 0
    missing = found.beyond(credit.read_xmp(blocks.xmp))
    packet = xmp.rewrite(blocks.xmp, credit.as_xmp(missing) if missing else b"", credit.PREFIXES)
    if len(packet) > _SEGMENT_BYTES:
        packet = credit.as_xmp(found) if found else b""
    if packet:
        _set_blob(image, XMP_FIELD, packet)
        keep |= KEEP_XMP
    iim = credit.drop_private(credit.find_iim(blocks.iptc))
    if iim:
        _set_blob(image, IPTC_FIELD, credit.wrap_iim(iim))
        keep |= KEEP_IPTC
    return keep


def _exif_fields(header: Any) -> frozenset[str]:
    """Return the EXIF fields that may stay, and the whole block: libvips drops from it the fields that were removed."""
    fields = {
        name
        for name in header.get_fields()
        if name.startswith("exif-ifd") and not _is_private(name) and not xmp.has_position(header.get(name))
    }
    return frozenset(fields | {EXIF_FIELD}) if fields else frozenset()


def _set_blob(image: Any, name: str, data: bytes) -> None:
    image.set_type(pyvips.GValue.blob_type, name, data)
