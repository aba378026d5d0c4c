"""
Values of a URL, and what the client accepts -> the canonical RenderPlan, and the request headers that it depends on.

The rules are in docs/urls.md. A new parameter is read here or in one of the modules `assemble_size` and
`assemble_output`; tests/unit/test_every_parameter.py fails for a row of the table that no code reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imgproxy.errors import BadParameter, BadUrl
from imgproxy.params import assemble_size as sized
from imgproxy.params.appearance import TRANSPARENT_WHITE, WHITE, Adjust, Blend, Colour
from imgproxy.params.assemble_output import Client, frames_of, output_of
from imgproxy.params.parse import check_path
from imgproxy.params.plan import Fit, Format, Length, Mark, Px, RenderPlan
from imgproxy.params.table import encoding, framing, orientation, overlays, tone

if TYPE_CHECKING:
    from imgproxy.params.parse import Values


def plan_of(values: Values, sizing: sized.Sizing, client: Client, key: str) -> tuple[RenderPlan, tuple[str, ...]]:
    """
    Return the canonical plan, and the request headers it depended on.

    Args:
        values: the parameters of the URL, its presets and the configured defaults together.
        sizing: width, height and scale; `dpr` and client hints are in it.
        client: what the request headers and the configuration say.
        key: the key of the image, which must not be its own watermark.

    Raises:
        BadParameter: the watermark is not a key of the library, or is the image itself.
    """
    output, vary = output_of(values, client)
    if output.format is Format.JSON:
        # It describes the original; no other parameter changes that.
        return RenderPlan(output=output), vary
    frames = frames_of(values, output)
    pad = sized.pad_of(values, sizing)
    resize = sized.resize_of(values, sizing, pad, finds_faces=client.finds_faces)
    rect, trim = sized.rect_of(values), sized.trim_of(values)
    border, mask = sized.border_of(values, sizing), sized.mask_of(values, sizing)
    rotation = values.get(orientation.ROT, 0.0)
    background = _background(values.get(framing.BG, TRANSPARENT_WHITE), output.format)
    if resize.fill_colour is not None and resize.fill_colour == background:
        resize = replace(resize, fill_colour=None)
    plan = RenderPlan(
        orient=values.get(orientation.ORIENT),
        rect=rect,
        trim=trim,
        resize=resize,
        flip=values.get(orientation.FLIP, ""),
        rotation=rotation,
        is_pivot=rotation != 0.0 and values.get(orientation.ROT_TYPE) == "pivot",
        adjust=_adjust_of(values),
        blend=_blend_of(values),
        mark=_mark_of(values, sizing, key),
        border=border,
        mask=mask,
        pad=pad,
        background=background,
        frames=frames,
        output=output,
    )
    return plan, vary


def _background(colour: Colour, chosen: Format) -> Colour:
    """Write equal backgrounds in one way: a transparent colour has no hue, and JPEG is white without a background."""
    if colour.alpha == 0 or (chosen is Format.JPEG and colour == WHITE):
        return TRANSPARENT_WHITE
    return colour


def _adjust_of(values: Values) -> Adjust:
    unsharp = values.get(tone.USM, 0.0)
    monochrome, duotone = values.get(tone.MONOCHROME), values.get(tone.DUOTONE)
    duotone_alpha = values.get(tone.DUOTONE_ALPHA, 100.0)
    if duotone is None or duotone_alpha == 0.0:
        duotone, duotone_alpha = None, 100.0
    return Adjust(
        brightness=values.get(tone.BRI, 0.0),
        contrast=values.get(tone.CON, 0.0),
        exposure=values.get(tone.EXP, 0.0),
        gamma=values.get(tone.GAM, 0.0),
        hue=values.get(tone.HUE, 0.0),
        saturation=values.get(tone.SAT, 0.0),
        vibrance=values.get(tone.VIB, 0.0),
        highlight=values.get(tone.HIGH, 0.0),
        shadow=values.get(tone.SHAD, 0.0),
        sharpen=values.get(tone.SHARP, 0.0),
        unsharp=unsharp,
        unsharp_radius=values.get(tone.USMRAD, 2.5) if unsharp else 2.5,
        blur=values.get(tone.BLUR, 0.0),
        pixellate_px=0 if (block_px := values.get(tone.PX, 0)) == 1 else block_px,
        monochrome=monochrome if monochrome is not None and monochrome.alpha else None,
        sepia=values.get(tone.SEPIA, 0.0),
        duotone=duotone,
        duotone_alpha=duotone_alpha,
        invert=values.get(tone.INVERT, False),
        enhance="enhance" in values.get(encoding.AUTO, ()),
    )


def _blend_of(values: Values) -> Blend | None:
    colour = values.get(overlays.BLEND) or values.get(overlays.BLEND_COLOUR)
    alpha = values.get(overlays.BLEND_ALPHA, 100.0)
    if colour is None or colour.alpha == 0 or alpha == 0.0:
        return None
    return Blend(colour, values.get(overlays.BLEND_MODE, "overlay"), alpha)


def _mark_of(values: Values, sizing: sized.Sizing, key: str) -> Mark | None:
    text, alpha = values.get(overlays.MARK), values.get(overlays.MARK_ALPHA, 100.0)
    if text is None or alpha == 0.0:
        return None
    mark = Mark(
        source=_mark_source(text, values.get(overlays.MARK_BASE), key),
        width=_mark_length(values.get(overlays.MARK_W), sizing.scale),
        height=_mark_length(values.get(overlays.MARK_H), sizing.scale),
        alpha=alpha,
        rotation=values.get(overlays.MARK_ROT, 0.0),
        is_tiled=values.get(overlays.MARK_TILE, False),
        min_width_px=sizing.px(values.get(overlays.MARK_IF_MIN_WIDTH, 0)),
        min_height_px=sizing.px(values.get(overlays.MARK_IF_MIN_HEIGHT, 0)),
    )
    if mark.width is not None or mark.height is not None:
        mark = replace(mark, fit=values.get(overlays.MARK_FIT, Fit.CLIP))
    else:
        mark = replace(mark, scale=values.get(overlays.MARK_SCALE))
    x, y = values.get(overlays.MARK_X), values.get(overlays.MARK_Y)
    if x is not None or y is not None:
        return replace(mark, x_px=sizing.px(x or 0), y_px=sizing.px(y or 0))
    words = values.get(overlays.MARK_ALIGN, ())
    return replace(
        mark,
        horizontal=next((word for word in words if word in ("left", "center", "right")), "right"),
        vertical=next((word for word in words if word in ("top", "middle", "bottom")), "bottom"),
        pad_px=sizing.px(values.get(overlays.MARK_PAD, 5)),
    )


def _mark_source(text: str, base: str | None, key: str) -> str:
    """Return the key or the name of the mark. Parameters of the mark itself (`logo.png?w=100`) are dropped."""
    path = text.partition("?")[0]
    if base is not None:
        path = f"{base.rstrip('/')}/{path.lstrip('/')}"
    try:
        source = check_path(path)
    except BadUrl as error:
        raise BadParameter(overlays.MARK.name, text[:80], overlays.MARK.kind.expected) from error
    if source == key:
        raise BadParameter(overlays.MARK.name, text[:80], "another image than the one it is laid on")
    return source


def _mark_length(length: Length | None, scale: float) -> Length | None:
    """Scale pixels. A part of the picture's side needs no scale."""
    return sized.scaled(length, scale) if isinstance(length, Px) else length
