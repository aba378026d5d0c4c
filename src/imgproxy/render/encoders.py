"""
From pixels to bytes: the encoder settings of each format, and what `q` means in each.

imgix passes the same `q` to each encoder. But 75 gives a good JPEG, a poor WebP, and an AVIF that is larger than
needed. Here, a `q` gives the same quality in each format. The figures of settings come from `benchmarks/encoders.py`
(benchmarks/results/encoders.md), those of `q` from `benchmarks/quality.py` (benchmarks/results/quality.md).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.plan import Format
from imgproxy.render.metadata import KEEP_EXIF

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.params.plan import Output

# imgix's default; `auto=compress` and Save-Data say 45.
DEFAULT_QUALITY: Final = 75

# Formats whose header has a density. In the others it is written to EXIF; in a JPEG also to a JFIF header.
_HAS_DENSITY: Final = frozenset({Format.PNG, Format.PNG8})

# The bits that a palette may have, the fewest first.
PALETTE_BITS: Final = {Format.PNG8: (1, 2, 4, 8), Format.GIF: tuple(range(1, 9))}

_MM_PER_INCH: Final = 25.4
_WEB_DPI: Final = 72

# Reasons, for the six photos at q=75, per megapixel on one core (PNG8 and GIF have no q):
# JPEG   Progressive as the plan says: 2 % smaller for 15 ms more. Quantisation table 3 (Robidoux) is 8 % smaller for a
#        DSSIM 3 % higher, and costs no time. Its table for chroma is as fine as that for luma. So at equal SSIMULACRA2
#        it is 11 % smaller than table 0 (Annex K, which Pillow has), but at equal SSIM of luma alone 2 % larger.
#        Trellis quantisation is 10 % smaller for a DSSIM 10 % higher and 66 ms more: not worth it. At equal
#        SSIMULACRA2 it is 2 % larger than without. Chroma is halved unless the plan says otherwise, as imgix documents;
#        libvips alone would stop halving it at 90.
# PNG    All filters: 22 % smaller for 60 ms more. Compression 9: 1 % smaller for 370 ms more: not worth it.
# PNG8   Effort 4: 560 ms. Effort 7 is 10 % smaller and takes 1,340 ms. The same for each frame of a GIF.
# WebP   Effort 2: 66 ms. Effort 4 is 4 % smaller and takes 144 ms, 6 is 10 % smaller and takes 323 ms. smart_subsample
#        has a DSSIM 3 % lower and takes 115 ms.
# GIF    A pixel that differs from the frame before by at most 4 levels stays as it was: 6 % smaller. What is shown is
#        never further off, as libvips compares with what is shown.
# AVIF   See avif_effort. libvips' default effort 4 takes 4,700 ms. 10 bits and tune=iq gain almost nothing, tune=ssim
#        loses.
SETTINGS: Final[dict[Format, dict[str, Any]]] = {
    Format.JPEG: {"optimize_coding": True, "quant_table": 3},
    Format.PNG: {"compression": 6, "filter": "all"},
    Format.PNG8: {"palette": True, "effort": 4, "compression": 9},
    Format.WEBP: {"effort": 2},
    Format.AVIF: {"compression": "av1", "bitdepth": 8, "subsample_mode": "on"},
    Format.GIF: {"effort": 4, "interframe_maxerror": 4},
}

# What is added to SETTINGS for flat pictures, which are encoded in both ways (see `smallest`):
# WebP   No pixel changes by more than 2 levels, and it is 10 to 40 % smaller than without any loss. 20 to 400 ms.
# PNG    Without filters, up to 30 % smaller for 20 to 40 ms more.
FLAT_SETTINGS: Final[dict[Format, dict[str, Any]]] = {
    Format.WEBP: {"lossless": True, "near_lossless": True, "Q": 60},
    Format.PNG: {"compression": 9, "filter": "none"},
}

_WEBP_ALPHA: Final = 0x10

# (q of a JPEG, q of a WebP, q of an AVIF) of the same SSIMULACRA2, as a mean over photos from 480 to 1600 px wide, half
# of them with much detail, half with smooth grounds. Source: `benchmarks/quality.py` (benchmarks/results/quality.md).
# There are single photos for which they differ by more: WebP loses more than JPEG in smooth grounds, AVIF less.
EQUAL_QUALITY: Final = (
    (0, 1, 3),
    (10, 1, 5),
    (20, 9, 18),
    (30, 23, 30),
    (45, 45, 41),
    (60, 67, 48),
    (75, 84, 62),
    (85, 91, 74),
    (90, 96, 83),
    (95, 99, 91),
    (100, 100, 97),
)

_COLUMN: Final = {Format.WEBP: 1, Format.AVIF: 2}

# Up to this size, effort 1 takes at most 0.1 s more than effort 0.
_AVIF_EFFORT_PX: Final = 400_000


def encoder_quality(q: int, wanted: Format) -> int:
    """Return the encoder's own number (1-100) for a `q` of 0-100. Between the measured points it is interpolated."""
    q = min(100, max(0, q))
    column = _COLUMN.get(wanted)
    if column is None:
        return max(1, q)
    above = min(bisect_right(EQUAL_QUALITY, q, key=lambda row: row[0]), len(EQUAL_QUALITY) - 1)
    low, high = EQUAL_QUALITY[above - 1], EQUAL_QUALITY[above]
    share = (q - low[0]) / (high[0] - low[0])
    return round(low[column] + (high[column] - low[column]) * share)


