"""
The smallest of the encodings that a variant may have: other settings for flat pictures, palettes for palette sources.

A photo is encoded once. Drawings, charts and screenshots are flat: most pixels equal their neighbour, and then lossless
WebP is often smaller than any lossy encoding. Which one is smaller depends on the size, so a flat picture is encoded in
all ways that its plan allows, and the smallest file is kept. All figures are from `benchmarks/graphics.py`
(benchmarks/results/graphics.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.appearance import Adjust
from imgproxy.params.plan import Format
from imgproxy.render.encoders import Encoding, encode
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from imgproxy.params.plan import RenderPlan
    from imgproxy.render.encoders import Playback
    from imgproxy.render.source import Source

# Sources that a lossy codec has made are never flat: its noise is in all of their pixels.
_LOSSY: Final = frozenset({SourceKind.JPEG, SourceKind.AVIF, SourceKind.HEIC})

# From this share of pixels that equal their right neighbour on, a picture is flat. Photos have 0.02 to 0.12, dithered
# photos of 256 colours 0.50, charts and screenshots 0.74 to 0.99. Some drawings are just below, and would
# be smaller without loss: a smooth gradient of 0.60, rounded, is 4.4 kB as lossy WebP and 0.7 kB without loss.
FLAT_SHARE: Final = 0.6

# Scaling mixes colours, so a variant gets four times as many as its source: two bits more of palette.
_MORE_BITS: Final = 2


def is_flat(image: Any) -> bool:
    """Whether most pixels equal their right neighbour. Reads all pixels: about 3 ms a megapixel."""
    width = image.width - 1
    if width < 1:
        return False
    same = image.crop(0, 0, width, image.height) == image.crop(1, 0, width, image.height)
    return bool(same.bandand().avg() >= FLAT_SHARE * 255)


def may_be_flat(source: Source, wanted: Format, plan: RenderPlan) -> bool:
    """Whether `is_flat` matters: the format has a choice of encodings, and the source is not lossy."""
    return source.kind not in _LOSSY and len(_encodings(wanted, plan)) > 1


def palette_bits(source: Source, plan: RenderPlan) -> int | None:
    """
    Return the bits of the palette that holds a variant of a palette source; None without one, or if it holds too few.

    None also if the plan brings in colours of its own, or limits them itself.
    """
    is_plain = plan.adjust == Adjust() and plan.blend is None and plan.mark is None and plan.output.colours is None
    if source.palette_bits is None or not is_plain or plan.resize.fill_blur:
        return None
    return min(8, source.palette_bits + _MORE_BITS)


def encode_smallest(
    image: Any,
    wanted: Format,
    plan: RenderPlan,
    *,
    keep: int,
    flat: bool,
    bits: int | None = None,
    playback: Playback | None = None,
) -> tuple[Format, bytes]:
    """
    Encode a finished picture in the smallest way that its plan allows. Return the format and the bytes.

    Args:
        image: see `encoders.encode`. It is read several times if it is flat, or has a palette.
        wanted: the format; of a flat picture, a WebP may come instead of an AVIF that `auto=format` chose.
        plan: of the variant.
        keep: bits of VipsForeignKeep.
        flat: whether the picture is flat.
        bits: of the palette, see `palette_bits`.
        playback: for an animation.
    """
    if wanted is Format.PNG and bits is not None:
        data = _encode_palette_png(image, plan, keep=keep, bits=bits)
        if data is not None:
            return wanted, data
    encodings = _encodings(wanted, plan) if flat else [Encoding(wanted)]
    found = []
    for encoding in encodings:
        own_bits = bits if encoding.format in (Format.GIF, Format.PNG8) else None
        found.append(
            (encoding.format, encode(image, encoding, plan.output, keep=keep, bits=own_bits, playback=playback))
        )
    return min(found, key=lambda item: len(item[1]))


def _encodings(wanted: Format, plan: RenderPlan) -> list[Encoding]:
    """Return the encodings that a flat picture may have."""
    output = plan.output
    if wanted is Format.WEBP and not output.is_lossless:
        return [Encoding(Format.WEBP), Encoding(Format.WEBP, is_flat=True)]
    if wanted is Format.AVIF and output.may_be_webp:
        return [Encoding(Format.AVIF), Encoding(Format.WEBP), Encoding(Format.WEBP, is_flat=True)]
    if wanted is Format.PNG and output.colours is None:
        return [Encoding(Format.PNG), Encoding(Format.PNG, is_flat=True)]
    return [Encoding(wanted)]


def _encode_palette_png(image: Any, plan: RenderPlan, *, keep: int, bits: int) -> bytes | None:
    """
    Encode a variant of a palette source with a palette.

    `fm=png` asks for no loss, so there it must hold every colour exactly. Return None if it does not.
    """
    data = encode(image, Encoding(Format.PNG8), plan.output, keep=keep, bits=bits)
    return None if plan.output.format is Format.PNG and not _is_same(image, data) else data


def _is_same(image: Any, data: bytes) -> bool:
    """Whether a file has exactly the pixels of a picture."""
    found = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
    image = image.colourspace("srgb")
    if found.bands != image.bands:
        return False
    return bool((found == image).bandand().min() == 255)
