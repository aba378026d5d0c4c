"""
How a region of the source is fitted to the requested size: `fit`, `ar`, min and max bounds, crop windows.

Source of the rules: docs/urls.md ("Size", "Crop").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imgproxy.params.plan import MAX_SIDE_PX, Crop, Fit, Focal
from imgproxy.render.face_windows import area_window, crop_window, faces_of_region
from imgproxy.render.sizes import Box, Size, Window, clamp, round_half_up, round_px

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.params.plan import FaceChoice, Resize

# A smart crop reads the whole scaled region. If a side of it is longer than this many output limits, the crop takes
# the centre instead.
_SMART_COVER_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted region before rotation, padding and the size limit. Sizes are not rounded."""

    window: Window
    picture: tuple[float, float]
    cover: tuple[float, float] | None = None  # the whole region, scaled: a smart crop looks at it
    smart: Crop | None = None
    canvas: tuple[float, float] | None = None


def fit_region(
    region: Box, resize: Resize, width: float | None, height: float | None, faces: Sequence[Window] = ()
) -> Fitted:
    """
    Decide window, picture and canvas of a region for a size in device pixels.

    `width` and `height` replace the lengths of `resize`: ratios are resolved, inner padding is subtracted, and nothing
    is rounded. Inner padding is subtracted from the bounds of `resize` as well. `faces` are those of the source, the
    largest first.
    """
    kept = faces_of_region(faces, region) if resize.faces is not None else ()
    if resize.faces is not None and resize.faces.is_area and kept:
        return _fit_faces(region, resize.faces, width, height, kept)
    source_width, source_height = region.width_px, region.height_px
    if resize.fit is Fit.CROP:
        return _cover(region, resize, *_size_crop(region, resize, width, height), kept)
    if resize.fit is Fit.FILL and resize.aspect is not None and (width is None or height is None):
        width, height = _size_fill(region, resize.aspect, width, height)
    if width is None and height is None:
        return _whole(region, float(source_width), float(source_height))
    if width is None or height is None:
        return _fit_one_side(region, resize, width, height)
    if resize.fit is Fit.SCALE:
        return _whole(region, width, height)
    if resize.fit is Fit.MIN:
        k = min(1.0, source_width / width, source_height / height)
        return _cover(region, resize, width * k, height * k, kept)
    scale = min(width / source_width, height / source_height)
    if resize.fit in (Fit.MAX, Fit.FILLMAX):
        scale = min(1.0, scale)
    fitted = _whole(region, min(width, source_width * scale), min(height, source_height * scale))
    if resize.fit in (Fit.FILL, Fit.FILLMAX, Fit.CLAMP):
        return replace(fitted, canvas=(width, height))
    return fitted


def _fit_one_side(region: Box, resize: Resize, width: float | None, height: float | None) -> Fitted:
    """Fit one given side. The other follows the region's ratio; some modes do not enlarge."""
    scale = width / region.width_px if width is not None else (height or 1) / region.height_px
    frame = _whole(region, width or region.width_px * scale, height or region.height_px * scale)
    if scale <= 1.0 or resize.fit not in (Fit.MAX, Fit.MIN, Fit.FILLMAX):
        return frame
    fitted = _whole(region, region.width_px, region.height_px)
    return replace(fitted, canvas=frame.picture) if resize.fit is Fit.FILLMAX else fitted


def _fit_faces(
    region: Box, choice: FaceChoice, width: float | None, height: float | None, faces: Sequence[Window]
) -> Fitted:
    """Fit the area of the faces. If one side is given, the other follows the region's ratio."""
    ratio = region.width_px / region.height_px
    across = width if width is not None else (height or 1) * ratio
    down = height if height is not None else across / ratio
    return Fitted(area_window(region, across / down, faces, choice), (across, down))