def avif_effort(pixels: int) -> int:
    """
    Return libvips' effort for an AVIF of this many pixels.

    At equal quality effort 1 is 6 % smaller than 0, and takes 330 ms a megapixel instead of 92 (about as long as a
    WebP). So small pictures get 1 and large ones 0. Both are a fifth smaller than a WebP or JPEG of that quality.
    """
    return 1 if pixels <= _AVIF_EFFORT_PX else 0


@dataclass(frozen=True, slots=True)
class Playback:
    """How an animation plays: the milliseconds of each frame, and how many times (0 is endless)."""

    delays_ms: tuple[int, ...]
    loop: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """
    A format, and how it is written.

    `is_flat`: with FLAT_SETTINGS. `bits` are those of the palette of a GIF or PNG8. `colours` are the colours of a GIF,
    as `own_colours` packs them; without them libvips chooses.
    """

    format: Format
    is_flat: bool = False
    bits: int | None = None
    colours: tuple[int, ...] = ()


def encode(
    image: Any,
    encoding: Encoding,
    output: Output,
    *,
    keep: int,
    playback: Playback | None = None,
    merges_frames: bool = True,
) -> bytes:
    """
    Encode a finished picture.

    Args:
        image: uchar grey or RGB, with alpha only if the format takes it. The frames of an animation lie one below the
            other. All its metadata that `keep` names is written.
        encoding: a concrete picture format, and how it is encoded.
        output: quality and the other encoder parameters.
        keep: bits of VipsForeignKeep.
        playback: for an animation.
        merges_frames: whether equal frames of a GIF become one.
    """
    wanted = encoding.format
    if keep & KEEP_EXIF or wanted in _HAS_DENSITY:
        image = _set_resolution(image, output.dpi)
    options = {**SETTINGS[wanted], "keep": keep}
    if playback is not None:
        image = _set_playback(image, playback)
        options["page_height"] = image.height // len(playback.delays_ms)
    if encoding.is_flat:
        options |= FLAT_SETTINGS[wanted]
    if encoding.bits is not None:
        options |= {"bitdepth": next(depth for depth in PALETTE_BITS[wanted] if depth >= encoding.bits), "dither": 0}
    if not merges_frames:
        options["keep_duplicate_frames"] = True
    if encoding.colours:
        image = image.copy()
        image.set_type(pyvips.GValue.array_int_type, "gif-palette", list(encoding.colours))
        options |= {"reuse": True, "dither": 0}
    return bytes(_SAVERS[wanted](image, output, options))


