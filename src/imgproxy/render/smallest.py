"""
The smallest of the encodings that a variant may have: other settings for flat pictures, palettes for palette sources.

A photo is encoded once. Drawings, charts and screenshots are flat: most pixels equal their neighbour, and then lossless
WebP is often smaller than any lossy encoding. Which one is smaller depends on the size. So a sample of a flat picture
is encoded with and without loss, the picture in the ways that may win, and the smallest file is kept. All figures are
from `benchmarks/graphics.py` (benchmarks/results/graphics.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.appearance import Adjust
from imgproxy.params.plan import ColourSpace, Fit, Format, RenderPlan
from imgproxy.render.encoders import PALETTE_BITS, Encoding, Playback, encode
from imgproxy.render.own_colours import reduce_colours
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.params.plan import Output
    from imgproxy.render.sizes import Size
    from imgproxy.render.source import Source

# Sources that a lossy codec has made are never flat: its noise is in all of their pixels.
_LOSSY: Final = frozenset({SourceKind.JPEG, SourceKind.AVIF, SourceKind.HEIC})

# From this share of pixels that equal their right neighbour on, a picture is flat. Photos have 0.00 to 0.29, dithered
# photos of 256 colours 0.50, charts and screenshots 0.74 to 0.99. Gradients have what their slope gives: one of 0.60 is
# 0.7 kB without loss and 4.4 kB with it, but those below 0.50 are at least twice as large without loss.
FLAT_SHARE: Final = 0.55

# A PNG of more bits a pixel is a photo. Photos have 11 to 16, a dithered one of 256 colours 4, drawings 0.1 to 4. In
# small files metadata count too much.
_PHOTO_BITS_PER_PX: Final = 6
_PHOTO_FROM_BYTES: Final = 65_536

# Scaling mixes colours, so a variant gets four times as many as its source: two bits more of palette.
_MORE_BITS: Final = 2

# A palette of 16 is the smallest that is tried. Sources of fewer colours keep as many as they have.
_FEWEST_BITS: Final = 4

# With one bit of palette less, a GIF of a scaled picture is a fifth to a third smaller.
_SMALLER_BY_BIT: Final = 3 / 4

# Smaller pictures are encoded in all ways at once.
_SAMPLED_FROM_PX: Final = 100_000
# The sample of a still is four strips of whole blocks, as lossy codecs see them, and an eighth of its rows; that of an
# animation is its first eighth.
_STRIPS, _STRIP_LEAST_PX, _BLOCK_PX, _SAMPLE_PART = 4, 32, 16, 8
# An encoding is tried on the picture if its sample is smaller than the lossy one by this factor. Without loss takes up
# to ten times as long as with it, so an even chance is not worth it. If that sample is much smaller, it is the only
# encoding. Of twenty pictures, one lossless encoding was missed by this, which was 5 % smaller.
_SAMPLE_WINS: Final = 0.95
_LOSSLESS_WINS: Final = 0.7


@dataclass(frozen=True, slots=True)
class Palette:
    """
    The palette of a source, as far as its variant may have it.

    `format` is the source's own: PNG8, or GIF, also of an animated PNG. `bits` is the size of the variant's palette.
    `limit_bytes` is the size of the source if the variant shows no more than it does: then it must not be larger.
    """

    format: Format
    bits: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture, see `encoders.encode`, and what is the same in all its encodings."""

    image: Any
    output: Output
    keep: int
    playback: Playback | None = None

    def encode(self, encoding: Encoding) -> bytes:
        """Return the bytes of an encoding."""
        return encode(self.image, encoding, self.output, keep=self.keep, playback=self.playback)


def is_flat(image: Any) -> bool:
    """Whether most pixels equal their right neighbour. Reads all pixels: about 3 ms a megapixel."""
    width = image.width - 1
    if width < 1:
        return False
    same = image.crop(0, 0, width, image.height) == image.crop(1, 0, width, image.height)
    return bool(same.bandand().avg() >= FLAT_SHARE * 255)


def may_be_flat(source: Source, wanted: Format, plan: RenderPlan) -> bool:
    """
    Whether `is_flat` matters: the format has a choice of encodings, and the source is not lossy, nor plainly a photo.

    To ask costs a photo that is a PNG 4 to 11 % of its render, as the picture is kept in memory for it. The header
    tells as much of the original, for each of its variants, without any cost.
    """
    is_photo = (
        source.kind is SourceKind.PNG
        and source.size_bytes > _PHOTO_FROM_BYTES
        and source.size_bytes * 8 > _PHOTO_BITS_PER_PX * source.width_px * source.height_px * source.pages
    )
    return source.kind not in _LOSSY and not is_photo and len(_encodings(wanted, plan.output, None)) > 1


