"""
Finds the GIFs that libvips shows in another way than browsers, and takes them apart.

In a browser a GIF's canvas is transparent until a frame paints it, and again after a frame that is to be cleared.
libvips makes such pixels opaque (black, or the background colour) if the frame names no transparent colour. It also
takes some canvas sizes, such as 640 x 480, for a mistake if no frame fills them.
Source: GIF89a, sections 18 to 23; Chromium and Gecko do not paint the background colour.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from imgproxy.render.patchwork import PATCHES_MAX, Dispose, Patch, Patchwork, is_within
from imgproxy.render.sizes import Box, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTENSION: Final = b"\x21"
_IMAGE: Final = b"\x2c"
_TRAILER: Final = b"\x3b"
_CONTROL: Final = 0xF9

# Disposal methods; browsers take 4 to 7 and 0 as "keep".
_DISPOSALS: Final = {2: Dispose.CLEAR, 3: Dispose.RESTORE}


class _Odd(Exception):
    """The file breaks the rules: libvips decides what can be shown."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """An image of the file: the index of its transparent colour, if any, and where its colours and pixels lie."""

    box: Box
    dispose: Dispose
    delay_ms: int
    transparent: int | None
    flags: int
    start: int
    end: int


def read_gif(data: bytes, frames: int, size: Size, loop: int) -> Patchwork | None:
    """
    Return the frames of a GIF if libvips would show them in another way than browsers; else None.

    Args:
        data: the file.
        frames: how many libvips finds. If the file has another number, libvips shows it.
        size: the canvas as libvips sees it.
        loop: how often it plays.
    """
    try:
        found = list(_frames(data))
    except (_Odd, IndexError, struct.error):
        return None
    if len(found) != frames:
        return None
    canvas = Size(*struct.unpack_from("<HH", data, 6))
    if not is_within(found[0].box, canvas):  # libvips and browsers enlarge the canvas for the first frame alone
        canvas = size
    if any(frame.box.width_px > canvas.width_px or frame.box.height_px > canvas.height_px for frame in found):
        return None  # each frame is decoded as a whole: it must not need more memory than the canvas
    if canvas == size and not _leaves_free(found, canvas):
        return None
    return Patchwork(
        size=canvas,
        patches=tuple(
            Patch(item.box, item.dispose, True, item.delay_ms, partial(_as_file, data, item)) for item in found
        ),
        loader="gifload_buffer",
        loop=loop,
        has_alpha=True,
    )


def _leaves_free(frames: list[_Frame], canvas: Size) -> bool:
    """Whether pixels are free that libvips paints."""
    cleared = [frame for frame in frames[:-1] if frame.dispose is Dispose.CLEAR]
    if any(frame.transparent is not None for frame in frames):  # then libvips starts with a transparent canvas
        return any(frame.transparent is None for frame in cleared)
    first = frames[0]
    is_first_whole = first.box == Box(0, 0, canvas.width_px, canvas.height_px)
    is_taken_back = first.dispose is Dispose.RESTORE and len(frames) > 1
    return not is_first_whole or is_taken_back or bool(cleared)


def _frames(data: bytes) -> Iterator[_Frame]:
    """
    Yield the images of a GIF. Raises _Odd, IndexError or struct.error if it is damaged.

    What follows the last one is left out: many files have no trailer, or something else in its place.
    """
    at = 13 + _table_bytes(data[10])
    dispose, delay_ms, transparent = Dispose.KEEP, 0, None
    count = 0
    while data[at : at + 1] in (_IMAGE, _EXTENSION):
        if data[at : at + 1] == _EXTENSION:
            if data[at + 1] == _CONTROL:
                flags, delay, index = struct.unpack_from("<BHB", data, at + 3)
                dispose = _DISPOSALS.get(flags >> 2 & 7, Dispose.KEEP)
                delay_ms, transparent = 10 * delay, index if flags & 1 else None
            at = _skip_blocks(data, at + 2)
            continue
        count += 1
        if count > PATCHES_MAX:
            raise _Odd
        left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
        if not width or not height:
            raise _Odd
        start = at + 10
        at = _skip_blocks(data, start + _table_bytes(flags) + 1)
        yield _Frame(Box(left, top, width, height), dispose, delay_ms, transparent, flags, start, at)
        dispose, delay_ms, transparent = Dispose.KEEP, 0, None


def _table_bytes(flags: int) -> int:
    """Return the length of a colour table; its flag is bit 7, the exponent of its size bits 0 to 2."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, at: int) -> int:
    """Return where a chain of data blocks ends: each begins with its length, and a length of 0 ends the chain."""
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _as_file(data: bytes, frame: _Frame) -> bytes:
    """Return a GIF of one frame, whose canvas is the frame."""
    size = struct.pack("<HH", frame.box.width_px, frame.box.height_px)
    colours = data[13 : 13 + _table_bytes(data[10])]
    control = b""
    if frame.transparent is not None:
        control = _EXTENSION + struct.pack("<BBBHBB", _CONTROL, 4, 1, 0, frame.transparent, 0)
    image = _IMAGE + bytes(4) + size + bytes([frame.flags]) + data[frame.start : frame.end]
    return b"GIF89a" + size + bytes([data[10], 0, 0]) + colours + control + image + _TRAILER
