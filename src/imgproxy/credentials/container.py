"""
Whether a file has Content Credentials: a bounded look at its container, without a C2PA library.

A file has them if it has the place for a manifest store that the C2PA specification 2.4 names, appendix A. What is in
the store is not read, nor validated. Looked for are JPEG, PNG, WebP, AVIF, HEIC and TIFF. Not looked for:

- SVG and GIF. The specification has a place in them, too. But an SVG is drawn anew, and of the two no camera and no
  news agency writes one.
- A manifest that is elsewhere, and named in the XMP alone (`dcterms:provenance`). Nothing would be fetched anyway.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Literal

    ByteOrder = Literal["little", "big"]

# A look ends with "no" after so many reads. libpng writes a chunk for each 8 kB of pixels, and a manifest may follow
# them: this is a PNG of 128 MB. A hostile file of tiny segments takes some 50 ms.
READS_MAX: Final = 16_384
# And after so many bytes. Most reads are of 8 to 52 bytes. Only the directories of a TIFF are read as a whole; in an
# honest file they have a few hundred entries, 12 bytes each.
BYTES_MAX: Final = 1 << 20
# The largest part of a directory that is read at once, whatever number of entries it states.
_BLOCK_BYTES: Final = 4096

_JPEG_HEAD: Final = b"\xff\xd8\xff"
_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n"
# The UUID of a manifest store in its JUMBF description box: `c2pa`, then the ending of ISO media types.
_STORE_TYPE: Final = bytes.fromhex("63327061 0011 0010 8000 00aa00389b71")
# The UUID of the box in ISO base media files.
_BOX_TYPE: Final = bytes.fromhex("d8fec3d6 1b0e 483c 9297 5828877ec481")
_TIFF_TAG: Final = 0xCD41


class _Look:
    """A file of which a few bytes are read here and there."""

    __slots__ = ("_bytes_left", "_file", "_reads_left", "size_bytes")

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads_left = READS_MAX
        self._bytes_left = BYTES_MAX
        self.size_bytes = file.seek(0, os.SEEK_END)

    def read(self, at: int, count: int, *, least: int | None = None) -> bytes:
        """
        Return the bytes from `at` on: `count` of them, or at least `least` if the file ends there.

        Nothing is returned if there are fewer, or if the look has taken long enough.
        """
        if at >= self.size_bytes or not self._reads_left or count > self._bytes_left:
            return b""
        self._reads_left -= 1
        self._bytes_left -= count
        self._file.seek(at)
        data = self._file.read(count)
        return data if len(data) >= (count if least is None else least) else b""


def has_credentials(file: BinaryIO) -> bool:
    """
    Return whether the file holds a manifest store, where the specification has it for the format of the file.

    It costs a few reads for most files, and at most `READS_MAX` reads and `BYTES_MAX` bytes: not on the event loop. It
    never raises on any bytes. An unbuffered file is best: a buffer reads more than is asked for. The position is
    anywhere afterwards.

    Raises OSError if the file cannot be read.
    """
    look = _Look(file)
    head = look.read(0, 12)
    if head.startswith(_JPEG_HEAD):
        return _find_in_jpeg(look)
    if head.startswith(_PNG_HEAD):
        return _find_chunk(look, len(_PNG_HEAD), b"caBX", b"IEND")
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _find_in_webp(look, int.from_bytes(head[4:8], "little"))
    if head[4:8] == b"ftyp":
        return _find_box(look)
    walk = _TIFF_HEADS.get(head[:4])
    return walk(look) if walk is not None else False


# --- JPEG ---------------------------------------------------------------------------------------------------------

# Markers without a length (ITU-T T.81, table B.1): TEM, RST0 to RST7, SOI.
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_PICTURE_MARKERS: Final = frozenset({0xD9, 0xDA})  # EOI and SOS: nothing is looked for after them
_APP11: Final = 0xEB

# How a part of a JUMBF box begins in a segment (ISO/IEC 19566-5, D.2): "JP", number of the box (2), of the part (4),
# length of the box (4), its type (4), and its length again (8) if it needs 64 bits.
_PART_BYTES: Final = 16
_LONG_BYTES: Final = 8
# A description box up to its UUID: length (4), "jumd" (4), UUID (16).
_DESCRIPTION_BYTES: Final = 24


def _find_in_jpeg(look: _Look) -> bool:
    """Look through the segments before the picture for a JUMBF box of the type of a manifest store."""
    boxes: dict[bytes, bytes] = {}  # the beginning of each box, by its number: a part may be shorter than that
    at = 2
    while head := look.read(at, 4 + _PART_BYTES + _LONG_BYTES + _DESCRIPTION_BYTES, least=4):
        marker = head[1]
        if head[0] != 0xFF or marker in _PICTURE_MARKERS:
            return False
        if marker == 0xFF:  # a marker may have any number of these before it
            at += 1
            continue
        if marker in _BARE_MARKERS:
            at += 2
            continue
        size_bytes = int.from_bytes(head[2:4], "big")
        if marker == _APP11:
            number, data = _part_of_box(head[4 : 2 + size_bytes])
            boxes[number] = start = (boxes.get(number, b"") + data)[:_DESCRIPTION_BYTES]
            if start[4:8] == b"jumd" and start[8:] == _STORE_TYPE:
                return True
        at += 2 + size_bytes
        if size_bytes < 2:
            return False
    return False


def _part_of_box(segment: bytes) -> tuple[bytes, bytes]:
    """Return the number of the JUMBF box that a segment is a part of, and its bytes; nothing for other segments."""
    if segment[:2] != b"JP" or segment[12:16] != b"jumb":
        return b"", b""
    is_long = segment[8:12] == b"\0\0\0\1"
    return segment[2:4], segment[_PART_BYTES + _LONG_BYTES * is_long :]


# --- PNG, WebP ------------------------------------------------------------------------------------------------------


def _find_chunk(look: _Look, at: int, wanted: bytes, last: bytes) -> bool:
    """Look through the chunks of a PNG: length (4), type (4), data, checksum (4)."""
    while head := look.read(at, 8):
        if head[4:] in (wanted, last):
            return head[4:] == wanted
        at += 12 + int.from_bytes(head[:4], "big")
    return False


def _find_in_webp(look: _Look, size_bytes: int) -> bool:
    """Look through the chunks of a WebP: type (4), length (4), data, a byte more if the length is odd."""
    at, end = 12, 8 + size_bytes
    while at < end and (head := look.read(at, 8)):
        if head[:4] == b"C2PA":
            return True
        length = int.from_bytes(head[4:], "little")
        at += 8 + length + length % 2
    return False


# --- AVIF, HEIC -----------------------------------------------------------------------------------------------------


def _find_box(look: _Look) -> bool:
    """
    Look through the boxes at the top level: length (4), type (4), length again (8) if the first is 1, UUID (16).

    A length of 0 is "to the end of the file".
    """
    at = 0
    while head := look.read(at, 32, least=8):
        size_bytes, start = int.from_bytes(head[:4], "big"), 8
        if size_bytes == 1:
            size_bytes, start = int.from_bytes(head[8:16], "big"), 16
        if head[4:8] == b"uuid" and head[start : start + 16] == _BOX_TYPE:
            return True
        if size_bytes < start:
            return False
        at += size_bytes
    return False


# --- TIFF -----------------------------------------------------------------------------------------------------------


def _find_tag(look: _Look, order: ByteOrder, *, is_big: bool) -> bool:
    """Look through the entries of every directory in the chain. The specification has the tag in the last one."""
    word_bytes, count_bytes, entry_bytes = (8, 8, 20) if is_big else (4, 2, 12)
    at = int.from_bytes(look.read(word_bytes, word_bytes), order)
    seen = {0}
    while at not in seen:
        seen.add(at)
        count = int.from_bytes(look.read(at, count_bytes), order)
        entries_end = at + count_bytes + count * entry_bytes
        if _has_tag(look, at + count_bytes, entries_end, entry_bytes, order):
            return True
        at = int.from_bytes(look.read(entries_end, word_bytes), order)
    return False


def _has_tag(look: _Look, at: int, end: int, entry_bytes: int, order: ByteOrder) -> bool:
    """Look through the entries of a directory, some hundred at once. An entry begins with its tag (2)."""
    tag = _TIFF_TAG.to_bytes(2, order)
    most = _BLOCK_BYTES - _BLOCK_BYTES % entry_bytes
    while at < end and (block := look.read(at, min(most, end - at), least=2)):
        if any(block[start : start + 2] == tag for start in range(0, len(block), entry_bytes)):
            return True
        at += len(block)
    return False


_TIFF_HEADS: Final[dict[bytes, Callable[[_Look], bool]]] = {
    b"II*\0": lambda look: _find_tag(look, "little", is_big=False),
    b"MM\0*": lambda look: _find_tag(look, "big", is_big=False),
    b"II+\0": lambda look: _find_tag(look, "little", is_big=True),
    b"MM\0+": lambda look: _find_tag(look, "big", is_big=True),
}
