"""
Takes an animated PNG apart: each of its frames is a PNG stream of its own, with the chunks that all of them share.

Source: Portable Network Graphics, third edition (W3C 2025), sections 4.9 and 11.3.6: acTL, fcTL, fdAT.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from imgproxy.errors import DecodeFailed
from imgproxy.render import png_chunks
from imgproxy.render.patchwork import PATCHES_MAX, Dispose, Patch, Patchwork, is_within
from imgproxy.render.png_chunks import before_pixels
from imgproxy.render.sizes import Box, Size
from imgproxy.render.tagging import PROFILE_FIELD

if TYPE_CHECKING:
    from typing import BinaryIO

_CHECKSUM_BYTES: Final = 4

# Chunks before the pixels that every frame needs. The profile is taken from libvips' header.
_SHARED: Final = (b"PLTE", b"tRNS")

# Colour types with alpha: grey with alpha, RGB with alpha.
_ALPHA_TYPES: Final = (4, 6)


@dataclass(slots=True)
class _Frame:
    """What one fcTL chunk says, and where the frame's pixels lie in the file."""

    box: Box
    delay_ms: int
    dispose: Dispose
    is_over: bool
    spans: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """The chunks of a file, in order."""

    header: bytes = b""
    plays: int = 0
    shared: bytes = b""
    frames: list[_Frame] = field(default_factory=list)
    numbers: int = 0
    is_complete: bool = False


def is_apng(file: BinaryIO) -> bool:
    """Whether a PNG has an animation: acTL must come before the pixels."""
    return any(name == b"acTL" for name, _, _ in before_pixels(file))


def read_apng(data: bytes, header: Any, *, allow_truncated: bool = False) -> Patchwork | None:
    """
    Return the frames of an animated PNG, or None if it is to be read as a still: its chunks break the rules.

    Args:
        data: the file.
        header: libvips' header of it.
        allow_truncated: play the frames that are there.

    Raises:
        DecodeFailed: the file ends too early.
    """
    found = _Found()
    for name, start, end in png_chunks.walk(io.BytesIO(data)):
        if end + _CHECKSUM_BYTES > len(data):
            break
        if not _take(found, name, data, start, end) or len(found.frames) > PATCHES_MAX:
            return None
    if not found.is_complete and not allow_truncated:
        raise DecodeFailed
    frames = [frame for frame in found.frames if frame.spans]
    if len(frames) < 2:
        return None
    size = Size(*struct.unpack(">II", found.header[:8]))
    profile = header.get(PROFILE_FIELD) if header.get_typeof(PROFILE_FIELD) else None
    return Patchwork(
        size=size,
        patches=tuple(
            Patch(item.box, item.dispose, item.is_over, item.delay_ms, partial(_as_file, data, found, item))
            for item in frames
        ),
        loader="pngload_buffer",
        loop=found.plays,
        has_alpha=_has_alpha(found, frames, size),
        profile=bytes(profile) if profile is not None else None,
    )


def _take(found: _Found, name: bytes, data: bytes, start: int, end: int) -> bool:
    """Take a chunk. Return whether the animation still follows the rules."""
    body = data[start:end] if name not in (b"IDAT", b"fdAT") else b""
    if name == b"IHDR":
        found.header = body
        return len(body) == 13
    if name == b"acTL":
        found.plays = int.from_bytes(body[4:8], "big")
    elif name in _SHARED and not any(frame.spans for frame in found.frames):
        found.shared += png_chunks.write(name, body)
    elif name == b"fcTL":
        return _take_control(found, body)
    elif name == b"IDAT" and found.frames:
        found.frames[-1].spans.append((start, end))
        return len(found.frames) == 1
    elif name == b"fdAT":
        return _take_data(found, data, start, end)
    elif name == b"IEND":
        found.is_complete = True
    return True


def _take_control(found: _Found, body: bytes) -> bool:
    if len(body) != 26 or not found.header:
        return False
    number, width, height, left, top, above, below, dispose, blend = struct.unpack(">IIIIIHHBB", body)
    box = Box(left, top, width, height)
    size = Size(*struct.unpack(">II", found.header[:8]))
    if number != found.numbers or dispose > 2 or blend > 1 or not width or not height or not is_within(box, size):
        return False
    found.numbers += 1
    delay_ms = round(1000 * above / (below or 100))
    found.frames.append(_Frame(box, delay_ms, Dispose(dispose), bool(blend)))
    return True


def _take_data(found: _Found, data: bytes, start: int, end: int) -> bool:
    """Take a part of a frame: a sequence number, then what an IDAT would have."""
    number = int.from_bytes(data[start : start + 4], "big")
    if not found.frames or end - start < 4 or number != found.numbers:
        return False
    found.numbers += 1
    found.frames[-1].spans.append((start + 4, end))
    return True


def _has_alpha(found: _Found, frames: list[_Frame], size: Size) -> bool:
    """Whether pixels may be transparent: by the colour type, or because frames leave the canvas free."""
    is_free = frames[0].box.size != size or any(frame.dispose is Dispose.CLEAR for frame in frames[:-1])
    # On the first frame, what was there before is the empty canvas.
    is_free = is_free or frames[0].dispose is Dispose.RESTORE
    return is_free or found.header[9] in _ALPHA_TYPES or b"tRNS" in found.shared


def _as_file(data: bytes, found: _Found, frame: _Frame) -> bytes:
    """Return a PNG of one frame."""
    size = struct.pack(">II", frame.box.width_px, frame.box.height_px)
    pixels = b"".join(data[start:end] for start, end in frame.spans)
    parts = (
        png_chunks.write(b"IHDR", size + found.header[8:]),
        found.shared,
        png_chunks.write(b"IDAT", pixels),
        png_chunks.write(b"IEND", b""),
    )
    return png_chunks.SIGNATURE + b"".join(parts)
