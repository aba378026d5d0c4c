"""
The media type and size of a picture, read from its header. No pixel is decoded.

Every reader takes `read_at(offset, length) -> bytes`, which returns fewer bytes at the end of the file. Unreadable
content gives None, never an exception. Sizes are as stored, before any EXIF orientation.

Sources: ITU-T T.81 B.2 (JPEG), RFC 2083 section 4.1.1 (PNG), GIF89a section 18, RFC 9649 (WebP), ISO/IEC 14496-12
and 23008-12 (AVIF, HEIC), TIFF 6.0 section 2, SVG 2 section 8.2, BITMAPINFOHEADER
(BMP, Microsoft).
"""

from __future__ import annotations

import codecs
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]

SVG_HEAD_BYTES = 64 * 1024
ISO_META_MAX_BYTES = 4 * 1024 * 1024  # of a longer `meta` box, only so much is read; pictures need far less
JPEG_SEGMENTS_MAX = 1_000
TIFF_TAGS_MAX = 1_000
SIDE_MAX_PX = 10_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """The media type of a picture, and its size as stored."""

    mime_type: str
    width_px: int
    height_px: int


def sniff(read_at: ReadAt) -> Picture | None:
    """Return the type and size of a picture; None if its header cannot be read."""
    head = read_at(0, 32)
    try:
        for matches, read in _FORMATS:
            if matches(head):
                picture = read(read_at)
                return picture if picture is not None and _is_sane(picture) else None
        return _svg(read_at)
    except (struct.error, IndexError, ValueError, OverflowError):
        return None  # the header is cut short


def _is_sane(picture: Picture) -> bool:
    return 0 < picture.width_px <= SIDE_MAX_PX and 0 < picture.height_px <= SIDE_MAX_PX


def _png(read_at: ReadAt) -> Picture | None:
    head = read_at(0, 24)
    if head[12:16] != b"IHDR":
        return None
    width_px, height_px = struct.unpack(">II", head[16:24])
    return Picture("image/png", width_px, height_px)


def _gif(read_at: ReadAt) -> Picture:
    width_px, height_px = struct.unpack("<HH", read_at(6, 4))
    return Picture("image/gif", width_px, height_px)


def _webp(read_at: ReadAt) -> Picture | None:
    head = read_at(0, 30)
    kind = head[12:16]
    if kind == b"VP8X":
        low, high, height_px = struct.unpack("<HBH", head[24:29])  # each side has 24 bits and is stored less one
        width_px, height_px = 1 + (high << 16 | low), 1 + (head[29] << 16 | height_px)
    elif kind == b"VP8L" and head[20] == 0x2F:
        bits = struct.unpack("<I", head[21:25])[0]
        width_px, height_px = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width_px, height_px = (side & 0x3FFF for side in struct.unpack("<HH", head[26:30]))
    else:
        return None
    return Picture("image/webp", width_px, height_px)


# Start-of-frame markers: C0 to CF except DHT (C4), JPG (C8) and DAC (CC).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


def _jpeg(read_at: ReadAt) -> Picture | None:
    offset = 2
    for _ in range(JPEG_SEGMENTS_MAX):
        head = read_at(offset, 9)
        if head[0] != 0xFF:
            return None
        marker = head[1]
        if marker == 0xFF:  # a fill byte before the marker
            offset += 1
        elif marker in _STANDALONE:
            offset += 2
        elif marker in _SOF:
            height_px, width_px = struct.unpack(">HH", head[5:9])
            return Picture("image/jpeg", width_px, height_px)
        elif marker in {0xD9, 0xDA}:  # end of image or pixels, before any frame
            return None
        else:
            length = struct.unpack(">H", head[2:4])[0]
            if length < 2:
                return None
            offset += 2 + length
    return None


def _tiff(read_at: ReadAt) -> Picture | None:
    order = "<" if read_at(0, 2) == b"II" else ">"
    directory = struct.unpack(f"{order}I", read_at(4, 4))[0]
    count = struct.unpack(f"{order}H", read_at(directory, 2))[0]
    if count > TIFF_TAGS_MAX:
        return None
    tags = read_at(directory + 2, count * 12)
    sides: dict[int, int] = {}
    for position in range(0, count * 12, 12):
        tag, kind, _ = struct.unpack(f"{order}HHI", tags[position : position + 8])
        if tag in {256, 257}:  # ImageWidth, ImageLength: SHORT or LONG
            value = tags[position + 8 : position + (10 if kind == 3 else 12)]
            sides[tag] = struct.unpack(f"{order}{'H' if kind == 3 else 'I'}", value)[0]
    return Picture("image/tiff", sides[256], sides[257]) if len(sides) == 2 else None


