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
_HEIF_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)

# How UTF-16 begins: with its mark, or with "<" if the mark is missing. Source: XML 1.0, appendix F.1.
_UTF_16: Final = {
    (codecs.BOM_UTF16_LE, b"<\0"): "utf-16-le",
    (codecs.BOM_UTF16_BE, b"\0<"): "utf-16-be",
}

_GZIP_HEAD: Final = b"\x1f\x8b\x08"

_TIFF_HEADS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Two letters are too few to recognise a BMP. These are the sizes of its known headers.
_BMP_HEADERS: Final = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))

_SVG_ROOT: Final = re.compile(rb"<(?:[A-Za-z_][\w.-]{0,30}:)?svg[\s/>]", re.IGNORECASE)
_SVG_DOCTYPE: Final = re.compile(rb"<!DOCTYPE\s+(?:[\w.-]{1,30}:)?svg\b[^>\[]*", re.IGNORECASE)
_SUBSET_END: Final = re.compile(rb"\]\s*>")
_TAG_START: Final = re.compile(rb"<[\w.:!-]{0,40}")


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
    text = unpack(head, HEAD_BYTES)
    return SourceKind.SVG if _is_svg(text, is_cut=max(len(head), len(text)) >= HEAD_BYTES) else None


def _is_svg(text: bytes, *, is_cut: bool) -> bool:
    """Look for the root element. If the file goes on (`is_cut`), what may stand before the root is enough."""
    for marks, encoding in _UTF_16.items():
        if text.startswith(marks):
            text = text.decode(encoding, errors="replace").lstrip("\ufeff").encode()
            break
    text = text.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text.startswith(b"<"):
        return False
    rest = _skip_prolog(text)
    if _SVG_ROOT.match(rest):
        return True
    is_open = rest.startswith((b"<!--", b"<?")) or _SVG_DOCTYPE.match(rest)
    return is_cut and bool(is_open or not rest or _TAG_START.fullmatch(rest))


def _skip_prolog(text: bytes) -> bytes:
    """
    Skip what may stand before the root of a drawing: comments, instructions, a document type. One without end stays.

    A loop, in linear time: this runs on the event loop. One pattern for all had 2^30 ways to match 30 comments. With
    possessive groups it was fast, but Python before 3.11.5 does not match them as it should (CPython issue 106052).
    """
    at = 0
    while at < len(text):
        if text[at : at + 1].isspace():
            at += 1
            continue
        if text.startswith(b"<!--", at):
            end = _after(b"-->", text, at + 4)
        elif text.startswith(b"<?", at):
            end = _after(b"?>", text, at + 2)
        elif found := _SVG_DOCTYPE.match(text, at):
            end = _end_of_doctype(text, found.end())
        else:
            break
        if not end:
            break
        at = end
    return text[at:]


def _after(mark: bytes, text: bytes, at: int) -> int:
    """Return the place after the next mark; 0 if there is none."""
    found = text.find(mark, at)
    return found + len(mark) if found >= 0 else 0


def _end_of_doctype(text: bytes, at: int) -> int:
    """Return where a document type ends, from its `>` or `[` on; 0 if it has no end."""
    if text[at : at + 1] != b"[":
        return at + 1 if at < len(text) else 0
    found = _SUBSET_END.search(text, at)
    return found.end() if found else 0


def _sniff_heif(head: bytes) -> SourceKind | None:
    """Tell AVIF from HEIC: both are HEIF. An AVIF may have the major brand mif1, and avif as a compatible brand."""
    size_bytes = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size_bytes - 3, 4))}
    if brands & _AVIF_BRANDS:
        return SourceKind.AVIF
    return SourceKind.HEIC if brands & _HEIF_BRANDS else None
