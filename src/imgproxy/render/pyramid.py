"""The decoded frames of a source at the sizes that a group of targets is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.render import scaling as resample
from imgproxy.render import source as load
from imgproxy.render.draft import Decoded
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from typing import Any

    from imgproxy.render.recipe import Aim
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits

# What is left to the Lanczos filter at least, after a picture was halved; libvips' resize leaves as much after its box.
HEADROOM: Final = 2.0


class Levels:
    """
    The decoded frames at the size that the largest target needs, and their halves, quarters, eighths.

    Targets that share a decode are made from the smallest level that leaves HEADROOM; of a JPEG from the one that is as
    large as what libjpeg would give for this target alone.
    """

    def __init__(self, source: Source, aims: list[Aim], limits: ProcessLimits) -> None:
        factor = min(aim.factor for aim in aims)
        if source.drawing is not None:
            # Never draw more pixels than a raster source may have.
            factor = max(factor, (source.width_px * source.height_px / limits.source_pixels) ** 0.5)
        selection = aims[0].selection
        first, last = min(selection.order), max(selection.order)
        is_shared = len(aims) > 1
        is_read_once = not (is_shared or selection.is_animated or any(aim.is_read_twice for aim in aims))
        roll = load.decode(
            source,
            factor=factor,
            page=first,
            count=last - first + 1,
            allow_truncated=limits.allow_truncated,
        )
        if not is_read_once:
            roll = roll.copy_memory()
        stored: tuple[Any, ...] = (roll,)
        self._jpeg_shrink = load.jpeg_shrink(factor) if source.kind is SourceKind.JPEG else None
        if self._jpeg_shrink is not None:  # libvips cuts what is left over of an odd side
            self._ratio = (1 / self._jpeg_shrink,) * 2
        else:
            width, height = roll.width, roll.height // (last - first + 1)
            self._ratio = (width / source.width_px, height / source.height_px)
            if selection.is_animated:
                stored = tuple(roll.crop(0, (n - first) * height, width, height) for n in selection.order)
        self._is_shared = is_shared
        self._options = load.shrink_options(source, factor)
        self._source = source
        self._levels: list[tuple[Any, ...]] = [stored]

    def decoded_for(self, aim: Aim) -> Decoded:
        """Return the smallest frames that leave enough to the filter for this target."""
        halvings = self._halvings(aim)
        while len(self._levels) <= halvings:
            self._levels.append(tuple(resample.halve(frame) for frame in self._levels[-1]))
        across, down = self._ratio
        ratio = (across / 2**halvings, down / 2**halvings)
        return Decoded(self._levels[halvings], aim.upright, aim.orientation, ratio)

    def name_of(self, aim: Aim) -> str:
        """`Rendered.shared_decode` of this target."""
        if not self._is_shared:
            return ""
        halvings = self._halvings(aim)
        if halvings == 0 and load.shrink_options(self._source, aim.factor) == self._options:
            return ""
        return f"{self._levels[0][0].width}-{halvings}"

    def _halvings(self, aim: Aim) -> int:
        """How often the decoded frames are halved for a target; those of one target alone never."""
        if not self._is_shared or aim.geometry is None:
            return 0
        if self._jpeg_shrink is not None:
            return (load.jpeg_shrink(aim.factor) // self._jpeg_shrink).bit_length() - 1
        left = aim.factor * min(self._ratio)
        return max(1, int(left / HEADROOM)).bit_length() - 1
