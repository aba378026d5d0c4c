"""
Reads what the header of an AVIF or HEIC says about the colours of its primary item. libvips does not tell.

The `meta` box is read, and without a colour box the head of the bitstream. Sources: ISO/IEC 14496-12, 8.11 (meta, pitm,
iloc, iref, iprp) and 12.1.5 (colr); ISO/IEC 23008-12, 6.5 (properties); AV1 codec ISO media binding, 2.3.3 (av1C).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from imgproxy.render.av1_header import read_colour_config
from imgproxy.render.boxes import VERSION_BYTES, contents, read_head
from imgproxy.render.characteristics import Characteristics, from_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.render.av1_header import ColourConfig

# The meta box comes first or second. Profiles, EXIF and pixels lie outside of it, or are not read.
_BOXES_MAX: Final = 20
_META_MAX_BYTES: Final = 1_000_000

# A sequence header has about 10 bytes. It is the first or second unit of a bitstream.
_HEADER_BYTES: Final = 200

_PROFILES: Final = frozenset({b"prof", b"rICC"})
_MONOCHROME: Final = 0x10  # in the third byte of av1C


@dataclass(frozen=True, slots=True)
class _Properties:
    """The properties of the file, and which of them (from 1) each item has."""

    boxes: list[tuple[bytes, bytes]]
    by_item: dict[int, list[int]]

    def of(self, item: int) -> Iterator[tuple[bytes, bytes]]:
        return (self.boxes[n - 1] for n in self.by_item.get(item, []) if 0 < n <= len(self.boxes))


def read_heif(file: BinaryIO) -> Characteristics | None:
    """
    Return the characteristics of the primary item, or None if it has an ICC profile, or says nothing that can be read.

    They are `is_limited` for a monochrome picture in video range: libheif 1.x takes it for full range. Colour pictures
    are in full range after libheif.
    """
    try:
        meta = _find_meta(file)
        return None if meta is None else _read_meta(file, dict(reversed(list(contents(meta)))))
    except (struct.error, IndexError):
        return None


def _find_meta(file: BinaryIO) -> bytes | None:
    at = 0
    for _ in range(_BOXES_MAX):
        file.seek(at)
        head = file.read(16)
        kind, head_bytes, size = read_head(head)
        if kind == b"meta":
            file.seek(at + head_bytes + VERSION_BYTES)
            content_bytes = size - head_bytes - VERSION_BYTES if size else _META_MAX_BYTES
            return file.read(min(max(content_bytes, 0), _META_MAX_BYTES))
        if size < head_bytes:
            return None
        at += size
    return None


def _read_meta(file: BinaryIO, meta: dict[bytes, bytes]) -> Characteristics | None:
    primary = _read_id(meta[b"pitm"]) if b"pitm" in meta else 0
    properties = _read_properties(meta.get(b"iprp", b""))
    # A grid of tiles names its colours itself, or leaves it to the tiles. Only tiles have av1C.
    tile = _find_tile(meta.get(b"iref", b""), primary)
    found = [each for item in {primary: 0, tile: 0} for each in properties.of(item)]
    colours = [data for kind, data in found if kind == b"colr"]
    has_profile = any(data[:4] in _PROFILES for data in colours)
    nclx = next((data for data in colours if data[:4] == b"nclx"), None)
    if nclx is not None:
        is_grey = next((bool(data[2] & _MONOCHROME) for kind, data in found if kind == b"av1C"), False)
        primaries, transfer, _, flags = struct.unpack_from(">3HB", nclx, 4)
        is_limited = is_grey and not flags & 0x80
    else:
        coded = _read_bitstream(file, meta, tile) if any(kind == b"av1C" for kind, _ in found) else None
        if coded is None:
            return None
        primaries, transfer, is_limited = coded.primaries, coded.transfer, coded.is_grey and not coded.is_full_range
    # A profile is stronger than code points (MIAF, 7.3.6.4), but says nothing about the range.
    known = None if has_profile else from_codes(primaries, transfer, is_limited=is_limited)
    known = known or Characteristics(is_limited=is_limited)
    return None if known == Characteristics() else known


def _read_bitstream(file: BinaryIO, meta: dict[bytes, bytes], item: int) -> ColourConfig | None:
    """Return the colours that the first bytes of an item's bitstream describe."""
    place = _find_item(meta.get(b"iloc", b""), item)
    if place is None:
        return None
    file.seek(place)
    return read_colour_config(file.read(_HEADER_BYTES))


def _find_item(iloc: bytes, item: int) -> int | None:
    """Return the offset in the file of an item's first bytes, or None if they lie elsewhere (8.11.3)."""
    version = iloc[0]
    offset_bytes, length_bytes = iloc[4] >> 4, iloc[4] & 15
    base_bytes, index_bytes = iloc[5] >> 4, iloc[5] & 15 if version else 0
    id_bytes = 4 if version == 2 else 2
    at = 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(iloc):
            raise IndexError
        at += size
        return int.from_bytes(iloc[at - size : at], "big")

    for _ in range(number(id_bytes)):
        found, method = number(id_bytes), number(2) & 15 if version else 0
        number(2)
        base, extents = number(base_bytes), number(2)
        start = at
        if found == item:
            number(index_bytes)
            return base + number(offset_bytes) if method == 0 and extents else None
        at = start + extents * (index_bytes + offset_bytes + length_bytes)
    return None


def _read_id(pitm: bytes) -> int:
    return int(struct.unpack_from(">H" if pitm[0] == 0 else ">I", pitm, 4)[0])


def _find_tile(iref: bytes, item: int) -> int:
    """Return the first item that `item` is made of, or the item itself."""
    form = ">2H" if iref[:1] == b"\0" else ">2I"
    for kind, data in contents(iref[VERSION_BYTES:]):
        if kind != b"dimg":
            continue
        size = struct.calcsize(form) // 2
        (made,) = struct.unpack_from(form[0] + form[2], data)
        (count,) = struct.unpack_from(">H", data, size)
        if made == item and count:
            return int(struct.unpack_from(form[0] + form[2], data, size + 2)[0])
    return item


def _read_properties(iprp: bytes) -> _Properties:
    boxes: list[tuple[bytes, bytes]] = []
    by_item: dict[int, list[int]] = {}
    for kind, data in contents(iprp):
        if kind == b"ipco":
            boxes = list(contents(data))
        elif kind == b"ipma":
            _read_associations(data, by_item)
    return _Properties(boxes, by_item)


def _read_associations(ipma: bytes, by_item: dict[int, list[int]]) -> None:
    """Read which properties each item has. The first bit of an index says "essential", and is left out."""
    item_form = ">H" if ipma[0] == 0 else ">I"
    index_form, mask = (">H", 0x7FFF) if ipma[3] & 1 else (">B", 0x7F)
    (count,) = struct.unpack_from(">I", ipma, 4)
    at = 8
    for _ in range(min(count, len(ipma))):
        (item,) = struct.unpack_from(item_form, ipma, at)
        at += struct.calcsize(item_form)
        indices = ipma[at]
        at += 1
        step = struct.calcsize(index_form)
        by_item[item] = [struct.unpack_from(index_form, ipma, at + step * n)[0] & mask for n in range(indices)]
        at += step * indices
