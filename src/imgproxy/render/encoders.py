"""
From pixels to bytes: one table of settings a format, and what `q` means in each.

Every figure in the reasons below comes from `benchmarks/encoders.py` (results in benchmarks/results/encoders.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.plan import Format
from imgproxy.render.metadata import KEEP_EXIF
from imgproxy.render.quality import encoder_quality
from imgproxy.render.vips import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.params.plan import Output

# imgix's default; `auto=compress` and Save-Data say 45.
DEFAULT_QUALITY: Final = 75

# What has a place for a density of its own; elsewhere it stands in EXIF or, of a JPEG, in the header that is put there.
_WITH_DENSITY: Final = frozenset({Format.PNG, Format.PNG8})

_MM_PER_INCH: Final = 25.4
_WEB_DPI: Final = 72

# Reasons, for the six photos at q=75 and per megapixel on one core (PNG8 and GIF have no q):
# JPEG   progressive as the plan says: 2 % smaller for 15 ms more. Quantisation table 3 (Robidoux) is 8 % smaller for a
#        DSSIM 3 % higher, at no cost. Trellis quantisation as well: 10 % smaller, 10 % further off, 66 ms more: no.
#        Chroma is halved unless the plan says otherwise, as imgix documents; libvips alone would stop at 90.
# PNG    all filters: 22 % smaller for 60 ms more; compression 9 another 1 % for 370 ms: no.
# PNG8   effort 4: 560 ms; 7 is 10 % smaller for 1,340 ms. The same for GIF, where every frame pays.
# WebP   effort 2: 66 ms; 4 is 4 % smaller for 144 ms, 6 10 % for 323 ms. smart_subsample: 3 % nearer for 115 ms.
# AVIF   see avif_effort. libvips' own 4 takes 4,700 ms; 10 bits and tune=iq gain next to nothing, tune=ssim loses.
SETTINGS: Final[dict[Format, dict[str, Any]]] = {
    Format.JPEG: {"optimize_coding": True, "quant_table": 3},
    Format.PNG: {"compression": 6, "filter": "all"},
    Format.PNG8: {"palette": True, "effort": 4, "compression": 9},
    Format.WEBP: {"effort": 2},
    Format.AVIF: {"compression": "av1", "bitdepth": 8, "subsample_mode": "on"},
    Format.GIF: {"effort": 4},
}

# Up to these pixels a second effort costs at most a tenth of a second more.
_AVIF_EFFORT_PX: Final = 400_000


def avif_effort(pixels: int) -> int:
    """
    Return libvips' effort for an AVIF of this many pixels.

    At equal quality effort 1 is 6 % smaller than 0 and takes 330 ms a megapixel instead of 92, which is about what a
    WebP takes: so a large picture, which somebody waits for, gets 0, and a small one can afford 1. Either is a fifth
    smaller than a WebP or JPEG as good.
    """
    return 1 if pixels <= _AVIF_EFFORT_PX else 0


@dataclass(frozen=True, slots=True)
class Playback:
    """How an animation plays: milliseconds of each frame, and 0 for endless or how many times."""

    delays_ms: tuple[int, ...]
    loop: int


def encode(image: Any, wanted: Format, output: Output, *, keep: int, playback: Playback | None = None) -> bytes:
    """
    Encode a finished picture.

    Args:
        image: uchar grey or RGB, with alpha only where the format takes it; the frames of an animation one below the
            other, each a `playback`'s share of the height. Its metadata is what may leave.
        wanted: a concrete picture format.
        output: quality and the other encoder parameters.
        keep: bits of VipsForeignKeep.
        playback: for an animation.
    """
    if keep & KEEP_EXIF or wanted in _WITH_DENSITY:
        image = _with_resolution(image, output.dpi)
    options = {**SETTINGS[wanted], "keep": keep}
    if playback is not None:
        image = _with_playback(image, playback)
        options["page_height"] = image.height // len(playback.delays_ms)
    return bytes(_SAVERS[wanted](image, output, options))


def _jpeg(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    quality = _quality(output, Format.JPEG)
    options |= {"interlace": output.is_progressive, "subsample_mode": "off" if output.chroma_444 else "on"}
    data = bytes(call("jpegsave_buffer", image, Q=quality, **options))
    return data if output.dpi is None else with_jfif(data, output.dpi)


def with_jfif(data: bytes, dpi: int) -> bytes:
    """Put a JFIF header with a density behind the start of a JPEG; libvips writes none. Source: JFIF 1.02, page 5."""
    density = min(dpi, 0xFFFF)
    return data[:2] + struct.pack(">HH5sHBHHBB", 0xFFE0, 16, b"JFIF\0", 0x0102, 1, density, density, 0, 0) + data[2:]


def _png(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    if output.colours is not None:
        return _png8(image, output, options | SETTINGS[Format.PNG8])
    return bytes(call("pngsave_buffer", image, **options))


def _png8(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    return bytes(image.pngsave_buffer(bitdepth=_bit_depth(output.colours, (1, 2, 4, 8)), **options))


def _webp(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    if output.is_lossless:
        return bytes(image.webpsave_buffer(lossless=True, **options))
    return bytes(call("webpsave_buffer", image, Q=_quality(output, Format.WEBP), **options))


def _avif(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    effort = avif_effort(image.width * image.height)
    return bytes(call("heifsave_buffer", image, Q=_quality(output, Format.AVIF), effort=effort, **options))


def _gif(image: Any, output: Output, options: dict[str, Any]) -> bytes:
    return bytes(image.gifsave_buffer(bitdepth=_bit_depth(output.colours, range(1, 9)), **options))


_SAVERS: Final[dict[Format, Callable[[Any, Output, dict[str, Any]], bytes]]] = {
    Format.JPEG: _jpeg,
    Format.PNG: _png,
    Format.PNG8: _png8,
    Format.WEBP: _webp,
    Format.AVIF: _avif,
    Format.GIF: _gif,
}


def _quality(output: Output, wanted: Format) -> int:
    return encoder_quality(DEFAULT_QUALITY if output.quality is None else output.quality, wanted)


def _bit_depth(colors: int | None, depths: Any) -> int:
    """The largest depth whose palette has at most this many colours; palettes hold powers of two."""
    if colors is None:
        return int(max(depths))
    return int(max((depth for depth in depths if 2**depth <= colors), default=min(depths)))


def _with_resolution(image: Any, dpi: int | None) -> Any:
    """Write the density; the source's own would make a variant print at the size of its original."""
    per_mm = (dpi or _WEB_DPI) / _MM_PER_INCH
    return call("copy", image, xres=per_mm, yres=per_mm)


def _with_playback(image: Any, playback: Playback) -> Any:
    image = image.copy()
    image.set_type(pyvips.GValue.array_int_type, "delay", list(playback.delays_ms))
    image.set_type(pyvips.GValue.gint_type, "loop", playback.loop)
    image.set_type(pyvips.GValue.gint_type, "page-height", image.height // len(playback.delays_ms))
    return image