def _size_crop(region: Box, resize: Resize, width: float | None, height: float | None) -> tuple[float, float]:
    """Return the frame of fit=crop. A side that is not given follows `aspect` or the region; then the bounds apply."""
    ratio = resize.aspect or region.width_px / region.height_px
    if width is None and height is None:
        width = min(region.width_px, region.height_px * ratio)
        height = width / ratio
    elif height is None:
        assert width is not None
        height = width / ratio
    elif width is None:
        width = height * ratio
    bounds = resize.bounds
    return (
        clamp(width, bounds.min_width_px, bounds.max_width_px),
        clamp(height, bounds.min_height_px, bounds.max_height_px),
    )


def _size_fill(region: Box, aspect: float, width: float | None, height: float | None) -> tuple[float, float]:
    """Return the frame of fit=fill with an aspect: from the given side, else the smallest around the region."""
    if width is not None:
        return width, width / aspect
    if height is not None:
        return height * aspect, height
    around = max(float(region.width_px), region.height_px * aspect)
    return around, around / aspect


def _whole(region: Box, width: float, height: float) -> Fitted:
    window = Window(region.left_px, region.top_px, region.width_px, region.height_px)
    return Fitted(window, (width, height))


def _cover(region: Box, resize: Resize, width: float, height: float, faces: Sequence[Window] = ()) -> Fitted:
    """Cut the region to the frame's ratio: by faces, anchors or a focal point here, or later by libvips (`smart`)."""
    width, height = round_px(width), round_px(height)
    if resize.faces is not None and faces:
        cover_scale = max(width / region.width_px, height / region.height_px)
        window = crop_window(region, width / cover_scale, height / cover_scale, faces, resize.faces)
        return Fitted(window, (width, height))
    zoom = resize.focal.zoom if resize.focal else 1.0
    scale = max(width / region.width_px, height / region.height_px) * zoom
    keep = _choose_crop(resize.crop, resize.focal)
    if isinstance(keep, Crop):
        cover = (region.width_px * scale, region.height_px * scale)
        if max(cover) <= _SMART_COVER_LIMIT * MAX_SIDE_PX:
            is_exact = round_half_up(cover[0]) <= width and round_half_up(cover[1]) <= height
            whole = _whole(region, width, height)
            return whole if is_exact else replace(whole, cover=cover, smart=keep)
        keep = (0.5, 0.5)
    return Fitted(_window_of(region, width / scale, height / scale, keep, resize.focal), (width, height))


def _choose_crop(crop: tuple[Crop, ...], focal: Focal | None) -> Crop | tuple[float, float]:
    """Return the first crop that applies: a smart one, or the anchors of edges."""
    x, y, is_anchored = 0.5, 0.5, False
    for item in crop:
        if item in (Crop.LEFT, Crop.RIGHT) and x == 0.5:
            x, is_anchored = (0.0 if item is Crop.LEFT else 1.0), True
        elif item in (Crop.TOP, Crop.BOTTOM) and y == 0.5:
            y, is_anchored = (0.0 if item is Crop.TOP else 1.0), True
        elif is_anchored or item is Crop.CENTER or (item is Crop.FOCALPOINT and focal is not None):
            break
        elif item in (Crop.ENTROPY, Crop.EDGES):
            return item
    return x, y


def _window_of(
    region: Box, width: float, height: float, anchors: tuple[float, float], focal: Focal | None = None
) -> Window:
    """Return a window of the given size inside the region, at its anchors or around its focal point."""
    width, height = min(width, float(region.width_px)), min(height, float(region.height_px))
    free_x, free_y = region.width_px - width, region.height_px - height
    left, top = anchors[0] * free_x, anchors[1] * free_y
    if focal is not None:
        left = clamp(focal.x * region.width_px - width / 2, 0.0, free_x)
        top = clamp(focal.y * region.height_px - height / 2, 0.0, free_y)
    return Window(region.left_px + left, region.top_px + top, width, height)


def centre_cover(region: Box, frame: Size) -> Window:
    """Return the largest window with the frame's ratio in the middle of the region."""
    scale = max(frame.width_px / region.width_px, frame.height_px / region.height_px)
    return _window_of(region, frame.width_px / scale, frame.height_px / scale, (0.5, 0.5))
