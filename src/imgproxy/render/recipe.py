"""A target of a job together with what its plan needs of the source: decided from the header, before any pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.params.plan import Format, RenderPlan
    from imgproxy.render.frames import Selection
    from imgproxy.render.geometry import Geometry
    from imgproxy.render.sizes import Size
    from imgproxy.workers.job import RenderTarget


@dataclass(frozen=True, slots=True)
class Aim:
    """
    One target. `animated` is the format in which an animation stays animated, None where a still is wanted.

    `geometry` is None while a trim has yet to be found in the pixels.
    """

    index: int
    target: RenderTarget
    selection: Selection
    animated: Format | None
    orientation: int
    upright: Size
    geometry: Geometry | None

    @property
    def plan(self) -> RenderPlan:
        """The target's plan."""
        return self.target.plan

    @property
    def is_read_twice(self) -> bool:
        """Whether the decoded pixels are looked at more than once: to find edges, or for a blurred backdrop."""
        canvas = self.geometry.canvas if self.geometry else None
        return self.geometry is None or (canvas is not None and canvas.backdrop is not None)

    @property
    def factor(self) -> float:
        """`Geometry.factor`; 1 while that is unknown."""
        return 1.0 if self.geometry is None else self.geometry.factor
