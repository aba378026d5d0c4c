"""The decoded frames of a source at the sizes that a group of targets is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.render import load
from imgproxy.render.sniff import SourceKind
from imgproxy.render.work import Decoded

if TYPE_CHECKING:
    from imgproxy.render.aim import Aim
    from imgproxy.render.job import ProcessLimits
    from imgproxy.render.load import Source

# A level is used while this much is left to the Lanczos filter after it.
HEADROOM: Final = 2.0


class Levels:
    """
    The decoded frames, at the size the largest target needs, and halves of that for the smaller ones.

    A half is the mean of 2 x 2 pixels, which is what libvips' own resize begins with when it has far to go; so a
    variant made from a half looks as if it had been made from the whole.
    """

    def __init__(self, source: Source, aims: list[Aim], limits: ProcessLimits) -> None:
        self._is_shared = len(aims) > 1
        self._factor = min(aim.factor for aim in aims)
        if source.drawing is not None:
            # Never draw more pixels than a raster source may have.
            least = (source.width_px * source.height_px / limits.source_pixels) ** 0.5
            self._factor = max(self._factor, least)
        selection = aims[0].selection
        is_read_twice = any(aim.is_read_twice for aim in aims)
        first, last = min(selection.order), max(selection.order)
        is_sequential = not (self._is_shared or is_read_twice or selection.is_animated)
        roll = load.decode(
            source,
            factor=self._factor,
            page=first,
            count=last - first + 1,
            is_sequential=is_sequential,
            allow_truncated=limits.allow_truncated,
        )
        if not is_sequential:
            roll = roll.copy_memory()
        height = roll.height // (last - first + 1)
        self._levels = [
            tuple(roll.crop(0, (n - first) * height, roll.width, height) for n in selection.order)
            if selection.is_animated
            else (roll,)
        ]
        width, height = self._levels[0][0].width, self._levels[0][0].height
        shrink = load.jpeg_shrink(self._factor) if source.kind is SourceKind.JPEG else 0
        self._ratio = (1 / shrink, 1 / shrink) if shrink else (width / source.width_px, height / source.height_px)

    def decoded_for(self, aim: Aim) -> Decoded:
        """Return the smallest frames that leave enough to the filter for this target."""
        depth = 0
        if self._is_shared and not self._levels[0][0].hasalpha():
            while aim.factor * min(self._ratio) >= 2 ** (depth + 1) * HEADROOM:
                depth += 1
        while len(self._levels) <= depth:
            self._levels.append(tuple(frame.shrink(2, 2, ceil=True).copy_memory() for frame in self._levels[-1]))
        ratio = (self._ratio[0] / 2**depth, self._ratio[1] / 2**depth)
        return Decoded(self._levels[depth], aim.upright, aim.orientation, ratio)
