"""
Windows and OS/2 bitmaps. libvips has no reader for them without ImageMagick, which is too large a risk.

All depths are read: palettes of 1, 2, 4 and 8 bits, also run-length coded; 16, 24 and 32 bits with any bit masks;
upright or top-down; with an embedded profile. JPEG and PNG inside of a BMP are for printers and are refused. libvips
does the work on whole rows; only run-length codes are read one by one. Sources: Microsoft, "Bitmap Storage",
BITMAPINFOHEADER, BITMAPV5HEADER and "Bitmap Compression"; OS/2 Presentation Manager Programming Reference (sizes of
headers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import pyvips

from imgproxy.errors import DecodeFailed, TooManyPixels
from imgproxy.render.tagging import PROFILE_FIELD

_FILE_HEADER_BYTES: Final = 14
_CORE_HEADER_BYTES: Final = 12
_V3_HEADER_BYTES: Final = 56
_V5_HEADER_BYTES: Final = 124
_OS2_HEADERS: Final = frozenset({16, 64})

_RGB, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_DEPTHS: Final = frozenset({1, 2, 4, 8, 16, 24, 32})
_SIDE_MAX_PX: Final = 65_535

# Red, green, blue, alpha, where the header does not name them.
_MASKS: Final = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0x00FF00, 0x0000FF, 0)}

_MASK_BITS_MAX: Final = 16

_EMBEDDED_PROFILE: Final = b"DEBM"  # 'MBED', little-endian


@dataclass(frozen=True, slots=True)
class _Header:
    """`palette` has three bytes a colour, blue first. `pixels_at` is where the rows begin."""

    width_px: int
    height_px: int
    is_top_down: bool
    bits: int
    compression: int
    masks: tuple[int, int, int, int]
    palette: bytes
    pixels_at: int
    profile: bytes | None


def load(path: str, limit_px: int, *, allow_truncated: bool) -> Any:
    """
    Return the pixels of a BMP: uchar, sRGB, three bands, or four if it has alpha.

    Raises TooManyPixels before anything is decoded; DecodeFailed if the file is damaged, truncated or of an unknown
    kind.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        header = _read_header(data)
    except (struct.error, IndexError) as exc:
        raise DecodeFailed from exc
    if header.width_px * header.height_px > limit_px:
        raise TooManyPixels(pixels=header.width_px * header.height_px, limit_px=limit_px)
    if header.compression in (_RLE8, _RLE4):
        indices = _expand_runs(data, header, allow_truncated=allow_truncated)
        image = _show(_from_memory(indices, header.width_px, header.height_px, "uchar"), header.palette)
    else:
        image = _read_rows(data, header, allow_truncated=allow_truncated)
    image = (image if header.is_top_down else image.flipver()).copy(interpretation="srgb")
    if header.profile is not None:
        image.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, header.profile)
    return image


