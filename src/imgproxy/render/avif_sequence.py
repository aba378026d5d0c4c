"""
Reads animated AVIF ("image sequences"), of which libvips reads only the still picture.

Pillow decodes the frames, by libavif. Their times are read here from the file's boxes: Pillow knows them only after it
has decoded each frame. Source: ISO/IEC 14496-12 (mdhd, stts, elst), AVIF specification 1.1, section 4.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.errors import DecodeFailed
from imgproxy.render.boxes import contents, find
from imgproxy.render.sizes import Size
from imgproxy.render.tagging import PROFILE_FIELD

if TYPE_CHECKING:
    from PIL.AvifImagePlugin import AvifImageFile

# The major brand of files whose sequence is to be shown, not their still picture.
_BRAND: Final = b"avis"

_FRAMES_MAX: Final = 10_000

# What Pillow raises for a damaged file. OSError is none of ours here: the file is in memory.
_DAMAGED: Final = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)

_UNKNOWN_DURATION: Final = frozenset({0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})


@dataclass(frozen=True, slots=True)
class AvifSequence:
    """A FrameReader of an AVIF. `image` is the open file."""

    image: AvifImageFile
    size: Size
    delays_ms: tuple[int, ...]
    loop: int
    has_alpha: bool

    def read(self, first: int, count: int, fail_on: str) -> list[Any]:  # noqa: ARG002 - a frame is whole or an error
        """Decode frames, which are differences to the ones before; see FrameReader."""
        frames = []
        for n in range(first, first + count):
            try:
                self.image.seek(n)
                self.image.load()
                pixels = self.image.tobytes()
            except _DAMAGED as exc:
                raise DecodeFailed from exc
            bands = 4 if self.has_alpha else 3
            frame = pyvips.Image.new_from_memory(pixels, self.size.width_px, self.size.height_px, bands, "uchar")
            frame = frame.copy(interpretation="srgb")
            if (profile := self.image.info.get("icc_profile")) is not None:
                frame.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, profile)
            frames.append(frame)
        return frames


def is_sequence(head: bytes) -> bool:
    """Whether a file with these first bytes is a sequence, as libavif and browsers decide it."""
    return head[4:12] == b"ftyp" + _BRAND


def read_sequence(data: bytes) -> AvifSequence | None:
    """Return the frames of an AVIF sequence; None if there is one alone, or the file is damaged: then it is a still."""
    from PIL.AvifImagePlugin import AvifImageFile  # noqa: PLC0415 - 2 MB of memory, and hardly any file needs it

    try:
        image = AvifImageFile(io.BytesIO(data))
    except _DAMAGED:
        return None
    if not 1 < image.n_frames <= _FRAMES_MAX:
        return None
    delays_ms, loop = _read_times(data, image.n_frames)
    return AvifSequence(image, Size(*image.size), delays_ms, loop, image.mode == "RGBA")


def _read_times(data: bytes, count: int) -> tuple[tuple[int, ...], int]:
    """Return the delay of each frame (fewer if the file has fewer), and how often they play; 0 is for ever."""
    for kind, track in contents(find(data, b"moov") or b""):
        if kind == b"trak" and (find(track, b"mdia", b"hdlr") or b"")[8:12] == b"pict":
            try:
                return _delays(find(track, b"mdia") or b"", count), _plays(track)
            except (struct.error, IndexError, ZeroDivisionError):
                return (), 0
    return (), 0


def _delays(media: bytes, count: int) -> tuple[int, ...]:
    """Read mdhd (ticks a second) and stts (runs of frames with the same ticks)."""
    header = find(media, b"mdhd") or b""
    runs = find(media, b"minf", b"stbl", b"stts") or b""
    (ticks_a_second,) = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)
    delays: list[int] = []
    for at in range(8, len(runs) - 7, 8):
        run, ticks = struct.unpack_from(">II", runs, at)
        delays += [round(1000 * ticks / ticks_a_second)] * min(run, count - len(delays))
        if len(delays) == count:
            break
    return tuple(delays)


def _plays(track: bytes) -> int:
    """Read elst: if it repeats, the track plays until its duration is over. Without one, browsers play for ever."""
    edits, header = find(track, b"edts", b"elst"), find(track, b"tkhd") or b""
    if edits is None:
        return 0
    if not edits[3] & 1:
        return 1
    (once,) = struct.unpack_from(">Q" if edits[0] == 1 else ">I", edits, 8)
    is_long = header[0] == 1
    (whole,) = struct.unpack_from(">Q" if is_long else ">I", header, 28 if is_long else 20)
    return 0 if whole in _UNKNOWN_DURATION else max(1, -(-whole // once))
