"""What the steps of a render hand on to each other: the plan, the geometry, and the frames as they are now."""

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

    `upright` is the size of the whole source at full size, after its `orientation`. `ratio` is how many stored pixels
    of the frames one stored pixel of the source became, across and down.
    """

    frames: tuple[Any, ...]
    upright: Size
    orientation: int
    ratio: tuple[float, float]

    @property
    def upright_ratio(self) -> tuple[float, float]:
        """The same for the upright picture."""
        return self.ratio[::-1] if is_swapped(self.orientation) else self.ratio


@dataclass(frozen=True, slots=True)
class Work:
    """
    A variant in the making.

    `frames` are the pictures so far: H x W x {1, 2, 3, 4} uchar, upright, from the colour step on sRGB or grey with
    or without alpha. A still has one. libvips is lazy, so most of them are instructions yet; `is_in_memory` says that
    their pixels may be read in any order.
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

    def each(self, change: Callable[[Any], Any]) -> Work:
        """Change every frame alike."""
        return replace(self, frames=tuple(change(frame) for frame in self.frames))

    @property
    def first(self) -> Any:
        """The frame that decisions are made on."""
        return self.frames[0]
