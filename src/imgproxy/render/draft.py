"""The state of a render between two steps: the decoded frames, and the unfinished variant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgproxy.render.orientation import is_swapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imgproxy.params.plan import RenderPlan
    from imgproxy.render.geometry import Geometry
    from imgproxy.render.sizes import Size
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits


@dataclass(frozen=True, slots=True)
class Decoded:
    """
    The decoded frames of a source, as stored, perhaps shrunk on load.

    `upright` is the full size of the source after its `orientation`. `ratio` is decoded pixels per source pixel, across
    and down, of the stored picture.
    """

    frames: tuple[Any, ...]
    upright: Size
    orientation: int
    ratio: tuple[float, float]

    @property
    def upright_ratio(self) -> tuple[float, float]:
        """`ratio` of the upright picture."""
        return self.ratio[::-1] if is_swapped(self.orientation) else self.ratio


@dataclass(frozen=True, slots=True)
class Draft:
    """
    A variant that is not finished.

    `frames` are its pictures after the last step: H x W x {1, 2, 3, 4} uchar, upright. From the colour step on they are
    sRGB or grey, with or without alpha. A still has one frame. libvips is lazy: most frames are instructions that have
    not run yet. `is_in_memory` says that their pixels can be read in any order.
    """

    source: Source
    decoded: Decoded
    plan: RenderPlan
    geometry: Geometry
    limits: ProcessLimits
    marks: Mapping[str, str]
    is_in_memory: bool
    frames: tuple[Any, ...] = ()
    profile: bytes | None = None
    is_mark_missing: bool = False

    def change_frames(self, change: Callable[[Any], Any]) -> Draft:
        """Change every frame in the same way."""
        return replace(self, frames=tuple(change(frame) for frame in self.frames))

    @property
    def first(self) -> Any:
        """The first frame. Decisions for all frames are made on it."""
        return self.frames[0]
