"""What the source's header decides about each variant of a job: frames, sizes, shared decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.render import formats
from imgproxy.render.face_windows import faces_in
from imgproxy.render.frames import select_frames, select_page
from imgproxy.render.geometry import find_region, place
from imgproxy.render.orientation import swap
from imgproxy.render.sizes import Size
from imgproxy.render.source import at_page

if TYPE_CHECKING:
    from imgproxy.params.plan import Format, RenderPlan
    from imgproxy.render.frames import Selection
    from imgproxy.render.geometry import Geometry
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits, RenderTarget


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    A target of the job, with the decisions that need only its plan and the source's header.

    `source` is the source at the page that the plan uses.
    `animated` is the format of an animation; None makes a still. `geometry` is None for a plan with a trim, which
    needs the pixels first.
    """

    index: int
    target: RenderTarget
    source: Source
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
    def is_first_frame_only(self) -> bool:
        """Whether the plan wants an animation, and gets one frame: a limit cut it, or the format has no animations."""
        return self.selection.is_cut and (self.animated is not None or self.plan.output.format in formats.OF_SOURCE)

    @property
    def is_read_twice(self) -> bool:
        """Whether the decoded pixels are read more than once: for a trim, or for a blurred backdrop."""
        canvas = self.geometry.canvas if self.geometry else None
        return self.geometry is None or (canvas is not None and canvas.backdrop is not None)

    @property
    def factor(self) -> float:
        """`Geometry.factor`; 1 while there is no geometry."""
        return 1.0 if self.geometry is None else self.geometry.factor


def write_recipe(index: int, target: RenderTarget, source: Source, limits: ProcessLimits) -> Recipe:
    """Decide what the target needs of the source. Raises DecodeFailed, TooManyPixels: see `source.at_page`."""
    plan = target.plan
    animated = formats.animated_format(plan.output.format, source.kind) if source.is_animation else None
    if source.is_animation:
        selection = select_frames(
            source.delays_ms,
            source.loop,
            plan.frames,
            frame_px=source.width_px * source.height_px,
            max_frames=limits.frames if animated else 1,
            max_pixels=limits.source_pixels,
        )
    else:
        selection = select_page(source.pages, plan.frames, source.primary)
        source = at_page(source, selection.order[0], limits)
    orientation = plan.orient or source.orientation
    upright = swap(Size(source.width_px, source.height_px), orientation)
    geometry = None
    if plan.trim is None:
        faces = faces_in(target.faces, upright)
        geometry = place(find_region(upright, plan.rect), plan, faces=faces, max_side_px=limits.output_px)
    return Recipe(index, target, source, selection, animated, orientation, upright, geometry)


def group_by_decode(recipes: list[Recipe]) -> list[list[Recipe]]:
    """Group the recipes that can share one decode, the largest first: same frames, and all with or all without trim."""
    groups: dict[tuple[tuple[int, ...], bool], list[Recipe]] = {}
    for recipe in sorted(recipes, key=lambda recipe: recipe.factor):
        groups.setdefault((recipe.selection.order, recipe.geometry is None), []).append(recipe)
    return list(groups.values())
