"""
The text chunks of a PNG: read them as bytes, and write the one of XMP as XMP wants it.

libvips gives texts, too, but replaces what is no UTF-8, and PNG says Latin-1. It does not read what is behind the
pixels, where some programs write. The input is untrusted: there are limits for the number of chunks, and for the bytes
in those that are read, packed and unpacked.
Source: Portable Network Graphics (Third Edition), 5.3 (chunks) and 11.3.3 (text).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# libpng writes pixels in chunks of 8 kB.
CHUNKS_MAX: Final = 20_000
TEXTS_MAX: Final = 1_000
TEXTS_MAX_BYTES: Final = 8_000_000

_SIGNATURE_BYTES: Final = 8
_XMP_BY_LIBVIPS: Final = b"zTXtXML:com.adobe.xmp\0\0"
# No compression, no language, no translated keyword. Source: XMP Specification part 3, 1.1.5.
_XMP_HEAD: Final = b"iTXtXML:com.adobe.xmp\0\0\0\0\0"
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
    for name, data in _chunks(file):
        if name == _EXIF_CHUNK:
            exif = exif or data
            continue
        keyword, text = _split(name, data, left)
        left -= len(text)
        if left <= 0 or len(found) == TEXTS_MAX:
            break
        found.append((keyword.decode("latin-1"), text))
    return Texts(tuple(found), exif)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that are wanted. One without its last bytes ends the file."""
    left = TEXTS_MAX_BYTES
    file.seek(_SIGNATURE_BYTES)
    for _ in range(CHUNKS_MAX):
        head = file.read(8)
        size_bytes, name = int.from_bytes(head[:4], "big"), head[4:]
        if len(name) < 4 or name == b"IEND":
            return
        if name not in _WANTED or size_bytes > left:
            file.seek(size_bytes + 4, io.SEEK_CUR)
            continue
        left -= size_bytes
        data = file.read(size_bytes + 4)[:-4]  # the checksum is not checked: a wrong text is better than none
        if len(data) == size_bytes:
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
    body = _XMP_HEAD + zlib.decompress(png[at + 4 + len(_XMP_BY_LIBVIPS) : end - 4])
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return b"".join((png[:at], chunk, png[end:]))
