"""
Values of a URL and what the client accepts -> the canonical RenderPlan, and the request headers it depended on.

Source of the rules: docs/urls.md; of their canonical form: `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from imgproxy.errors import BadParameter, BadUrl
from imgproxy.params import assemble_size as sized
from imgproxy.params import table_geometry as geometry
from imgproxy.params import table_looks as looks
from imgproxy.params import table_output as output
from imgproxy.params.negotiate import VARY_ACCEPT, VARY_SAVE_DATA, AcceptClass
from imgproxy.params.parse import check_path
from imgproxy.params.plan import (
    TRANSPARENT_WHITE,
    WHITE,
    Adjust,
    Blend,
    Color,
    ColorSpace,
    Fit,
    Format,
    Frames,
    Length,
    Mark,
    Metadata,
    Output,
    Px,
    RenderPlan,
)

if TYPE_CHECKING:
    from imgproxy.params.parse import Values

# A format that may turn out to be JPEG; one with a quality; one whose number of colours can be set.
_MAYBE_JPEG: Final = frozenset({Format.JPEG, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8})
_HAS_QUALITY: Final = _MAYBE_JPEG | {Format.WEBP, Format.AVIF}
_HAS_COLORS: Final = frozenset({Format.PNG8, Format.GIF, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8})
_HAS_DPI: Final = _MAYBE_JPEG | {Format.PNG, Format.PNG8}
_MAYBE_WEBP: Final = frozenset({Format.WEBP, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8})
_TEXT: Final = frozenset({Format.JSON, Format.BLURHASH, Format.PALETTE_JSON, Format.PALETTE_CSS})
# An animation asked for as AVIF leaves as WebP: animated AVIF is not reliable in browsers.
_MAYBE_ANIMATED: Final = frozenset(
    {Format.GIF, Format.WEBP, Format.AVIF, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8}
)
_NO_ADJUST: Final = Adjust()
_ALL_FRAMES: Final = Frames()
_DEFAULT_QUALITY: Final = 75
_COMPRESS_QUALITY: Final = 45

_TONES: Final = frozenset(
    row.name
    for row in (
        looks.BRI, looks.CON, looks.EXP, looks.GAM, looks.HUE, looks.SAT, looks.VIB, looks.HIGH, looks.SHAD,
        looks.SHARP, looks.USM, looks.BLUR, looks.PX, looks.MONOCHROME, looks.SEPIA, looks.DUOTONE, looks.INVERT,
    )
)  # fmt: skip
_FRAMES: Final = frozenset(
    row.name
    for row in (
        output.PAGE, output.FRAME, output.LOOP, output.INTERVAL, output.SKIP, output.REVERSE, output.FPS,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """What the plan takes from the request headers and the configuration."""

    accept: AcceptClass = AcceptClass.LEGACY
    saves_data: bool = False
    metadata: Metadata = Metadata.CREDIT
    avif_max_pixels: int = 0  # of an AVIF chosen for it; 0 is any


def plan_of(values: Values, sizing: sized.Sizing, client: Client, key: str) -> tuple[RenderPlan, tuple[str, ...]]:
    """
    Return the canonical plan, and the request headers it depended on.

    Args:
        values: of the URL, its presets and the configured defaults together.
        sizing: width, height and scale, with `dpr` and client hints taken in.
        client: what the client accepts.
        key: of the image itself, which must not be its own watermark.

    Raises:
        BadParameter: a watermark that is not in the library, or is the image itself.
    """
    encoding, vary = _output_of(values, client)
    if encoding.format is Format.JSON:
        # It describes the original, whatever else was asked for.
        return RenderPlan(output=encoding), vary
    pad = sized.pad_of(values, sizing)
    rotation = values.take(geometry.ROT, 0.0)
    background = _background(values.take(geometry.BG, TRANSPARENT_WHITE), encoding.format)
    resize = sized.resize_of(values, sizing, pad)
    if resize.fill_color is not None and resize.fill_color == background:
        resize = replace(resize, fill_color=None)
    plan = RenderPlan(
        orient=values.get(geometry.ORIENT),
        rect=sized.rect_of(values),
        trim=sized.trim_of(values),
        resize=resize,
        flip=values.take(geometry.FLIP, ""),
        rotation=rotation,
        is_pivot=rotation != 0.0 and values.get(geometry.ROT_TYPE) == "pivot",
        adjust=_adjust_of(values),
        blend=_blend_of(values),
        mark=_mark_of(values, sizing, key),
        border=sized.border_of(values, sizing),
        mask=sized.mask_of(values, sizing),
        pad=pad,
        background=background,
        frames=_frames_of(values, encoding),
        output=encoding,
    )
    return plan, vary


def _background(color: Color, found: Format) -> Color:
    """A transparent colour has no hue, and JPEG is on white anyway."""
    if color.alpha == 0 or (found is Format.JPEG and color == WHITE):
        return TRANSPARENT_WHITE
    return color


# --- tone and overlays -------------------------------------------------------------------------------------------


def _adjust_of(values: Values) -> Adjust:
    is_enhanced = "enhance" in values.take(output.AUTO, ())
    if not values.has_any(_TONES):
        return Adjust(enhance=True) if is_enhanced else _NO_ADJUST
    unsharp = values.take(looks.USM, 0.0)
    monochrome, duotone = values.get(looks.MONOCHROME), values.get(looks.DUOTONE)
    duotone_alpha = values.take(looks.DUOTONE_ALPHA, 100.0)
    if duotone is None or duotone_alpha == 0.0:
        duotone, duotone_alpha = None, 100.0
    return Adjust(
        brightness=values.take(looks.BRI, 0.0),
        contrast=values.take(looks.CON, 0.0),
        exposure=values.take(looks.EXP, 0.0),
        gamma=values.take(looks.GAM, 0.0),
        hue=values.take(looks.HUE, 0.0),
        saturation=values.take(looks.SAT, 0.0),
        vibrance=values.take(looks.VIB, 0.0),
        highlight=values.take(looks.HIGH, 0.0),
        shadow=values.take(looks.SHAD, 0.0),
        sharpen=values.take(looks.SHARP, 0.0),
        unsharp=unsharp,
        unsharp_radius=values.take(looks.USMRAD, 2.5) if unsharp else 2.5,
        blur=values.take(looks.BLUR, 0.0),
        pixellate_px=0 if (block_px := values.take(looks.PX, 0)) == 1 else block_px,
        monochrome=monochrome if monochrome is not None and monochrome.alpha else None,
        sepia=values.take(looks.SEPIA, 0.0),
        duotone=duotone,
        duotone_alpha=duotone_alpha,
        invert=values.take(looks.INVERT, default=False),
        enhance=is_enhanced,
    )


def _blend_of(values: Values) -> Blend | None:
    color = values.get(looks.BLEND) or values.get(looks.BLEND_COLOR)
    alpha = values.take(looks.BLEND_ALPHA, 100.0)
    if color is None or color.alpha == 0 or alpha == 0.0:
        return None
    return Blend(color, values.take(looks.BLEND_MODE, "overlay"), alpha)


def _mark_of(values: Values, sizing: sized.Sizing, key: str) -> Mark | None:
    text, alpha = values.get(looks.MARK), values.take(looks.MARK_ALPHA, 100.0)
    if text is None or alpha == 0.0:
        return None
    mark = Mark(
        source=_mark_source(text, values.get(looks.MARK_BASE), key),
        width=_mark_length(values.get(looks.MARK_W), sizing.scale),
        height=_mark_length(values.get(looks.MARK_H), sizing.scale),
        alpha=alpha,
        rotation=values.take(looks.MARK_ROT, 0.0),
        is_tiled=values.take(looks.MARK_TILE, default=False),
        min_width_px=sizing.px(values.take(looks.MARK_IF_MIN_WIDTH, 0)),
        min_height_px=sizing.px(values.take(looks.MARK_IF_MIN_HEIGHT, 0)),
    )
    if mark.width is not None or mark.height is not None:
        mark = replace(mark, fit=values.take(looks.MARK_FIT, Fit.CLIP))
    else:
        mark = replace(mark, scale=values.get(looks.MARK_SCALE))
    x, y = values.get(looks.MARK_X), values.get(looks.MARK_Y)
    if x is not None or y is not None:
        return replace(mark, x_px=sizing.px(x or 0), y_px=sizing.px(y or 0))
    words = values.take(looks.MARK_ALIGN, ())
    return replace(
        mark,
        horizontal=next((word for word in words if word in ("left", "center", "right")), "right"),
        vertical=next((word for word in words if word in ("top", "middle", "bottom")), "bottom"),
        pad_px=sizing.px(values.take(looks.MARK_PAD, 5)),
    )


def _mark_source(text: str, base: str | None, key: str) -> str:
    """Return the mark's key or name. A mark's own parameters (`logo.png?w=100`) are not supported and dropped."""
    path = text.partition("?")[0]
    if base is not None:
        path = f"{base.rstrip('/')}/{path.lstrip('/')}"
    try:
        source = check_path(path)
    except BadUrl as error:
        raise BadParameter(looks.MARK.name, text[:80], looks.MARK.expected) from error
    if source == key:
        raise BadParameter(looks.MARK.name, text[:80], "another image than the one it is laid on")
    return source


def _mark_length(length: Length | None, scale: float) -> Length | None:
    """Pixels follow the scale; a part of the picture's side does so by itself."""
    return sized.scaled(length, scale) if isinstance(length, Px) else length


