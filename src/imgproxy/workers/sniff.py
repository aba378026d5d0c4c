"""
Sniffing: the format of a file, by its first bytes alone. Names and Content-Types may be wrong.

The result chooses the one loader that may read the file. A file that is valid in two formats (a polyglot) is read in
the format that is found here, or refused.
"""

from __future__ import annotations

import codecs
import re
import zlib
from enum import StrEnum
from typing import Final

HEAD_BYTES: Final = 4096


class SourceKind(StrEnum):
    """The formats that may be loaded. The value is the media type."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    WEBP = "image/webp"
    GIF = "image/gif"
    AVIF = "image/avif"
    HEIC = "image/heic"
    TIFF = "image/tiff"
    BMP = "image/bmp"
    SVG = "image/svg+xml"


# Major and compatible brands of ISO/IEC 23008-12 (HEIF) and the AVIF specification, section 7.
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})

_GZIP_HEAD: Final = b"\x1f\x8b\x08"

_TIFF_HEADS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Two letters are too few to recognise a BMP. These are the sizes of its known headers.
_BMP_HEADERS: Final = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))

# If a comment, or a document type of SVG, is still open after so many bytes, the file is taken for a drawing.
_LONG_BYTES: Final = 1000

# Everything that may stand before the root element of an XML document, then <svg, with or without a prefix; or a
# comment or document type that does not end in these bytes. Every group is atomic or possessive: this runs on the event
# loop, and 30 comments in a row had 2^30 ways to match.
_SVG_ROOT: Final = re.compile(
    rb"\A(?:\xef\xbb\xbf)?+\s*+"
    rb"(?:(?>(?><!--.*?-->)|<!DOCTYPE[^>\[]*+(?>\[.*?\])?+\s*+>|<\?[^>]*+>)\s*+)*+"
    rb"(?:<(?:[A-Za-z_][\w.-]{0,30}+:)?+svg[\s/>]|(?:<!--|<!DOCTYPE\s++svg\b).{%d})" % _LONG_BYTES,
    re.DOTALL | re.IGNORECASE,
)


def unpack(data: bytes, max_bytes: int) -> bytes:
    """
    Return at most `max_bytes` of what a gzip file holds; other bytes as they are. For compressed SVG (.svgz).

    A damaged file gives what is before the damage, or nothing.
    """
    if not data.startswith(_GZIP_HEAD):
        return data
    try:
        return zlib.decompressobj(wbits=31).decompress(data, max_bytes)
    except zlib.error:
        return b""


def sniff(head: bytes) -> SourceKind | None:
    """Return the format of a file with these first bytes, or None if it may not be loaded."""
    if head.startswith(b"\xff\xd8\xff"):
        return SourceKind.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return SourceKind.PNG
    if head.startswith((b"GIF87a", b"GIF89a")):
        return SourceKind.GIF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return SourceKind.WEBP
    if head[4:8] == b"ftyp":
        return _sniff_heif(head)
    if head.startswith(_TIFF_HEADS):
        return SourceKind.TIFF
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADERS:
        return SourceKind.BMP
    return SourceKind.SVG if _is_svg(unpack(head, HEAD_BYTES)) else None


def _is_svg(head: bytes) -> bool:
    """Look for the root element."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", errors="replace").encode()
    return _SVG_ROOT.match(head) is not None


def _sniff_heif(head: bytes) -> SourceKind | None:
    """Tell AVIF from HEIC: both are HEIF. An AVIF may have the major brand mif1, and avif as a compatible brand."""
    size_bytes = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size_bytes - 3, 4))}
    if brands & _AVIF_BRANDS:
        return SourceKind.AVIF
    return SourceKind.HEIC if brands & _HEIF_BRANDS else None
