"""Files with metadata, made by hand byte for byte: EXIF blocks, TIFF pictures, IPTC, segments of a JPEG."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, UTF8 = 1, 2, 3, 4, 5, 7, 129

# Tag, type, count of values, bytes of the values in the order of the block.
Entry = tuple[int, int, int, bytes]

EXIF_IFD, GPS_IFD = 0x8769, 0x8825


def text(tag: int, data: bytes, kind: int = ASCII) -> Entry:
    """An entry with a text. The bytes are written as they are: a NUL at the end is the caller's."""
    return tag, kind, len(data), data


def directory(order: str, at: int, entries: Sequence[Entry], *, big: bool = False) -> bytes:
    """A directory at this offset, its long values behind it. No other directory follows."""
    count, entry, offset = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    room = struct.calcsize(f"={offset}")
    size = struct.calcsize(f"={count}") + len(entries) * (struct.calcsize(f"={entry}") + room) + room
    head, values = struct.pack(order + count, len(entries)), b""
    for tag, kind, number, data in sorted(entries):
        head += struct.pack(order + entry, tag, kind, number)
        if len(data) <= room:
            head += data.ljust(room, b"\0")
        else:
            head += struct.pack(order + offset, at + size + len(values))
            values += data + b"\0" * (len(data) % 2)
    return head + bytes(room) + values


def block(
    order: str, picture: Sequence[Entry], camera: Sequence[Entry] = (), gps: Sequence[Entry] = (), *, big: bool = False
) -> bytes:
    """A TIFF header with IFD 0, and an Exif IFD and a GPS IFD if they have entries."""
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else mark + struct.pack(f"{order}HI", 42, 8)
    pointers = [tag for tag, entries in ((EXIF_IFD, camera), (GPS_IFD, gps)) if entries]

    def first(places: dict[int, int]) -> bytes:
        more = [(tag, LONG, 1, struct.pack(f"{order}I", places.get(tag, 0))) for tag in pointers]
        return directory(order, len(head), [*picture, *more], big=big)

    places: dict[int, int] = {}
    behind, at = b"", len(head) + len(first({}))
    for tag, entries in ((EXIF_IFD, camera), (GPS_IFD, gps)):
        if entries:
            places[tag] = at + len(behind)
            behind += directory(order, places[tag], entries, big=big)
    return head + first(places) + behind


def tiff(order: str, entries: Sequence[Entry] = (), side: int = 16) -> bytes:
    """A TIFF picture, RGB without compression, with these tags in its only directory."""

    def number(tag: int, kind: int, *values: int) -> Entry:
        return tag, kind, len(values), struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)

    pixels = bytes((90, 140, 40)) * side * side
    own = [
        number(256, SHORT, side),
        number(257, SHORT, side),
        number(258, SHORT, 8, 8, 8),
        number(259, SHORT, 1),
        number(262, SHORT, 2),
        number(273, LONG, 0),
        number(277, SHORT, 3),
        number(278, SHORT, side),
        number(279, LONG, len(pixels)),
    ]
    size = len(block(order, [*own, *entries]))
    own[5] = number(273, LONG, size)
    return block(order, [*own, *entries]) + pixels


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """Put segments (the second byte of the marker, and the content) behind a JPEG's start."""
    made = b"".join(bytes((0xFF, mark)) + (len(data) + 2).to_bytes(2, "big") + data for mark, data in segments)
    return jpeg[:2] + made + jpeg[2:]


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """Put an EXIF block into a JPEG."""
    return with_segments(jpeg, (0xE1, b"Exif\0\0" + exif))


def iim(*records: tuple[int, int, bytes]) -> bytes:
    """IPTC-IIM: record, dataset, content."""
    return b"".join(bytes((0x1C, r, n)) + len(data).to_bytes(2, "big") + data for r, n, data in records)


def resource(number: int, data: bytes, mark: bytes = b"8BIM") -> bytes:
    """A Photoshop resource without a name."""
    return mark + number.to_bytes(2, "big") + b"\0\0" + len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
