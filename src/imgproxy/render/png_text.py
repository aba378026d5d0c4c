"""
The text chunks of a PNG: read them as bytes, and write the one of XMP as XMP wants it.

libvips gives texts, too, but replaces what is no UTF-8, and PNG says Latin-1. The input is untrusted: the chunks before
the pixels are read, up to limits of their number and of the bytes in them, packed and unpacked.
Source: Portable Network Graphics (Third Edition), 5.3 (chunks) and 11.3.3 (text).
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKS_MAX: Final = 1_000
TEXTS_MAX_BYTES: Final = 8_000_000

_SIGNATURE_BYTES: Final = 8
_XMP_BY_LIBVIPS: Final = b"zTXtXML:com.adobe.xmp\0\0"
# No compression, no language, no translated keyword. Source: XMP Specification part 3, 1.1.5.
_XMP_HEAD: Final = b"iTXtXML:com.adobe.xmp\0\0\0\0\0"
_TEXT_CHUNKS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})


def read_texts(file: BinaryIO) -> tuple[tuple[str, bytes], ...]:
    """Return keyword and text of each text chunk before the pixels, in order. Texts beyond the limits are left out."""
    found: list[tuple[str, bytes]] = []
    left = TEXTS_MAX_BYTES
    for name, data in _chunks(file):
        keyword, text = _split(name, data, left)
        left -= len(text)
        if left <= 0:
            break
        found.append((keyword.decode("latin-1"), text))
    return tuple(found)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the text chunks before the pixels."""
    left = TEXTS_MAX_BYTES
    file.seek(_SIGNATURE_BYTES)
    for _ in range(CHUNKS_MAX):
        head = file.read(8)
        size_bytes, name = int.from_bytes(head[:4], "big"), head[4:]
        if len(name) < 4 or name in (b"IDAT", b"IEND"):
            return
        if name not in _TEXT_CHUNKS or size_bytes > left:
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


def raw_profile(texts: tuple[tuple[str, bytes], ...], *names: str) -> bytes:
    """
    Return a block of another format's metadata that ImageMagick put into a text, or nothing.

    Such a text has the keyword "Raw profile type NAME": a name, a length, then hex digits. Source: ImageMagick,
    coders/png.c, Magick_png_write_raw_profile.
    """
    wanted = {f"raw profile type {name}" for name in names}
    for keyword, text in texts:
        parts = text.split(None, 2)
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
