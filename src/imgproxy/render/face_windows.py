"""
Where a crop lies so that it keeps faces. Pure.

Boxes and windows are in pixels of the upright source. The box of a face goes from the forehead to the chin, so a head
is more than its face. A window keeps whole heads if it is large enough, else whole faces. It cuts no face that it can
leave out or take in whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.render.sizes import Window, clamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.params.plan import FaceChoice
    from imgproxy.render.sizes import Box, Size
    from imgproxy.workers.faces import Face

# What belongs to a head beyond the box of its face, as parts of the box: hair, ears, chin and neck. Measured by eye.
HAIR: Final = 0.4
EARS: Final = 0.2
NECK: Final = 0.25
# Where the eyes are, from the top of the box.
EYES: Final = 0.4
# What rounding may cut off a side, in pixels.
_SLACK: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Span:
    """A face on one axis, from the window's first possible position: its box, its head, its size as a weight."""

    start: float
    end: float
    head_start: float
    head_end: float
    middle: float  # what is centred if not even the face fits
    weight: float


def faces_in(faces: Sequence[Face], upright: Size) -> tuple[Window, ...]:
    """Return the boxes of faces in a picture of this size."""
    width, height = upright.width_px, upright.height_px
    return tuple(Window(one.left * width, one.top * height, one.width * width, one.height * height) for one in faces)


def faces_of_region(faces: Sequence[Window], region: Box) -> tuple[Window, ...]:
    """Return the faces whose centre lies in the region, cut to it, in their order."""
    return tuple(_cut(face, region) for face in faces if _has_centre(face, region))


def crop_window(region: Box, width: float, height: float, faces: Sequence[Window], choice: FaceChoice) -> Window:
    """Return the window of this size inside the region that keeps the faces. There is at least one."""
    width, height = min(width, float(region.width_px)), min(height, float(region.height_px))
    main = _main(faces, choice)
    chosen = range(len(faces)) if main is None else (main,)
    across, down = _spans_across(faces, region), _spans_down(faces, region)
    left = _position(across, [across[n] for n in chosen], width, region.width_px)
    top = _position(down, [down[n] for n in chosen], height, region.height_px)
    return Window(region.left_px + left, region.top_px + top, width, height)


def area_window(region: Box, aspect: float, faces: Sequence[Window], choice: FaceChoice) -> Window:
    """Return the smallest window with this ratio around the faces, each enlarged by `pad`, inside the region."""
    main = _main(faces, choice)
    kept = faces if main is None else (faces[main],)
    boxes = [_cut(_enlarge(face, choice.pad), region) for face in kept]
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right = max(box.left + box.width for box in boxes)
    bottom = max(box.top + box.height for box in boxes)
    width = max(right - left, (bottom - top) * aspect)
    scale = min(1.0, region.width_px / width, region.height_px * aspect / width)
    if scale < 1.0:  # the area of this ratio does not fit into the region, so some of it is cut, but no face
        return crop_window(region, width * scale, width * scale / aspect, faces, choice)
    height = width / aspect
    free_right = region.left_px + region.width_px - width
    free_bottom = region.top_px + region.height_px - height
    return Window(
        clamp((left + right - width) / 2, float(region.left_px), free_right),
        clamp((top + bottom - height) / 2, float(region.top_px), free_bottom),
        width,
        height,
    )


def _main(faces: Sequence[Window], choice: FaceChoice) -> int | None:
    """Return the index of the chosen face; None for all."""
    return choice.index - 1 if choice.index is not None and choice.index <= len(faces) else None


def _position(spans: Sequence[_Span], chosen: Sequence[_Span], length: float, side: float) -> float:
    """Return where a window of this length begins on one axis, 0 <= position <= side - length."""
    free = side - length
    for heads in (True, False):
        start = min(span.head_start if heads else span.start for span in chosen)
        end = max(span.head_end if heads else span.end for span in chosen)
        if end - start <= length:
            return clamp((start + end - length) / 2, 0.0, free)
    main = chosen[0]
    if main.end - main.start > length:
        return clamp(main.middle - length / 2, 0.0, free)
    # Not all faces fit. The best window begins or ends where a head or a face does, or has the main face in its centre.
    starts = [(main.start + main.end - length) / 2]
    for span in spans:
        starts += [span.head_start, span.start, span.head_end - length, span.end - length]
    return max((clamp(start, 0.0, free) for start in starts), key=lambda start: _score(start, length, spans, main))


def _score(start: float, length: float, spans: Sequence[_Span], main: _Span) -> tuple[bool, float, float, float, float]:
    """Rate a window: the main face whole, few faces cut, many whole, few heads cut, the main face in its centre."""
    end = start + length

    def is_whole(first: float, last: float) -> bool:
        return start - _SLACK <= first and last <= end + _SLACK

    def is_cut(first: float, last: float) -> bool:
        return not is_whole(first, last) and first < end - _SLACK and last > start + _SLACK

    cut = sum(span.weight for span in spans if is_cut(span.start, span.end))
    whole = sum(span.weight for span in spans if is_whole(span.start, span.end))
    cut_heads = sum(span.weight for span in spans if is_cut(span.head_start, span.head_end))
    offset = abs((start + end) / 2 - (main.start + main.end) / 2)
    return is_whole(main.start, main.end), -cut, whole, -cut_heads, -offset


def _spans_across(faces: Sequence[Window], region: Box) -> list[_Span]:
    spans = []
    for face in faces:
        start, ears = face.left - region.left_px, EARS * face.width
        end = start + face.width
        head_start, head_end = max(0.0, start - ears), min(float(region.width_px), end + ears)
        spans.append(_Span(start, end, head_start, head_end, (start + end) / 2, face.width * face.height))
    return spans


def _spans_down(faces: Sequence[Window], region: Box) -> list[_Span]:
    spans = []
    for face in faces:
        start = face.top - region.top_px
        end = start + face.height
        head_start = max(0.0, start - HAIR * face.height)
        head_end = min(float(region.height_px), end + NECK * face.height)
        middle = start + EYES * face.height
        spans.append(_Span(start, end, head_start, head_end, middle, face.width * face.height))
    return spans


def _enlarge(box: Window, by: float) -> Window:
    """Enlarge a box around its centre."""
    width, height = box.width * by, box.height * by
    return Window(box.left + (box.width - width) / 2, box.top + (box.height - height) / 2, width, height)


def _has_centre(face: Window, region: Box) -> bool:
    x, y = face.left + face.width / 2 - region.left_px, face.top + face.height / 2 - region.top_px
    return 0 <= x < region.width_px and 0 <= y < region.height_px


def _cut(box: Window, region: Box) -> Window:
    """Cut a box to the region. They overlap."""
    left, top = max(box.left, float(region.left_px)), max(box.top, float(region.top_px))
    right = min(box.left + box.width, float(region.left_px + region.width_px))
    bottom = min(box.top + box.height, float(region.top_px + region.height_px))
    return Window(left, top, right - left, bottom - top)
