"""
Reads the directories (IFDs) of a TIFF or BigTIFF. An EXIF block is a small TIFF.

The input is untrusted. A caller names the tags that it wants, and the most bytes of each value. The number of entries
is limited. A value that is not completely in the file counts as missing.
Sources: TIFF 6.0, section 2; CIPA DC-008-2023 (Exif 3.0), 4.6.2 (types); libtiff, "BigTIFF Design".
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from imgproxy.render.text import guess_utf_16

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# libtiff refuses directories with more. Cameras write up to 60 entries.
ENTRIES_MAX: Final = 4_096

# Types of values: BYTE, ASCII, UNDEFINED, and the UTF-8 of Exif 3.0.
_BYTE: Final = 1
_TEXTS: Final = frozenset({2, 129})
_MAYBE_TEXTS: Final = frozenset({_BYTE, 7}) | _TEXTS
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
    """A value: its TIFF type, the byte order of the file ("<" or ">"), its bytes as stored, and where they begin."""

    kind: int
    order: str
    data: bytes
    place: int

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


def open_tiff(file: BinaryIO) -> Tiff | None:
    """Read the header of a file, which can be read at any place. None if it is no TIFF."""
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return None
    version, first = struct.unpack_from(f"{order}HI", head, 2)
    if version == 42:
        return Tiff(file, size_bytes, order, first, count="H", entry="HHI4s")
    if version == 43 and len(head) == 16:
        return Tiff(file, size_bytes, order, struct.unpack_from(f"{order}Q", head, 8)[0], count="Q", entry="HHQ8s")
    return None


@dataclass(frozen=True, slots=True)
class Tiff:
    """A file with its size, the offset of its first directory, and the forms of its numbers, for `struct`."""

    file: BinaryIO
    size_bytes: int
    order: str
    first: int
    count: str
    entry: str

    def directory(self, at: int, wanted: Mapping[int, int]) -> dict[int, Value]:
        """
        Return values of the directory at an offset. Of equal tags the first one counts.

        `wanted` has the tags, and how many bytes of their values are read. What is longer is cut.
        """
        found: dict[int, Value] = {}
        for tag, kind, count, field, place in self._entries(at):
            if tag in wanted and tag not in found and kind in _SIZES:
                value = self._value(kind, count, field, place, wanted[tag])
                if value.data:
                    found[tag] = value
        return found

    def count_entries(self, at: int) -> int:
        """Return how many entries the directory at an offset announces; 0 if it does not lie in the file."""
        return self._number(self._read(at, struct.calcsize(self.order + self.count)))

    def next_after(self, at: int) -> int:
        """Return the offset of the directory after the one at an offset; 0 if it is the last one."""
        end = self._start(at) + self.count_entries(at) * struct.calcsize(self.order + self.entry)
        return self._number(self._read(end, 4 if self.count == "H" else 8))

    def _start(self, at: int) -> int:
        """Return where the entries of a directory begin: behind their number."""
        return at + struct.calcsize(self.order + self.count)

    def _entries(self, at: int) -> Iterator[tuple[int, int, int, bytes, int]]:
        """Yield tag, type, number of values, last field and its offset of each entry, as far as the file has them."""
        entry = struct.Struct(self.order + self.entry)
        start = self._start(at)
        count = min(self.count_entries(at), ENTRIES_MAX, (self.size_bytes - start) // entry.size)
        for tag, kind, number, field in entry.iter_unpack(self._read(start, count * entry.size)):
            start += entry.size
            yield tag, kind, number, field, start - len(field)

    def _value(self, kind: int, count: int, field: bytes, place: int, max_bytes: int) -> Value:
        """Return a value: it is in the last field of its entry if it fits there, else the field has its offset."""
        size_bytes = count * _SIZES[kind]
        if size_bytes <= len(field):
            return Value(kind, self.order, field[: min(size_bytes, max_bytes)], place)
        place = self._number(field)
        is_whole = place + size_bytes <= self.size_bytes
        return Value(kind, self.order, self._read(place, min(size_bytes, max_bytes)) if is_whole else b"", place)

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def _read(self, at: int, size_bytes: int) -> bytes:
        """Return exactly these bytes, or none."""
        if size_bytes <= 0 or at + size_bytes > self.size_bytes:
            return b""
        self.file.seek(at)
        data = self.file.read(size_bytes)
        return data if len(data) == size_bytes else b""