def _read_header(data: bytes) -> _Header:
    """Raises struct.error if the header is cut, DecodeFailed if it is not one that is known."""
    (pixels_at,) = struct.unpack_from("<I", data, 10)
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER_BYTES)
    at = _FILE_HEADER_BYTES
    compression, colours, palette_step = _RGB, 0, 4
    if size == _CORE_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, at + 4)
        palette_step = 3
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, at + 4)
        if size > 16:
            (compression,) = struct.unpack_from("<I", data, at + 16)
            (colours,) = struct.unpack_from("<I", data, at + 32)
    if size in _OS2_HEADERS and compression > _RLE4:  # Huffman and 24-bit run lengths have these numbers
        raise DecodeFailed
    is_known = (
        bits in _DEPTHS
        and (compression != _RLE8 or bits == 8)
        and (compression != _RLE4 or bits == 4)
        and (compression not in (_BITFIELDS, _ALPHA_BITFIELDS) or bits in _MASKS)
        and compression in (_RGB, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS)
    )
    if not is_known or not 0 < width <= _SIDE_MAX_PX or not 0 < abs(height) <= _SIDE_MAX_PX:
        raise DecodeFailed
    palette_at = at + size + (4 * _count_masks(compression) if size == 40 else 0)
    if not pixels_at:  # some programs do not say: the pixels follow header and palette
        pixels_at = palette_at + (palette_step * min(colours or 1 << bits, 1 << bits) if bits <= 8 else 0)
    palette = b""
    if bits <= 8:
        count = min(colours or 1 << bits, 1 << bits, max(pixels_at - palette_at, 0) // palette_step)
        entries = data[palette_at : palette_at + count * palette_step]
        palette = b"".join(entries[n : n + 3] for n in range(0, len(entries) - 2, palette_step))
    masks = _read_masks(data, size, bits, compression)
    return _Header(
        width, abs(height), height < 0, bits, compression, masks, palette, pixels_at, _read_profile(data, size)
    )


def _count_masks(compression: int) -> int:
    return {_BITFIELDS: 3, _ALPHA_BITFIELDS: 4}.get(compression, 0)


def _read_masks(data: bytes, size: int, bits: int, compression: int) -> tuple[int, int, int, int]:
    """Return the masks of red, green, blue and alpha. They follow the header, or are part of a longer one."""
    if not _count_masks(compression):
        return _MASKS.get(bits, (0, 0, 0, 0))
    has_alpha = size >= _V3_HEADER_BYTES or compression == _ALPHA_BITFIELDS
    red, green, blue, *rest = struct.unpack_from("<4I" if has_alpha else "<3I", data, _FILE_HEADER_BYTES + 40)
    alpha = rest[0] if rest else 0
    if any(mask.bit_length() - (mask & -mask).bit_length() >= _MASK_BITS_MAX for mask in (red, green, blue, alpha)):
        raise DecodeFailed
    return red, green, blue, alpha


def _read_profile(data: bytes, size: int) -> bytes | None:
    if size < _V5_HEADER_BYTES or data[_FILE_HEADER_BYTES + 56 : _FILE_HEADER_BYTES + 60] != _EMBEDDED_PROFILE:
        return None
    at, length = struct.unpack_from("<2I", data, _FILE_HEADER_BYTES + 112)
    return data[_FILE_HEADER_BYTES + at : _FILE_HEADER_BYTES + at + length] or None


def _read_rows(data: bytes, header: _Header, *, allow_truncated: bool) -> Any:
    """Rows are padded to four bytes. Some programs leave out the padding of the last one."""
    stride = (header.width_px * header.bits + 31) // 32 * 4
    rows = data[header.pixels_at : header.pixels_at + stride * header.height_px]
    missing = stride * header.height_px - len(rows)
    padding = stride - (header.width_px * header.bits + 7) // 8
    if missing > padding and not allow_truncated:
        raise DecodeFailed
    rows += bytes(missing)
    if header.bits <= 8:
        packed = _from_memory(rows, stride, header.height_px, "uchar")
        indices = _unpack(packed, header.bits).crop(0, 0, header.width_px, header.height_px)
        return _show(indices, header.palette)
    if header.bits == 24:
        image = _from_memory(rows, stride, header.height_px, "uchar").crop(0, 0, header.width_px * 3, header.height_px)
        blue, green, red = image.bandfold(factor=3).bandsplit()
        return red.bandjoin([green, blue])
    step = header.bits // 8
    whole = _from_memory(rows, stride // step, header.height_px, "ushort" if step == 2 else "uint")
    return _by_masks(whole.crop(0, 0, header.width_px, header.height_px), header.masks)


def _from_memory(data: bytes, width: int, height: int, pixel_format: str) -> Any:
    return pyvips.Image.new_from_memory(data, width, height, 1, pixel_format)


def _unpack(packed: Any, bits: int) -> Any:
    """Return one palette index a pixel. In a byte, the highest bits are the leftmost pixel."""
    if bits == 8:
        return packed
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(8 - bits, -1, -bits)]
    return parts[0].bandjoin(parts[1:]).bandunfold()


def _show(indices: Any, palette: bytes) -> Any:
    """Look the colours up. An index without an entry is black, as in browsers."""
    entries = (palette + bytes(768))[:768]
    table = pyvips.Image.new_from_memory(entries, 256, 1, 3, "uchar")
    blue, green, red = table.bandsplit()
    return indices.maplut(red.bandjoin([green, blue]))


def _by_masks(image: Any, masks: tuple[int, int, int, int]) -> Any:
    """Take the bits of each colour and stretch them to 0-255. An alpha that is 0 everywhere is not meant as alpha."""
    bands = [_by_mask(image, mask) for mask in masks[:3]]
    if masks[3] and (alpha := _by_mask(image, masks[3])).max() > 0:
        bands.append(alpha)
    return bands[0].bandjoin(bands[1:])


def _by_mask(image: Any, mask: int) -> Any:
    if not mask:
        return (image * 0).cast("uchar")
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    return (((image >> shift) & most) * (255.0 / most)).rint().cast("uchar")


def _expand_runs(data: bytes, header: _Header, *, allow_truncated: bool) -> bytes:
    """
    Return one palette index a byte, bottom row first. What the runs leave out is index 0.

    Raises DecodeFailed if the data ends before the last pixel; its end mark may be missing. Runs that leave the picture
    are cut.
    """
    width, height, is_rle4 = header.width_px, header.height_px, header.compression == _RLE4
    found = bytearray(width * height)
    x = y = 0
    at = header.pixels_at
    while y < height:
        if at + 2 > len(data):
            if allow_truncated or (y == height - 1 and x >= width):
                break
            raise DecodeFailed
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            run = bytes([value >> 4, value & 15]) * (count // 2 + 1) if is_rle4 else bytes([value]) * count
            x = _put(found, run[:count], x, y, width)
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            break
        elif value == 2:
            right, up = data[at : at + 2].ljust(2, b"\0")
            x, y, at = x + right, y + up, at + 2
        else:
            used = (value + 1) // 2 if is_rle4 else value
            run = data[at : at + used]
            if is_rle4:
                run = bytes(part for byte in run for part in (byte >> 4, byte & 15))
            x = _put(found, run[:value], x, y, width)
            at += used + used % 2
    return bytes(found)


def _put(found: bytearray, run: bytes, x: int, y: int, width: int) -> int:
    """Write a run into a row, and return where it ends."""
    part = run[: max(width - x, 0)]
    found[y * width + x : y * width + x + len(part)] = part
    return x + len(run)