def find_palette(source: Source, plan: RenderPlan, size: Size, frames: int) -> Palette | None:
    """
    Return the palette that a variant of this size and number of frames may have.

    None if the source has none, or if the plan brings in colours of its own, or limits them itself.
    """
    is_plain = plan.adjust == Adjust() and plan.blend is None and plan.mark is None and plan.output.colours is None
    if source.palette_bits is None or not is_plain or plan.resize.fill_blur:
        return None
    wanted = Format.GIF if source.kind is SourceKind.GIF or frames > 1 else Format.PNG8
    source_px = source.width_px * source.height_px * (source.pages if source.is_animation else 1)
    is_limited = _shows_source_only(plan) and size.width_px * size.height_px * frames <= source_px
    return Palette(wanted, min(8, source.palette_bits + _MORE_BITS), source.size_bytes if is_limited else None)


def _shows_source_only(plan: RenderPlan) -> bool:
    """Whether each pixel of the variant comes from the source: nothing is added, and its colours are sRGB."""
    kept = RenderPlan(
        orient=plan.orient,
        rect=plan.rect,
        trim=plan.trim,
        resize=plan.resize,
        flip=plan.flip,
        frames=plan.frames,
        output=plan.output,
    )
    is_filled = plan.resize.fit in (Fit.FILL, Fit.FILLMAX)
    return plan == kept and not is_filled and plan.output.colour_space is ColourSpace.SRGB


def encode_smallest(
    picture: Picture,
    wanted: Format,
    *,
    flat: bool,
    palette: Palette | None,
    find_colours: Callable[[], tuple[int, ...]],
) -> tuple[Format, bytes]:
    """
    Encode a finished picture in the smallest way that its plan allows. Return the format and the bytes.

    Args:
        picture: it is read several times if it is flat, or has a palette.
        wanted: the format. With `auto=format` a flat picture may come in another one, which its client takes, too.
        flat: whether the picture is flat.
        palette: see `find_palette`.
        find_colours: returns the colours of the source, see `own_colours`. Called only if they are needed.
    """
    if wanted is Format.PNG and palette is not None:
        data = _encode_palette_png(picture, palette)
        if data is not None:
            return _keep_within(picture, (Format.PNG8, data), palette, find_colours)
    encodings = _encodings(wanted, picture.output, palette) if flat else [_plain(wanted, palette)]
    found = [(encoding.format, picture.encode(encoding)) for encoding in _choose(picture, encodings)]
    best = min(found, key=lambda item: len(item[1]))
    return best if palette is None else _keep_within(picture, best, palette, find_colours)


def _plain(wanted: Format, palette: Palette | None) -> Encoding:
    has_palette = palette is not None and wanted in PALETTE_BITS
    return Encoding(wanted, bits=palette.bits if palette is not None and has_palette else None)


def _encodings(wanted: Format, output: Output, palette: Palette | None) -> list[Encoding]:
    """Return the encodings that a flat picture may have."""
    found = [_plain(wanted, palette)]
    if wanted is Format.AVIF and output.may_be_webp:
        found += [Encoding(Format.WEBP), Encoding(Format.WEBP, is_flat=True)]
    if wanted is Format.WEBP and not output.is_lossless:
        found.append(Encoding(Format.WEBP, is_flat=True))
    if wanted is Format.PNG and output.colours is None:
        found.append(Encoding(Format.PNG, is_flat=True))
    if output.is_negotiated and palette is not None and len(found) > 1:
        found.append(_plain(palette.format, palette))
    return found


def _choose(picture: Picture, encodings: list[Encoding]) -> list[Encoding]:
    """Return the encodings that may be the smallest, by a sample of the picture. An AVIF is always one of them."""
    lossy, lossless = Encoding(Format.WEBP), Encoding(Format.WEBP, is_flat=True)
    sample = _sample(picture) if lossless in encodings else None
    if sample is None:
        return encodings
    sizes = {item: len(sample.encode(item)) for item in encodings if item.format is not Format.AVIF}
    if sizes[lossless] == min(sizes.values()) < _LOSSLESS_WINS * sizes[lossy]:
        return [lossless]
    most = _SAMPLE_WINS * sizes[lossy]
    return [item for item in encodings if item not in sizes or item == lossy or sizes[item] <= most]


