"""The plan's output and frames from the values of a URL: format, quality, colours, metadata, animation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.params.negotiate import VARY_ACCEPT, VARY_SAVE_DATA, AcceptClass
from imgproxy.params.plan import ColourSpace, Format, Frames, Metadata, Output
from imgproxy.params.table import delivery, encoding, frames

if TYPE_CHECKING:
    from imgproxy.params.parse import Values

_TEXT: Final = frozenset({Format.JSON, Format.BLURHASH, Format.PALETTE_JSON, Format.PALETTE_CSS})
# Which of these the source has is decided in the render process.
_OF_SOURCE: Final = frozenset({Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8})
# The formats that a parameter can have an effect on.
_MAYBE_JPEG: Final = _OF_SOURCE | {Format.JPEG}
_MAYBE_WEBP: Final = _OF_SOURCE | {Format.WEBP}
_HAS_QUALITY: Final = _MAYBE_JPEG | {Format.WEBP, Format.AVIF}
_HAS_COLOURS: Final = _OF_SOURCE | {Format.PNG8, Format.GIF}
_HAS_DPI: Final = _MAYBE_JPEG | {Format.PNG, Format.PNG8}
# Browsers show animated AVIF unreliably, so an animation as AVIF becomes WebP.
_MAYBE_ANIMATED: Final = _OF_SOURCE | {Format.GIF, Format.WEBP, Format.AVIF}
_DEFAULT_QUALITY: Final = 75
_COMPRESS_QUALITY: Final = 45


@dataclass(frozen=True, slots=True)
class Client:
    """What the plan takes from the request headers and the configuration."""

    accept: AcceptClass = AcceptClass.LEGACY
    saves_data: bool = False
    metadata: Metadata = Metadata.CREDIT
    avif_max_pixels: int = 0  # of an AVIF that auto=format chose; 0: no limit
    finds_faces: bool = False  # a face detector is installed


def output_of(values: Values, client: Client) -> tuple[Output, tuple[str, ...]]:
    """Return the encoding, and the request headers that it depends on."""
    palette = values.get(encoding.PALETTE)
    if palette is not None:
        prefix = values.get(encoding.PREFIX, "image") if palette is Format.PALETTE_CSS else "image"
        return Output(format=palette, colours=values.get(encoding.COLOURS, 6), palette_prefix=prefix), ()
    word = values.get(encoding.FM)
    asked = encoding.FORMATS[word] if word is not None else None
    if asked in _TEXT and asked is not None:
        has_faces = asked is Format.JSON and client.finds_faces and values.get(encoding.FACES, False)
        return Output(format=asked, has_faces=has_faces), ()
    auto = values.get(encoding.AUTO, ())
    is_compressed = "compress" in auto
    chosen, vary = _choose_format(asked, client.accept, is_compressed=is_compressed, is_auto="format" in auto)
    quality, vary_quality = _quality(values, chosen, client, is_compressed=is_compressed)
    metadata = Metadata.NONE if is_compressed else client.metadata
    iptc = values.get(encoding.IPTC)
    if iptc is not None:
        kept = metadata if metadata is not Metadata.NONE else Metadata.CREDIT
        metadata = kept if iptc else Metadata.NONE
    colours = values.get(encoding.COLORQUANT) if chosen in _HAS_COLOURS else None
    is_jpeg = chosen in _MAYBE_JPEG
    found = Output(
        format=chosen,
        is_negotiated=VARY_ACCEPT in vary and chosen in (Format.AVIF, Format.WEBP) and asked is None,
        avif_max_pixels=(client.avif_max_pixels or None) if chosen is Format.AVIF and VARY_ACCEPT in vary else None,
        may_be_webp=chosen is Format.AVIF and VARY_ACCEPT in vary,
        quality=quality,
        is_lossless=chosen in _MAYBE_WEBP and values.get(encoding.LOSSLESS, False),
        is_progressive=not is_jpeg or word == "pjpg" or values.get(encoding.JPG_PROGRESSIVE, True),
        chroma_444=is_jpeg and values.get(encoding.CHROMASUB) == "444",
        colours=None if colours == 256 else colours,
        dpi=(values.get(encoding.DPI) or None) if chosen in _HAS_DPI else None,
        colour_space=values.get(encoding.CS, ColourSpace.STRIP if is_compressed else ColourSpace.SRGB),
        metadata=metadata,
    )
    return found, vary + vary_quality


def _choose_format(
    asked: Format | None, accept: AcceptClass, *, is_compressed: bool, is_auto: bool
) -> tuple[Format, tuple[str, ...]]:
    """Return the format and the headers it depends on. `auto=format` and `auto=compress` win over `fm`."""
    if is_auto and accept is AcceptClass.AVIF:
        return Format.AVIF, (VARY_ACCEPT,)
    if is_auto and accept is AcceptClass.WEBP:
        return Format.WEBP, (VARY_ACCEPT,)
    vary = (VARY_ACCEPT,) if is_auto else ()
    if is_compressed:
        return (Format.COMPRESSED8 if is_auto else Format.COMPRESSED), vary
    return asked or Format.SOURCE, vary


def _quality(
    values: Values, chosen: Format, client: Client, *, is_compressed: bool
) -> tuple[int | None, tuple[str, ...]]:
    """Return the quality (None: the default, or the format has no quality) and the headers it depends on."""
    if chosen not in _HAS_QUALITY or (chosen is Format.WEBP and values.get(encoding.LOSSLESS)):
        return None, ()
    quality = values.get(encoding.Q)
    if quality is not None:
        return (None if quality == _DEFAULT_QUALITY else quality), ()
    if is_compressed:
        return _COMPRESS_QUALITY, ()
    if "save-data" not in values.get(delivery.CH, ()):
        return None, ()
    return (_COMPRESS_QUALITY if client.saves_data else None), (VARY_SAVE_DATA,)


def frames_of(values: Values, output: Output) -> Frames:
    """Return which frames are used and how they play, as far as the format can be an animation."""
    page, span = values.get(frames.PAGE, 1), values.get(frames.FRAME)
    first, last = span or (None, None)
    if output.format not in _MAYBE_ANIMATED:
        return Frames(page=page, first=None if first == 1 else first)
    if last == (first or 1):
        return Frames(page=page, first=last, last=last)
    if first == 1:
        first = None
    return Frames(
        page=page,
        first=first,
        last=last,
        loop=values.get(frames.LOOP),
        interval=values.get(frames.INTERVAL, 1),
        skip=values.get(frames.SKIP, 0),
        is_reversed=values.get(frames.REVERSE, False),
        fps=values.get(frames.FPS),
    )