def _jpeg(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    quality = _resolve_quality(output, Format.JPEG)
    options |= {"interlace": output.is_progressive, "subsample_mode": "off" if output.chroma_444 else "on"}
    data = bytes(image.jpegsave_buffer(Q=quality, **options))
    return data if output.dpi is None else add_jfif(data, output.dpi)


def add_jfif(data: bytes, dpi: int) -> bytes:
    """Insert a JFIF header with a density into a JPEG; libvips writes none. Source: JFIF 1.02, page 5."""
    density = min(dpi, 0xFFFF)
    return data[:2] + struct.pack(">HH5sHBHHBB", 0xFFE0, 16, b"JFIF\0", 0x0102, 1, density, density, 0, 0) + data[2:]


def _png(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    if output.colours is not None:
        return _png8(image, output, options | SETTINGS[Format.PNG8])
    return bytes(image.pngsave_buffer(**options))


def _png8(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    options.setdefault("bitdepth", _bit_depth(output.colours, PALETTE_BITS[Format.PNG8]))
    return bytes(image.pngsave_buffer(**options))


def _webp(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    if "near_lossless" not in options:
        lossy = {"Q": _resolve_quality(output, Format.WEBP)}
        options |= {"lossless": True} if output.is_lossless else lossy
    data = bytes(image.webpsave_buffer(**options))
    return mark_alpha(data) if image.hasalpha() else data


def mark_alpha(data: bytes) -> bytes:
    """
    Set the alpha flag of an extended WebP.

    libwebp looks only at the rectangles that the frames change. If these are opaque and leave a part of the canvas
    free, it does not set the flag, and decoders paint that part. Source: RFC 9649, section 2.7.1.
    """
    if data[12:16] != b"VP8X":
        return data
    return data[:20] + bytes([data[20] | _WEBP_ALPHA]) + data[21:]


def _avif(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    effort = avif_effort(image.width * image.height)
    return bytes(image.heifsave_buffer(Q=_resolve_quality(output, Format.AVIF), effort=effort, **options))


def _gif(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    options.setdefault("bitdepth", _bit_depth(output.colours, PALETTE_BITS[Format.GIF]))
    return bytes(image.gifsave_buffer(**options))


_SAVERS: Final[dict[Format, Callable[[Any, Output, dict[str, Any]], bytes]]] = {
    Format.JPEG: _jpeg,
    Format.PNG: _png,
    Format.PNG8: _png8,
    Format.WEBP: _webp,
    Format.AVIF: _avif,
    Format.GIF: _gif,
}


def _resolve_quality(output: Output, wanted: Format) -> int:
    return encoder_quality(DEFAULT_QUALITY if output.quality is None else output.quality, wanted)


def _bit_depth(colours: int | None, depths: Any) -> int:
    """Return the largest depth whose palette has at most this many colours. A palette holds a power of two."""
    if colours is None:
        return int(max(depths))
    return int(max((depth for depth in depths if 2**depth <= colours), default=min(depths)))


def _set_resolution(image: Any, dpi: int | None) -> Any:
    """Set the density. With the source's own, a variant would print at the size of its original."""
    per_mm = (dpi or _WEB_DPI) / _MM_PER_INCH
    return image.copy(xres=per_mm, yres=per_mm)


def _set_playback(image: Any, playback: Playback) -> Any:
    image = image.copy()
    image.set_type(pyvips.GValue.array_int_type, "delay", list(playback.delays_ms))
    image.set_type(pyvips.GValue.gint_type, "loop", playback.loop)
    image.set_type(pyvips.GValue.gint_type, "page-height", image.height // len(playback.delays_ms))
    return image