# --- output ------------------------------------------------------------------------------------------------------


def _output_of(values: Values, client: Client) -> tuple[Output, tuple[str, ...]]:
    palette = values.get(output.PALETTE)
    if palette is not None:
        prefix = values.take(output.PREFIX, "image") if palette is Format.PALETTE_CSS else "image"
        return Output(format=palette, colors=values.take(output.COLORS, 6), palette_prefix=prefix), ()
    word = values.get(output.FM)
    asked = output.FORMATS[word] if word is not None else None
    if asked in _TEXT and asked is not None:
        return Output(format=asked), ()
    auto = values.take(output.AUTO, ())
    is_compressed = "compress" in auto
    chosen, vary = _choose_format(asked, client.accept, is_compressed=is_compressed, is_auto="format" in auto)
    quality, vary_quality = _quality(values, chosen, client, is_compressed=is_compressed)
    metadata = Metadata.NONE if is_compressed else client.metadata
    iptc = values.get(output.IPTC)
    if iptc is not None:
        kept = metadata if metadata is not Metadata.NONE else Metadata.CREDIT
        metadata = kept if iptc else Metadata.NONE
    colors = values.get(output.COLORQUANT) if chosen in _HAS_COLORS else None
    is_jpeg = chosen in _MAYBE_JPEG
    found = Output(
        format=chosen,
        is_negotiated=VARY_ACCEPT in vary and chosen in (Format.AVIF, Format.WEBP) and asked is None,
        avif_max_pixels=(client.avif_max_pixels or None) if chosen is Format.AVIF and VARY_ACCEPT in vary else None,
        quality=quality,
        is_lossless=chosen in _MAYBE_WEBP and values.take(output.LOSSLESS, default=False),
        is_progressive=not is_jpeg or word == "pjpg" or values.take(output.JPG_PROGRESSIVE, default=True),
        chroma_444=is_jpeg and values.get(output.CHROMASUB) == "444",
        colors=None if colors == 256 else colors,
        dpi=(values.get(output.DPI) or None) if chosen in _HAS_DPI else None,
        color_space=values.take(output.CS, ColorSpace.STRIP if is_compressed else ColorSpace.SRGB),
        metadata=metadata,
    )
    return found, vary + vary_quality


