"""Animated files, chunk by chunk: APNG and GIF with any patches, and what a browser shows of them, by NumPy."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.images import Pixels

KEEP, CLEAR, RESTORE = 0, 1, 2


@dataclass(frozen=True)
class Part:
    """RGBA pixels at a place, what happens to them before the next part, and whether they are blended over."""

    pixels: Pixels
    left: int = 0
    top: int = 0
    dispose: int = KEEP
    is_over: bool = True
    delay_ms: int = 100


def shown(parts: Sequence[Part], width: int, height: int) -> list[Pixels]:
    """The RGBA canvas after each part (PNG third edition, section 13.10)."""
    canvas = np.zeros((height, width, 4), np.uint8)
    frames = []
    for part in parts:
        before = canvas.copy()
        rows = slice(part.top, part.top + part.pixels.shape[0])
        columns = slice(part.left, part.left + part.pixels.shape[1])
        canvas[rows, columns] = _over(canvas[rows, columns], part.pixels) if part.is_over else part.pixels
        frames.append(canvas.copy())
        if part.dispose == CLEAR:
            canvas[rows, columns] = 0
        elif part.dispose == RESTORE:
            canvas = before
    return frames


def _over(below: Pixels, above: Pixels) -> Pixels:
    """Porter and Duff's "over" on colours that are not premultiplied."""
    a, b = above[..., 3:].astype(float) / 255, below[..., 3:].astype(float) / 255
    alpha = a + b * (1 - a)
    colours = (above[..., :3] * a + below[..., :3] * b * (1 - a)) / np.where(alpha == 0, 1, alpha)
    found: Pixels = np.dstack([colours, alpha * 255]).round().astype(np.uint8)
    return found


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def apng(
    parts: Sequence[Part], width: int, height: int, *, plays: int = 0, poster: Pixels | None = None, extra: bytes = b""
) -> bytes:
    """An animated PNG of RGBA. `poster` is a still picture that is not part of the animation; `extra` chunks come first."""
    number = 0

    def numbered() -> bytes:
        nonlocal number
        number += 1
        return struct.pack(">I", number - 1)

    found = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)) + extra
    found += chunk(b"acTL", struct.pack(">II", len(parts), plays))
    if poster is not None:
        found += chunk(b"IDAT", _rows(poster))
    for n, part in enumerate(parts):
        down, across = part.pixels.shape[:2]
        control = struct.pack(
            ">IIIIHHBB", across, down, part.left, part.top, part.delay_ms, 1000, part.dispose, part.is_over
        )
        found += chunk(b"fcTL", numbered() + control)
        rows = _rows(part.pixels)
        if n == 0 and poster is None:
            found += chunk(b"IDAT", rows)
        else:  # in two chunks, as encoders may
            found += chunk(b"fdAT", numbered() + rows[:9]) + chunk(b"fdAT", numbered() + rows[9:])
    return found + chunk(b"IEND", b"")


def _rows(pixels: Pixels) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


# The colours of the GIFs: two bits an index.
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))


@dataclass(frozen=True)
class Tile:
    """A flat rectangle of a GIF: a colour's index, whether index 0 is transparent, what happens to it afterwards."""

    left: int
    top: int
    width: int
    height: int
    colour: int
    is_keyed: bool = False
    dispose: int = KEEP


def gif(tiles: Sequence[Tile], width: int, height: int, *, background: int = 3) -> bytes:
    """A GIF of flat rectangles, 100 ms each. A tile with a key has a transparent right half."""
    found = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x81, background, 0) + bytes(sum(PALETTE, ()))
    for tile in tiles:
        flags = {KEEP: 1, CLEAR: 2, RESTORE: 3}[tile.dispose] << 2 | tile.is_keyed
        found += b"\x21\xf9\x04" + struct.pack("<BHBB", flags, 10, 0, 0)
        found += b"\x2c" + struct.pack("<HHHHB", tile.left, tile.top, tile.width, tile.height, 0)
        found += b"\x02" + _blocks(_codes(_indices(tile))) + b"\0"
    return found + b"\x3b"


def _indices(tile: Tile) -> Pixels:
    found = np.full((tile.height, tile.width), tile.colour, np.uint8)
    if tile.is_keyed:
        found[:, tile.width // 2 :] = 0
    return found


def _codes(indices: Pixels) -> bytes:
    """LZW codes of three bits: a clear code (4) before each pixel keeps them short, 5 is the end."""
    bits = 0
    codes = [code for index in indices.ravel().tolist() for code in (4, index)] + [5]
    for at, code in enumerate(codes):
        bits |= code << 3 * at
    return bits.to_bytes(len(codes) * 3 // 8 + 1, "little")


def _blocks(data: bytes) -> bytes:
    return b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))


def as_parts(tiles: Sequence[Tile]) -> list[Part]:
    """The same rectangles as RGBA."""
    found = []
    for tile in tiles:
        indices = _indices(tile)
        alpha = np.where((indices == 0) & tile.is_keyed, 0, 255)
        pixels = np.dstack([np.array(PALETTE)[indices], alpha]).astype(np.uint8)
        found.append(Part(pixels, tile.left, tile.top, tile.dispose))
    return found
