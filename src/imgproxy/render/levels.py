"""The decoded frames of a source at the sizes that a group of targets is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.render import load
from imgproxy.render.shapes import Window
from imgproxy.render.sniff import SourceKind
from imgproxy.render.work import Decoded

if TYPE_CHECKING:
    from imgproxy.render.aim import Aim
    from imgproxy.render.job import ProcessLimits
    from imgproxy.render.load import Source
    from imgproxy.render.work import Work

# A smaller picture stands in for the decoded one while this much is left to the Lanczos filter after it.
HEADROOM: Final = 2.0


class Levels:
    """
    The decoded frames at the size that the largest target needs, and the scaled ones that targets left behind.

    Targets are made from the largest to the smallest; one that shows the whole picture leaves it, scaled and upright,
    for those that need less than half of it. So seven widths of a photo cost one decode and a few small filters.
    """

    def __init__(self, source: Source, aims: list[Aim], limits: ProcessLimits) -> None:
        self.is_shared = len(aims) > 1
        factor = min(aim.factor for aim in aims)
        if source.drawing is not None:
            # Never draw more pixels than a raster source may have.
            factor = max(factor, (source.width_px * source.height_px / limits.source_pixels) ** 0.5)
        selection = aims[0].selection
        first, last = min(selection.order), max(selection.order)
        is_sequential = not (self.is_shared or selection.is_animated or any(aim.is_read_twice for aim in aims))
        roll = load.decode(
            source,
            factor=factor,
            page=first,
            count=last - first + 1,
            is_sequential=is_sequential,
            allow_truncated=limits.allow_truncated,
        )
        if not is_sequential:
            roll = roll.copy_memory()
        height = roll.height // (last - first + 1)
        self._stored = (
            tuple(roll.crop(0, (n - first) * height, roll.width, height) for n in selection.order)
            if selection.is_animated
            else (roll,)
        )
        shrink = load.jpeg_shrink(factor) if source.kind is SourceKind.JPEG else 0
        self._ratio = (1 / shrink, 1 / shrink) if shrink else (roll.width / source.width_px, height / source.height_px)
        self._upright: dict[int, list[Decoded]] = {}

    def decoded_for(self, aim: Aim) -> Decoded:
        """Return the smallest frames that leave enough to the filter for this target."""
        for smaller in reversed(self._upright.get(aim.orientation, [])):
            if aim.geometry is not None and aim.factor * min(smaller.ratio) >= HEADROOM:
                return smaller
        return Decoded(self._stored, aim.upright, aim.orientation, self._ratio)

    def keep(self, aim: Aim, work: Work) -> None:
        """Take a target's frames, just scaled, for the targets that follow, where they show the whole picture."""
        upright, size = aim.upright, work.geometry.scaled
        whole = Window(0, 0, upright.width_px, upright.height_px)
        if not self.is_shared or work.geometry.window != whole:
            return
        ratio = (size.width_px / upright.width_px, size.height_px / upright.height_px)
        if max(ratio) < min(self._ratio):
            self._upright.setdefault(aim.orientation, []).append(Decoded(work.frames, upright, 1, ratio))
