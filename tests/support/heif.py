"""
Writes HEIF files by hand, around pictures of `hevc`: grids, several pictures, turns, alpha, metadata.

Source: ISO/IEC 14496-12 (boxes), ISO/IEC 23008-12 (items and their properties).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.support import hevc

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDENTITY, BT601, BT709, BT2020, P3 = 0, 6, 1, 9, 12

ALPHA: Final = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"
GAIN_MAP: Final = b"urn:com:apple:photo:2020:aux:hdrgainmap\0"


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the file. `refers` has (kind of reference, numbers of items from 1)."""

    kind: bytes
    data: bytes
    properties: tuple[bytes, ...] = ()
    refers: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    is_hidden: bool = False
    content_type: bytes = b""

    def having(self, *properties: bytes) -> Item:
        """The same item with more properties."""
        return replace(self, properties=(*self.properties, *properties))

    def referring(self, kind: bytes, *numbers: int) -> Item:
        """The same item with a reference."""
        return replace(self, refers=(*self.refers, (kind, numbers)))

    def hidden(self) -> Item:
        """The same item, not to be shown by itself."""
        return replace(self, is_hidden=True)


# --- properties -----------------------------------------------------------------------------------------------


def extent(width: int, height: int) -> bytes:
    """The size of an image item."""
    return full_box(b"ispe", struct.pack(">II", width, height))


def turn(quarters: int) -> bytes:
    """A rotation, counter-clockwise."""
    return box(b"irot", bytes((quarters,)))


def mirror(axis: int) -> bytes:
    """0: top and bottom change places; 1: left and right do."""
    return box(b"imir", bytes((axis,)))


def clean_aperture(width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    """A crop around the centre, moved by whole pixels."""
    pairs = [(width, 1), (height, 1), (right, 1), (down, 1)]
    return box(b"clap", b"".join(struct.pack(">iI", *pair) for pair in pairs))


def nclx(primaries: int = 1, transfer: int = 13, matrix: int = IDENTITY, *, is_full: bool = True) -> bytes:
    """The colours by numbers of ITU-T H.273."""
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0x80 if is_full else 0))


def profile(icc: bytes) -> bytes:
    """The colours by an ICC profile."""
    return box(b"colr", b"prof", icc)


def auxiliary(kind: bytes) -> bytes:
    """What an auxiliary picture is for."""
    return full_box(b"auxC", kind)


# --- items ----------------------------------------------------------------------------------------------------


def coded(planes: list[NDArray[Any]], chroma: str = "444", depth: int = 8) -> Item:
    """An HEVC picture of exactly these samples, without a colour property."""
    config, data = hevc.encode(planes, chroma, depth)
    height, width = planes[0].shape
    bits = full_box(b"pixi", bytes((len(planes),)) + bytes((depth,)) * len(planes))
    return Item(b"hvc1", data, (box(b"hvcC", config), extent(width, height), bits))


def rgb(pixels: NDArray[Any], depth: int = 8, *, primaries: int = 1, transfer: int = 13) -> Item:
    """An HEVC picture of H x W x 3 samples of RGB. It is coded as G, B, R, so nothing is rounded."""
    planes = [pixels[..., band] for band in (1, 2, 0)]
    return coded(planes, "444", depth).having(nclx(primaries, transfer))


def grey(pixels: NDArray[Any], depth: int = 8) -> Item:
    """An HEVC picture of one plane."""
    return coded([pixels], "400", depth).having(nclx(matrix=BT601))


def grid(rows: int, columns: int, width: int, height: int, tiles: tuple[int, ...]) -> Item:
    """A picture of tiles. `tiles` are the numbers of their items."""
    data = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    return Item(b"grid", data, (extent(width, height),), ((b"dimg", tiles),))


def exif(tiff: bytes, of: int) -> Item:
    """An EXIF block of an item."""
    return Item(b"Exif", struct.pack(">I", 6) + b"Exif\0\0" + tiff, (), ((b"cdsc", (of,)),), is_hidden=True)


def xmp(packet: bytes, of: int) -> Item:
    """An XMP packet of an item."""
    return Item(b"mime", packet, (), ((b"cdsc", (of,)),), is_hidden=True, content_type=b"application/rdf+xml")


# --- the file -------------------------------------------------------------------------------------------------


def write(*items: Item, primary: int = 1, brands: tuple[bytes, ...] = (b"heic", b"mif1", b"heic")) -> bytes:
    """A file of items, which are numbered from 1. Equal data is stored once. `brands`: major, then all compatible."""
    ftyp = box(b"ftyp", brands[0], bytes(4), *brands[1:])
    properties = list(dict.fromkeys(found for item in items for found in item.properties))
    size = len(ftyp) + len(_meta(items, primary, properties, 0))
    return (
        ftyp + _meta(items, primary, properties, size + 8) + box(b"mdat", *dict.fromkeys(item.data for item in items))
    )


def _meta(items: tuple[Item, ...], primary: int, properties: list[bytes], at: int) -> bytes:
    return full_box(
        b"meta",
        full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", struct.pack(">H", primary)),
        full_box(b"iinf", struct.pack(">H", len(items)), *(_entry(n, item) for n, item in enumerate(items, 1))),
        full_box(b"iref", *(_reference(n, *found) for n, item in enumerate(items, 1) for found in item.refers)),
        box(b"iprp", box(b"ipco", *properties), _associations(items, properties)),
        _locations(items, at),
    )


def _entry(number: int, item: Item) -> bytes:
    name = b"\0" + (item.content_type + b"\0" if item.content_type else b"")
    return full_box(b"infe", struct.pack(">HH", number, 0), item.kind, name, version=2, flags=int(item.is_hidden))


def _reference(number: int, kind: bytes, numbers: tuple[int, ...]) -> bytes:
    return box(kind, struct.pack(f">HH{len(numbers)}H", number, len(numbers), *numbers))


def _associations(items: tuple[Item, ...], properties: list[bytes]) -> bytes:
    """Every property is essential, as the ones that change pixels must be."""
    rows = [
        struct.pack(">HB", n, len(item.properties)) + bytes(0x80 | 1 + properties.index(p) for p in item.properties)
        for n, item in enumerate(items, 1)
    ]
    return full_box(b"ipma", struct.pack(">I", len(rows)), *rows)


def _locations(items: tuple[Item, ...], at: int) -> bytes:
    places: dict[bytes, int] = {}
    for item in items:
        if item.data not in places:
            places[item.data] = at
            at += len(item.data)
    rows = [
        struct.pack(">HHHHII", number, 0, 0, 1, places[item.data], len(item.data))
        for number, item in enumerate(items, 1)
    ]
    return full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)), *rows, version=1)


def picture(width: int = 96, height: int = 64, depth: int = 8) -> NDArray[np.uint16]:
    """A picture of which every corner differs, H x W x 3."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    bands = (x / (width - 1), y / (height - 1), (x + y) / (width + height - 2))
    found: NDArray[np.uint16] = np.rint(np.stack(bands, axis=-1) * (2**depth - 1)).astype(np.uint16)
    return found
