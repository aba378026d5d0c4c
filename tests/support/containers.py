"""Files whose containers say what no library writes: chunks of PNG, boxes of AVIF, directories of TIFF, by hand."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips

if TYPE_CHECKING:
    from numpy.typing import NDArray


# --- PNG ----------------------------------------------------------------------------------------------------------


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks into a PNG, directly behind IHDR."""
    at = 8 + 25
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return png[:at] + made + png[at:]


def cicp(primaries: int, transfer: int, *, matrix: int = 0, full_range: int = 1) -> tuple[bytes, bytes]:
    """A `cICP` chunk."""
    return b"cICP", bytes([primaries, transfer, matrix, full_range])


def gama(value: float) -> tuple[bytes, bytes]:
    """A `gAMA` chunk."""
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def chrm(*values: float) -> tuple[bytes, bytes]:
    """A `cHRM` chunk: white, red, green, blue, each x and y."""
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


# --- AVIF ---------------------------------------------------------------------------------------------------------


def avif(pixels: NDArray[Any], **options: Any) -> bytes:
    """A lossless AVIF of one item. uint16 pixels are stored with 10 bits."""
    is_deep = pixels.dtype == np.uint16
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16" if is_deep else "srgb")
    settings = {"compression": "av1", "lossless": True, "keep": "none", "bitdepth": 10 if is_deep else 8, **options}
    return bytes(image.heifsave_buffer(**settings))


def with_nclx(avif_file: bytes, primaries: int, transfer: int, *, is_full: bool | None = None) -> bytes:
    """Change the code points in an AVIF's nclx box. The matrix stays: it belongs to the coded pixels."""
    at = avif_file.index(b"nclx")
    found = bytearray(avif_file)
    struct.pack_into(">HH", found, at + 4, primaries, transfer)
    if is_full is not None:
        found[at + 10] = 0x80 if is_full else 0
    return bytes(found)


def box(kind: bytes, *parts: bytes) -> bytes:
    """An ISO box."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def find_boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The boxes in some bytes: type and content."""
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + size]))
        at += size
    return found


def avif_of_items(items: list[NDArray[np.uint8]], primary: int) -> bytes:
    """An AVIF with several pictures, of any sizes. `primary` counts from 0."""
    properties: list[bytes] = []
    payloads: list[bytes] = []
    for pixels in items:
        boxes = dict(find_boxes(avif(pixels)))
        payloads.append(boxes[b"mdat"])
        of_item = dict(find_boxes(dict(find_boxes(dict(find_boxes(boxes[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
        properties += [box(kind, of_item[kind]) for kind in (b"ispe", b"av1C", b"colr", b"pixi")]
    count = len(items)
    hdlr = box(b"hdlr", bytes(8), b"pict", bytes(13))
    pitm = box(b"pitm", bytes(4), struct.pack(">H", primary + 1))
    infos = [box(b"infe", b"\2\0\0\0", struct.pack(">HH", n + 1, 0), b"av01\0") for n in range(count)]
    iinf = box(b"iinf", bytes(4), struct.pack(">H", count), *infos)
    marks = [
        struct.pack(">HB", n + 1, 4) + bytes(4 * n + p | (0x80 if p == 2 else 0) for p in (1, 2, 3, 4))
        for n in range(count)
    ]
    iprp = box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), struct.pack(">I", count), *marks))
    ftyp = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")

    def iloc(start: int) -> bytes:
        places, at = b"", start
        for n, payload in enumerate(payloads):
            places += struct.pack(">HHHII", n + 1, 0, 1, at, len(payload))
            at += len(payload)
        return box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", count), places)

    def meta(start: int) -> bytes:
        return box(b"meta", bytes(4), hdlr, pitm, iloc(start), iinf, iprp)

    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + box(b"mdat", *payloads)


# --- TIFF ---------------------------------------------------------------------------------------------------------


def tiff(*pages: dict[int, Any], data: bytes) -> bytes:
    """
    A little-endian TIFF. `data` begins at offset 8; the directories follow it.

    A page maps tags to a number (stored as LONG) or a list of numbers (SHORT).
    """
    body, tail = data + bytes(len(data) % 2), b""
    for number, page in enumerate(pages):
        start = 8 + len(body) + len(tail)
        end = start + 2 + 12 * len(page) + 4
        entries, outside = b"", b""
        for tag, value in sorted(page.items()):
            form = "I" if isinstance(value, int) else f"{len(value)}H"
            packed = struct.pack(f"<{form}", *([value] if isinstance(value, int) else value))
            entries += struct.pack(
                "<HHI", tag, 4 if isinstance(value, int) else 3, 1 if isinstance(value, int) else len(value)
            )
            if len(packed) > 4:
                entries += struct.pack("<I", end + len(outside))
                outside += packed + bytes(len(packed) % 2)
            else:
                entries += packed.ljust(4, b"\0")
        following = end + len(outside) if number + 1 < len(pages) else 0
        tail += struct.pack("<H", len(page)) + entries + struct.pack("<I", following) + outside
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + tail


def tiff_page(pixels: NDArray[Any], photometric: int, *, at: int = 8, **extra: Any) -> dict[int, Any]:
    """The directory of an uncompressed page of H x W x bands. `extra` is t530=[1, 1] and so on."""
    height, width, bands = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    return {
        256: width,
        257: height,
        258: [pixels.dtype.itemsize * 8] * bands,
        259: [1],
        262: [photometric],
        273: at,
        277: [bands],
        278: height,
        279: pixels.nbytes,
        339: [kind] * bands,
        **{int(name[1:]): value for name, value in extra.items()},
    }