def _sample(picture: Picture) -> Picture | None:
    """Return a part of a picture that compresses as the whole does; None if it is small."""
    image, playback = picture.image, picture.playback
    width, height = image.width, image.height
    if width * height < _SAMPLED_FROM_PX:
        return None
    if playback is not None:
        frames = len(playback.delays_ms)
        count = min(frames, max(2, frames // _SAMPLE_PART))
        part = image.crop(0, 0, width, height // frames * count)
        return replace(picture, image=part, keep=0, playback=Playback(playback.delays_ms[:count], 0))
    rows = max(_STRIP_LEAST_PX, height // (_SAMPLE_PART * _STRIPS * _BLOCK_PX) * _BLOCK_PX)
    gap = (height - _STRIPS * rows) // _STRIPS
    if gap <= 0:
        return None
    tops = [gap // 2 + n * (rows + gap) for n in range(_STRIPS)]
    strips = pyvips.Image.arrayjoin([image.crop(0, top, width, rows) for top in tops], across=1)
    return replace(picture, image=strips.copy_memory(), keep=0)


def _encode_palette_png(picture: Picture, palette: Palette) -> bytes | None:
    """
    Encode a variant of a palette source with a palette.

    `fm=png` asks for no loss, so there it must hold every colour exactly. Return None if it does not.
    """
    data = picture.encode(Encoding(Format.PNG8, bits=palette.bits))
    return None if picture.output.format is Format.PNG and not _is_same(picture.image, data) else data


def _is_same(image: Any, data: bytes) -> bool:
    """Whether a file has exactly the pixels of a picture."""
    found = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
    image = image.colourspace("srgb")
    if found.bands != image.bands:
        return False
    return bool((found == image).bandand().min() == 255)


def _keep_within(
    picture: Picture, best: tuple[Format, bytes], palette: Palette, find_colours: Callable[[], tuple[int, ...]]
) -> tuple[Format, bytes]:
    """
    Return an encoding that is not larger than the source, if there is one; else the smallest.

    The picture gets fewer and fewer colours, but as many as the source shows, or 16. At last it has the source's own
    colours. With `auto=format` it is a WebP then, the smallest format of few colours. `fm=png` and `lossless` lose
    nothing, so they are left as they are.
    """
    limit, output = palette.limit_bytes, picture.output
    wanted = Format.WEBP if output.is_negotiated else best[0]
    is_exact = output.format is Format.PNG or output.is_lossless
    if limit is None or len(best[1]) <= limit or is_exact or wanted not in (*PALETTE_BITS, Format.WEBP):
        return best
    if not _is_opaque_or_clear(picture.image):
        return best
    colours = find_colours()
    own_bits = max(1, (len(colours) - 1).bit_length()) if colours else 8
    least, bits = min(_FEWEST_BITS, own_bits), palette.bits
    while bits > least and (ratio := len(best[1]) / limit) > 1:
        bits = max(least, bits - math.ceil(math.log(ratio) / -math.log(_SMALLER_BY_BIT)))
        best = _smaller(best, (wanted, _encode_reduced(picture, wanted, Encoding(Format.GIF, bits=bits))))
    if colours and len(best[1]) > limit:
        rung = Encoding(Format.GIF, bits=own_bits, colours=colours)
        best = _smaller(best, (wanted, _encode_reduced(picture, wanted, rung)))
    return best


def _smaller(one: tuple[Format, bytes], other: tuple[Format, bytes]) -> tuple[Format, bytes]:
    return min(one, other, key=lambda item: len(item[1]))


def _encode_reduced(picture: Picture, wanted: Format, rung: Encoding) -> bytes:
    """Encode a picture in the colours that a GIF of the encoding `rung` has: a GIF, a PNG8, or a WebP without loss."""
    if wanted is Format.GIF:
        return picture.encode(rung)
    reduced = replace(picture, image=reduce_colours(picture.image, rung, picture.playback).copy_memory())
    is_webp = wanted is Format.WEBP
    return reduced.encode(Encoding(wanted, is_flat=is_webp, bits=None if is_webp else rung.bits))


def _is_opaque_or_clear(image: Any) -> bool:
    """Whether no pixel is partly transparent."""
    if not image.hasalpha():
        return True
    alpha = image.extract_band(image.bands - 1)
    return bool(((alpha == 0) | (alpha == 255)).min() == 255)