def _bmp(read_at: ReadAt) -> Picture:
    form = "<HH" if read_at(14, 4) == b"\x0c\0\0\0" else "<ii"
    width_px, height_px = struct.unpack(form, read_at(18, struct.calcsize(form)))
    return Picture("image/bmp", width_px, abs(height_px))  # a negative height: the top row comes first


_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}


def _iso(read_at: ReadAt) -> Picture | None:
    length = struct.unpack(">I", read_at(0, 4))[0]
    types = read_at(8, min(max(length - 8, 0), 256))
    brands = {types[position : position + 4] for position in range(0, len(types), 4) if position != 4}
    if brands & _AVIF_BRANDS:
        mime_type = "image/avif"
    elif brands & _HEIF_BRANDS:
        mime_type = "image/heic"
    else:
        return None
    meta = _box(read_at, b"meta")
    # Each `ispe` has the size of one item. The largest is the picture; the others are tiles and thumbnails.
    sizes = [struct.unpack(">II", meta[match.end() + 4 : match.end() + 12]) for match in re.finditer(b"ispe", meta)]
    if not sizes:
        return None
    width_px, height_px = max(sizes, key=lambda size: size[0] * size[1])
    return Picture(mime_type, width_px, height_px)


def _box(read_at: ReadAt, wanted: bytes) -> bytes:
    offset = 0
    for _ in range(64):
        head = read_at(offset, 16)
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1:
            size = struct.unpack(">Q", head[8:16])[0]
        if kind == wanted:
            return read_at(offset, min(size, ISO_META_MAX_BYTES))
        if size < 8:
            return b""
        offset += size
    return b""


_SVG_ROOT = re.compile(r"<(?:[A-Za-z][\w.-]*:)?svg(?=[\s>/])((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>")
# From the start of a name only, and possessive: a name or a number of 60 kB took quadratic time, which is minutes.
_ATTRIBUTE = re.compile(r"(?<![\w:.-])([\w:.-]++)\s*+=\s*+(?:\"([^\"]*)\"|'([^']*)')")
_LENGTH = re.compile(r"\s*+([0-9]++(?:\.[0-9]++)?+|\.[0-9]++)\s*+(px|pt|pc|mm|cm|in|)\s*\Z")
# The absolute units in pixels: CSS Values 4, section 6.2.
_UNIT_PX = {"": 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
# Only an XML declaration, comments, a document type and white space may stand before the root element of an SVG.
_SVG_START = re.compile(r"\ufeff?\s*<(?:\?xml|!--|!DOCTYPE|(?:[A-Za-z][\w.-]*:)?svg[\s>/])")


def _svg(read_at: ReadAt) -> Picture | None:
    data = read_at(0, SVG_HEAD_BYTES)
    if data.startswith(b"\x1f\x8b\x08"):  # compressed: .svgz
        data = _unpack(data)
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_wide else "utf-8", errors="replace")
    if not _SVG_START.match(text):
        return None
    root = _SVG_ROOT.search(text)
    if root is None:
        return None
    attributes = {name: first or second for name, first, second in _ATTRIBUTE.findall(root.group(1))}
    box = [float(part) for part in re.split(r"[\s,]+", attributes.get("viewBox", "").strip()) if part]
    sides = box[2:4] if len(box) == 4 else [300.0, 150.0]  # the default size: CSS 2.2 section 10.3.2
    width = _length_px(attributes.get("width", ""), sides[0])
    height = _length_px(attributes.get("height", ""), sides[1])
    picture = Picture("image/svg+xml", max(1, round(width)), max(1, round(height)))
    return picture if _is_sane(picture) else None


def _unpack(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, SVG_HEAD_BYTES)
    except zlib.error:
        return b""


def _length_px(text: str, otherwise: float) -> float:
    match = _LENGTH.match(text)
    return float(match.group(1)) * _UNIT_PX[match.group(2)] if match else otherwise


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[ReadAt], Picture | None]], ...] = (
    (lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda head: head[:6] in {b"GIF87a", b"GIF89a"}, _gif),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _webp),
    (lambda head: head[4:8] == b"ftyp", _iso),
    (lambda head: head[:4] in {b"II*\0", b"MM\0*"}, _tiff),
    (lambda head: head[:2] == b"BM" and head[15:18] == bytes(3), _bmp),
)
