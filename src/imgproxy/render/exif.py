"""
Read tags of EXIF blocks and TIFF files: the bytes of a value, as they are in the file.

libvips has EXIF only as text for display: "Jane Doe (dpa) (Jane Doe (dpa), ASCII, 15 components, 15 bytes)". It cannot
be told there where the text of the file ends, and bytes that are no UTF-8 are lost. Libraries for EXIF in pure Python
give texts for display as well, or are not maintained.

The input is untrusted. Two directories are read, IFD 0 and the Exif IFD that it names, and only the tags that the
caller wants. No chain of directories is followed, so no loop can be. The number of entries and the bytes of each value
are limited. A value that is not completely in the file counts as missing.
Sources: TIFF 6.0, section 2; CIPA DC-008-2023 (Exif 3.0), 4.6.2 (types); libtiff, "BigTIFF Design".
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from imgproxy.render.text import decode_text, guess_utf_16

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ARTIST: Final = 0x013B
COPYRIGHT: Final = 0x8298
USER_COMMENT: Final = 0x9286
PHOTOGRAPHER: Final = 0xA437
_EXIF_IFD: Final = 0x8769

# Cameras write up to 60 entries.
ENTRIES_MAX: Final = 1_000

# Two bytes follow, which should be NUL.
_EXIF_HEAD: Final = b"Exif"

# Types of values: BYTE, ASCII, UNDEFINED, and the UTF-8 of Exif 3.0.
_BYTE: Final = 1
_TEXTS: Final = frozenset({2, 129})
_MAYBE_TEXTS: Final = frozenset({_BYTE, 7}) | _TEXTS
_COMMENT_NAMES: Final = frozenset({b"ASCII\0\0\0", bytes(8)})
# How a number is stored, for `struct`. Two letters are a fraction.
_NUMBERS: Final = {
    _BYTE: "B",
    3: "H",
    4: "I",
    5: "II",
    6: "b",
    7: "B",
    8: "h",
    9: "i",
    10: "ii",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}
_SIZES: Final = {kind: struct.calcsize(f"={form}") for kind, form in _NUMBERS.items()} | dict.fromkeys(_TEXTS, 1)


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its TIFF type, the byte order of the block ("<" or ">"), and its bytes as stored."""

    kind: int
    order: str
    data: bytes

    @property
    def is_text(self) -> bool:
        """Whether its type is a type of text."""
        return self.kind in _TEXTS

    @property
    def text_bytes(self) -> bytes:
        """
        Its bytes, if its type can hold text; else none. Some programs write text as BYTE or UNDEFINED.

        Text in UTF-16, which is not allowed but written, is given as UTF-8.
        """
        if self.kind not in _MAYBE_TEXTS:
            return b""
        codec = guess_utf_16(self.data)
        return self.data.decode(codec, "replace").encode() if codec else self.data

    def comment(self) -> str:
        """
        Return its text, if it is a UserComment: eight bytes name the encoding. Source: Exif 3.0, 4.6.6.5.

        Of the four encodings JIS is not read. Many programs leave the name empty.
        """
        name, text = self.data[:8], self.data[8:]
        if name == b"UNICODE\0":
            return text.decode("utf-16-le" if self.order == "<" else "utf-16-be", "replace").rstrip("\0")
        return decode_text(text.partition(b"\0")[0]) if name in _COMMENT_NAMES else ""

    def numbers(self) -> tuple[int | float, ...]:
        """Return its numbers, fractions as their quotient; nothing for a text, and if one of them is not finite."""
        form = _NUMBERS.get(self.kind)
        if form is None:
            return ()
        whole = self.data[: len(self.data) // _SIZES[self.kind] * _SIZES[self.kind]]
        found: list[int | float] = []
        for number, *divisor in struct.iter_unpack(f"{self.order}{form}", whole):
            if divisor == [0] or not math.isfinite(number):
                return ()
            found.append(_quotient(number, divisor[0]) if divisor else number)
        return tuple(found)


def _quotient(above: int, below: int) -> int | float:
    return above // below if above % below == 0 else round(above / below, 6)


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of IFD 0, which describe the picture, and of the Exif IFD, which describe how it was taken."""

    picture: Mapping[int, Value] = field(default_factory=dict)
    camera: Mapping[int, Value] = field(default_factory=dict)


def read_block(block: bytes, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    """Read an EXIF block, with or without "Exif" before it. See `read_file`."""
    start = len(_EXIF_HEAD) + 2 if block.startswith(_EXIF_HEAD) else 0
    return read_file(io.BytesIO(block[start:]), picture, camera)


def read_file(file: BinaryIO, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    """
    Read tags of a TIFF or BigTIFF. No tags if it is none.

    Args:
        file: the file, which can be read at any place.
        picture: the wanted tags of IFD 0, and how many bytes of their values are read. What is longer is cut.
        camera: the same of the Exif IFD.
    """
    layout = _layout(file)
    if layout is None:
        return Tags()
    found = layout.directory(layout.first, {**picture, _EXIF_IFD: 8})
    pointer = found.pop(_EXIF_IFD, None)
    at = pointer.numbers()[:1] if pointer is not None else ()
    if at and isinstance(at[0], int) and at[0] > 0:
        return Tags(found, layout.directory(at[0], camera))
    return Tags(found)


def _layout(file: BinaryIO) -> _Layout | None:
    """Read the header: byte order, and whether numbers have the sizes of TIFF or BigTIFF."""
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return None
    version, first = struct.unpack_from(f"{order}HI", head, 2)
    if version == 42:
        return _Layout(file, size_bytes, order, first, count="H", entry="HHI4s")
    if version == 43 and len(head) == 16:
        return _Layout(file, size_bytes, order, struct.unpack_from(f"{order}Q", head, 8)[0], count="Q", entry="HHQ8s")
    return None


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file with its size, the offset of its first directory, and the forms of its numbers, for `struct`."""

    file: BinaryIO
    size_bytes: int
    order: str
    first: int
    count: str
    entry: str

    def directory(self, at: int, wanted: Mapping[int, int]) -> dict[int, Value]:
        """Return the wanted values of the directory at this offset. Of equal tags the first one counts."""
        found: dict[int, Value] = {}
        for tag, kind, count, place in self._entries(at):
            if tag in wanted and tag not in found and kind in _SIZES:
                data = self._value(count * _SIZES[kind], place, wanted[tag])
                if data:
                    found[tag] = Value(kind, self.order, data)
        return found

    def _entries(self, at: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield tag, type, count and place of each entry, as far as the file has them."""
        counted = struct.Struct(self.order + self.count)
        entry = struct.Struct(self.order + self.entry)
        head = self._read(at, counted.size)
        if head:
            count = min(counted.unpack(head)[0], ENTRIES_MAX, (self.size_bytes - at - counted.size) // entry.size)
            yield from entry.iter_unpack(self._read(at + counted.size, count * entry.size))

    def _value(self, size_bytes: int, place: bytes, max_bytes: int) -> bytes:
        """Return a value: it is at its place if it fits there, else the place has its offset."""
        if size_bytes <= len(place):
            return place[: min(size_bytes, max_bytes)]
        at = int.from_bytes(place, "little" if self.order == "<" else "big")
        if at + size_bytes > self.size_bytes:
            return b""
        return self._read(at, min(size_bytes, max_bytes))

    def _read(self, at: int, size_bytes: int) -> bytes:
        """Return exactly these bytes, or none."""
        if size_bytes <= 0 or at + size_bytes > self.size_bytes:
            return b""
        self.file.seek(at)
        data = self.file.read(size_bytes)
        return data if len(data) == size_bytes else b""
