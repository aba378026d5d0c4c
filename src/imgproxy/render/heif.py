"""
Reads what the header of an AVIF or HEIC says about the colours of its primary item. libvips does not tell.

Only the `meta` box is read. Sources: ISO/IEC 14496-12, 8.11 (meta, pitm, iref, iprp) and 12.1.5 (colr); ISO/IEC
23008-12, 6.5 (properties); AV1 codec ISO media binding, 2.3.3 (av1C).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from imgproxy.render.characteristics import Characteristics, from_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

# The meta box comes first or second. Profiles, EXIF and pixels lie outside of it, or are not read.
_BOXES_MAX: Final = 20
_META_MAX_BYTES: Final = 1_000_000

_MONOCHROME: Final = 0x10  # in the third byte of av1C


@dataclass(frozen=True, slots=True)
class _Properties:
    """The properties of the file, and which of them (from 1) each item has."""

    boxes: list[tuple[bytes, bytes]]
    by_item: dict[int, list[int]]

    def of(self, item: int) -> Iterator[tuple[bytes, bytes]]:
        return (self.boxes[n - 1] for n in self.by_item.get(item, []) if 0 < n <= len(self.boxes))


def read_heif(file: IO[bytes]) -> Characteristics | None:
    """
    Return the characteristics of the primary item, or None if it has an ICC profile, or says nothing that can be read.

    They are `is_limited` for a monochrome picture in video range: libheif 1.x takes it for full range. Colour pictures
    are in full range after libheif.
    """
    try:
        meta = _find_meta(file)
        return None if meta is None else _read_meta(meta)
    except (struct.error, IndexError):
        return None


def _find_meta(file: IO[bytes]) -> bytes | None:
    at = 0
    for _ in range(_BOXES_MAX):
        file.seek(at)
        head = file.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        start = 8
        if size == 1:
            size, start = struct.unpack_from(">Q", head, 8)[0], 16
        if kind == b"meta":
            file.seek(at + start + 4)  # behind version and flags
            return file.read(min(max(size - start - 4, 0), _META_MAX_BYTES))
        if size < start:
            return None
        at += size
    return None


def _read_meta(meta: bytes) -> Characteristics | None:
    boxes = dict(reversed(list(_boxes(meta))))  # of two equal boxes the first one counts
    primary = _read_id(boxes[b"pitm"]) if b"pitm" in boxes else 0
    properties = _read_properties(boxes.get(b"iprp", b""))
    # A grid of tiles names its colours itself, or leaves it to the tiles. Only tiles have av1C.
    items = [primary, *_find_tile(boxes.get(b"iref", b""), primary)]
    found = [each for item in items for each in properties.of(item)]
    colours = [data for kind, data in found if kind == b"colr"]
    nclx = next((data for data in colours if data[:4] == b"nclx"), None)
    if nclx is None:
        return None
    is_grey = next((bool(data[2] & _MONOCHROME) for kind, data in found if kind == b"av1C"), False)
    primaries, transfer, _, flags = struct.unpack_from(">3HB", nclx, 4)
    is_limited = is_grey and not flags & 0x80
    if any(data[:4] in (b"prof", b"rICC") for data in colours):
        # The profile is stronger. MIAF, 7.3.6.4.
        return from_codes(1, 13, is_limited=True) if is_limited else None
    found_colours = from_codes(primaries, transfer, is_limited=is_limited) or from_codes(1, 13, is_limited=is_limited)
    return None if found_colours is None or found_colours == Characteristics() else found_colours


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box. A size of 0 means up to the end."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            size, start = struct.unpack_from(">Q", data, start)[0], at + 16
        size = size or len(data) - at
        if at + size < start:
            return
        yield kind, data[start : at + size]
        at += size


def _read_id(pitm: bytes) -> int:
    return int(struct.unpack_from(">H" if pitm[0] == 0 else ">I", pitm, 4)[0])


def _find_tile(iref: bytes, item: int) -> list[int]:
    """Return the first item that `item` is made of, if it is made of others."""
    form = ">2H" if iref[:1] == b"\0" else ">2I"
    for kind, data in _boxes(iref[4:]):
        if kind != b"dimg":
            continue
        size = struct.calcsize(form) // 2
        (made,) = struct.unpack_from(form[0] + form[2], data)
        (count,) = struct.unpack_from(">H", data, size)
        if made == item and count:
            return [struct.unpack_from(form[0] + form[2], data, size + 2)[0]]
    return []


def _read_properties(iprp: bytes) -> _Properties:
    boxes: list[tuple[bytes, bytes]] = []
    by_item: dict[int, list[int]] = {}
    for kind, data in _boxes(iprp):
        if kind == b"ipco":
            boxes = list(_boxes(data))
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