def _choose_format(
    asked: Format | None, accept: AcceptClass, *, is_compressed: bool, is_auto: bool
) -> tuple[Format, tuple[str, ...]]:
    """Return the format and the headers it depends on: `auto=format` outranks `fm`, and so does `auto=compress`."""
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
    """Return the quality, None for the usual one or where there is none, and the headers it depends on."""
    if chosen not in _HAS_QUALITY or (chosen is Format.WEBP and values.get(output.LOSSLESS)):
        return None, ()
    quality = values.get(output.Q)
    vary: tuple[str, ...] = ()
    if quality is None and not is_compressed and "save-data" in values.take(output.CH, ()):
        vary = (VARY_SAVE_DATA,)
    if quality is None:
        saves = is_compressed or (client.saves_data and bool(vary))
        quality = _COMPRESS_QUALITY if saves else _DEFAULT_QUALITY
    return (None if quality == _DEFAULT_QUALITY else quality), vary


def _frames_of(values: Values, encoding: Output) -> Frames:
    if not values.has_any(_FRAMES):
        return _ALL_FRAMES
    page, span = values.take(output.PAGE, 1), values.get(output.FRAME)
    first, last = span or (None, None)
    is_still = first is not None and first == last
    if is_still or encoding.format not in _MAYBE_ANIMATED:
        return Frames(page=page, first=first)
    interval = values.take(output.INTERVAL, 1)
    return Frames(
        page=page,
        first=first,
        last=last,
        loop=values.get(output.LOOP),
        interval=interval,
        skip=values.take(output.SKIP, 0),
        is_reversed=values.take(output.REVERSE, default=False),
        fps=values.get(output.FPS),
    )
