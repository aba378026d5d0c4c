"""Makes a watermark into a layer of the picture's size: scaled, turned, faded, then tiled or positioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgproxy.params.plan import Fit, Px, Ratio, RenderPlan, Resize
from imgproxy.render import colour, paint
from imgproxy.render.draft import Decoded
from imgproxy.render.geometry import place
from imgproxy.render.orientation import swap
from imgproxy.render.scaling import resample, rotate
from imgproxy.render.sizes import Box, Size, round_half_up
from imgproxy.render.source import decode, open_source, tolerate

if TYPE_CHECKING:
    from imgproxy.params.plan import Length, Mark
    from imgproxy.render.geometry import Geometry
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits


def make_layer(path: str, mark: Mark, base: Size, limits: ProcessLimits, limit_scale: float = 1.0) -> Any:
    """
    Return a layer that has the size of the picture, `base`.

    Raises the errors of `open_source`, and pyvips.Error if the pixels are damaged.
    """
    image = paint.add_alpha(_scale(path, mark, base, limits, limit_scale))
    if mark.rotation:
        turned = place(Box(0, 0, image.width, image.height), RenderPlan(rotation=mark.rotation, is_pivot=True))
        image = rotate(image, mark.rotation, 1.0, turned.frame)
    if mark.alpha < 100:
        image = image.linear([1.0, 1.0, 1.0, mark.alpha / 100], [0.0] * 4).rint().cast("uchar")
    image = image.copy(interpretation="srgb").copy_memory()
    if mark.is_tiled:
        return _tile(image, round_half_up(mark.pad_px * limit_scale), base)
    left, top = _find_corner(mark, Size(image.width, image.height), base, limit_scale)
    return image.embed(left, top, base.width_px, base.height_px, extend="background", background=[0.0] * 4)


def _scale(path: str, mark: Mark, base: Size, limits: ProcessLimits, limit_scale: float) -> Any:
    return tolerate(
        open_source(path, limits), limits, lambda source: _scale_source(source, mark, base, limits, limit_scale)
    )


def _scale_source(source: Source, mark: Mark, base: Size, limits: ProcessLimits, limit_scale: float) -> Any:
    upright = swap(Size(source.width_px, source.height_px), source.orientation)
    geometry = _place(mark, upright, base, limit_scale)
    factor = min(upright.width_px / geometry.scaled.width_px, upright.height_px / geometry.scaled.height_px)
    image = decode(source, limits, factor=factor, page=source.page)
    ratio = (image.width / source.width_px, image.height / source.height_px)
    decoded = Decoded((image,), upright, source.orientation, ratio)
    scaled = resample(image, geometry.window, geometry.scaled, decoded=decoded, in_memory=True)
    picture = colour.as_rgb(colour.to_srgb(scaled))
    canvas = geometry.canvas
    if canvas is None:
        return picture
    return paint.add_alpha(picture).embed(canvas.left_px, canvas.top_px, canvas.size.width_px, canvas.size.height_px)


def _place(mark: Mark, upright: Size, base: Size, limit_scale: float) -> Geometry:
    """
    Decide the watermark's size: lengths up to 1 are parts of the picture's sides, mark-scale is per cent of its width.

    A watermark without a size keeps its own, but is never larger than the picture.
    """
    width = _length(mark.width, base.width_px, limit_scale)
    height = _length(mark.height, base.height_px, limit_scale)
    fit = mark.fit
    if mark.scale is not None:
        width, height, fit = max(1.0, base.width_px * mark.scale / 100), None, Fit.CLIP
    if width is None and height is None:
        width, height, fit = base.width_px, base.height_px, Fit.MAX
    resize = Resize(width=None if width is None else Px(width), height=None if height is None else Px(height), fit=fit)
    return place(Box(0, 0, upright.width_px, upright.height_px), RenderPlan(resize=resize))


def _length(length: Length | None, side_px: int, limit_scale: float) -> float | None:
    if length is None:
        return None
    return max(1.0, length.value * (side_px if isinstance(length, Ratio) else limit_scale))


def _find_corner(mark: Mark, size: Size, base: Size, limit_scale: float) -> tuple[int, int]:
    """Return where the watermark's top left corner lies: at mark-x and mark-y, else by its alignment and padding."""
    pad = round_half_up(mark.pad_px * limit_scale)
    free_x, free_y = base.width_px - size.width_px, base.height_px - size.height_px
    left = {"left": pad, "center": round_half_up(free_x / 2), "right": free_x - pad}[mark.horizontal]
    top = {"top": pad, "middle": round_half_up(free_y / 2), "bottom": free_y - pad}[mark.vertical]
    if mark.x_px is not None:
        left = round_half_up(mark.x_px * limit_scale)
    if mark.y_px is not None:
        top = round_half_up(mark.y_px * limit_scale)
    return left, top


def _tile(image: Any, pad_px: int, base: Size) -> Any:
    """Repeat a watermark over the whole picture, `pad_px` apart."""
    tile = image.embed(0, 0, image.width + pad_px, image.height + pad_px, extend="background", background=[0.0] * 4)
    across, down = -(-base.width_px // tile.width), -(-base.height_px // tile.height)
    return tile.replicate(across, down).crop(0, 0, base.width_px, base.height_px)
