"""The decoded frames of a source, and their halves. All variants of one decode are made from these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.render.draft import Decoded
from imgproxy.render.scaling import halve
from imgproxy.render.source import decode, jpeg_shrink, shrink_options
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from typing import Any

    from imgproxy.render.recipe import Recipe
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits

# After halving, at least this factor is left to the Lanczos filter, as libvips' resize does after its box filter.
HEADROOM: Final = 2.0


class Pyramid:
    """
    The decoded frames at the size that the largest target needs, then halved, quartered, and so on.

    Targets that share a decode are made from the smallest level that leaves HEADROOM to the filter. For a JPEG it is
    the level that has the size to which libjpeg would shrink for this target alone.
    """

    def __init__(self, source: Source, recipes: list[Recipe], limits: ProcessLimits) -> None:
        factor = min(recipe.factor for recipe in recipes)
        if source.drawing is not None:
            most_px = min(limits.source_pixels, source.drawing.most_px)
            factor = max(factor, (source.width_px * source.height_px / most_px) ** 0.5)
        selection = recipes[0].selection
        first, last = min(selection.order), max(selection.order)
        count = last - first + 1
        self._is_shared = len(recipes) > 1
        pages = decode(source, limits, factor=factor, page=first, count=count)
        if self._is_shared or selection.is_animated or any(recipe.is_read_twice for recipe in recipes):
            pages = pages.copy_memory()
        frames: tuple[Any, ...] = (pages,)
        self._jpeg_shrink = jpeg_shrink(factor) if source.kind is SourceKind.JPEG and source.can_shrink else None
        if self._jpeg_shrink is not None:  # libvips cuts off what is left of an odd side
            self._ratio = (1 / self._jpeg_shrink,) * 2
        else:
            width, height = pages.width, pages.height // count
            self._ratio = (width / source.width_px, height / source.height_px)
            if selection.is_animated:
                frames = tuple(pages.crop(0, (n - first) * height, width, height) for n in selection.order)
        self._options = shrink_options(source, factor)
        self._source = source
        self._levels: list[tuple[Any, ...]] = [frames]

    def choose_level(self, recipe: Recipe) -> Decoded:
        """Return the smallest frames that leave enough to the filter for this target."""
        halvings = self._count_halvings(recipe)
        while len(self._levels) <= halvings:
            self._levels.append(tuple(halve(frame) for frame in self._levels[-1]))
        across, down = self._ratio
        ratio = (across / 2**halvings, down / 2**halvings)
        return Decoded(self._levels[halvings], recipe.upright, recipe.orientation, ratio)

    def name_shared_decode(self, recipe: Recipe) -> str:
        """Return `Rendered.shared_decode` of this target."""
        if not self._is_shared:
            return ""
        halvings = self._count_halvings(recipe)
        if halvings == 0 and shrink_options(self._source, recipe.factor) == self._options:
            return ""
        return f"{self._levels[0][0].width}-{halvings}"

    def _count_halvings(self, recipe: Recipe) -> int:
        """Count how often the frames are halved for a target. They are not, if it is the only one."""
        if not self._is_shared or recipe.geometry is None:
            return 0
        if self._jpeg_shrink is not None:
            return (jpeg_shrink(recipe.factor) // self._jpeg_shrink).bit_length() - 1
        left = recipe.factor * min(self._ratio)
        return max(1, int(left / HEADROOM)).bit_length() - 1
