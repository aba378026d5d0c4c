"""
The text chunks of a PNG: read them as bytes, and write the one of XMP as XMP wants it.

libvips gives texts, too, but replaces what is no UTF-8, and PNG says Latin-1. It does not read what is behind the
pixels, where some programs write. The input is untrusted: there are limits for the number of chunks, and for the bytes
in those that are read, packed and unpacked.
Source: Portable Network Graphics (Third Edition), 11.3.3 (text).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final

from imgproxy.render import png_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

# libpng writes pixels in chunks of 8 kB.
CHUNKS_MAX: Final = 20_000
TEXTS_MAX: Final = 1_000
TEXTS_MAX_BYTES: Final = 8_000_000

_XMP_BY_LIBVIPS: Final = b"zTXtXML:com.adobe.xmp\0\0"
# No compression, no language, no translated keyword. Source: XMP Specification part 3, 1.1.5.
_XMP_HEAD: Final = b"XML:com.adobe.xmp\0\0\0\0\0"
_EXIF_CHUNK: Final = b"eXIf"
_WANTED: Final = frozenset({b"tEXt", b"zTXt", b"iTXt", _EXIF_CHUNK})
_XMP_KEYWORD: Final = "XML:com.adobe.xmp"


@dataclass(frozen=True, slots=True)
class Texts:
    """Keyword and text of each text chunk, in order, and the content of the first eXIf chunk."""

    texts: tuple[tuple[str, bytes], ...] = ()
    exif: bytes = b""

    @property
    def xmp(self) -> bytes:
        """The XMP packet, or nothing. Source: XMP Specification part 3, 1.1.5."""
        return next((text for keyword, text in self.texts if keyword == _XMP_KEYWORD), b"")


def read_texts(file: BinaryIO) -> Texts:
    """Read the chunks before and behind the pixels. Those beyond the limits are left out."""
    found: list[tuple[str, bytes]] = []
    exif, left = b"", TEXTS_MAX_BYTES
    for name, data in _wanted_chunks(file):
        if name == _EXIF_CHUNK:
            exif = exif or data
            continue
        keyword, text = _split(name, data, left)
        left -= len(text)
        if left <= 0 or len(found) == TEXTS_MAX:
            break
        found.append((keyword.decode("latin-1"), text))
    return Texts(tuple(found), exif)


def _wanted_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the chunks that are wanted, before and behind the pixels. No checksum is checked."""
    left = TEXTS_MAX_BYTES
    for name, start, end in islice(png_chunks.walk(file), CHUNKS_MAX):
        if name in _WANTED and end - start <= left:
            left -= end - start
            file.seek(start)
            data = file.read(end - start)
            if len(data) == end - start:
                yield name, data


def _split(name: bytes, data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    """Return the keyword and the text of a chunk."""
    keyword, _, rest = data.partition(b"\0")
    if name == b"tEXt":
        return keyword, rest[:max_bytes]
    if name == b"zTXt":
        return keyword, _inflate(rest[1:], max_bytes)
    is_packed, rest = rest[:1] == b"\1", rest[2:]
    _language, _, rest = rest.partition(b"\0")
    _translated, _, rest = rest.partition(b"\0")
    return keyword, _inflate(rest, max_bytes) if is_packed else rest[:max_bytes]


def _inflate(data: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, max_bytes)
    except zlib.error:
        return b""


def raw_profile(found: Texts, *names: str) -> bytes:
    """
    Return a block of another format's metadata that ImageMagick put into a text, or nothing.

    Such a text has the keyword "Raw profile type NAME": lines with a name, a length, then hex digits. ExifTool's name
    has two words. Source: ImageMagick, coders/png.c, Magick_png_write_raw_profile.
    """
    wanted = {f"raw profile type {name}" for name in names}
    for keyword, text in found.texts:
        parts = text.lstrip().split(b"\n", 2)
        if keyword.lower() in wanted and len(parts) == 3:
            try:
                return bytes.fromhex(parts[2].decode("ascii"))
            except ValueError:
                return b""
    return b""


def plain_xmp(png: bytes) -> bytes:
    """
    Return a PNG that libvips wrote, with its XMP in an iTXt chunk.

    libvips packs it into a zTXt chunk. Many readers look only for the chunk that the XMP specification names.
    """
    at = png.find(_XMP_BY_LIBVIPS, 0, png.find(b"IDAT")) - 4
    if at < 0:
        return png
    end = at + 4 + 4 + int.from_bytes(png[at : at + 4], "big") + 4
    packet = zlib.decompress(png[at + 4 + len(_XMP_BY_LIBVIPS) : end - 4])
    return b"".join((png[:at], png_chunks.write(b"iTXt", _XMP_HEAD + packet), png[end:]))
