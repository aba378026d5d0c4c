"""
Runs a job: open the file, decode it as few times as possible, run the steps, encode, write.

What each target needs is decided first, from the header (`recipe`). Targets that can be made from the same pixels share
one decode (`pyramid`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage
from imgproxy.params.appearance import Adjust
from imgproxy.params.plan import Format, RenderPlan
from imgproxy.render import formats, output, trim
from imgproxy.render.draft import Draft
from imgproxy.render.face_windows import faces_in
from imgproxy.render.geometry import Geometry, find_region, place, trim_region
from imgproxy.render.orientation import turn_upright
from imgproxy.render.pyramid import Pyramid
from imgproxy.render.recipe import group_by_decode, write_recipe
from imgproxy.render.scaling import crop
from imgproxy.render.sizes import Box
from imgproxy.render.source import open_source, tolerate
from imgproxy.render.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.draft import Decoded
    from imgproxy.render.recipe import Recipe
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob


def run(job: RenderJob, limits: ProcessLimits, on_done: Callable[[int, Rendered], None]) -> None:
    """
    Make every target of a job. Call `on_done` with its index as soon as its file is complete.

    Raises NotAnImage, HeicNotInstalled, DecodeFailed, TooManyPixels; OSError if a file cannot be read or written.
    """
    try:
        source = open_source(job.original, limits)
        recipes = [write_recipe(index, target, source, limits) for index, target in enumerate(job.targets)]
        for group in group_by_decode(recipes):
            _make_group(group, job, limits, on_done)
    except pyvips.Error as exc:
        # An AVIF by its brand can hold a codec that libvips does not have: then the file is fine, but unreadable.
        raise (NotAnImage if "nsupported codec" in str(exc) else DecodeFailed) from exc


def _make_group(
    group: list[Recipe],
    job: RenderJob,
    limits: ProcessLimits,
    on_done: Callable[[int, Rendered], None],
) -> None:
    """Make the targets that share a decode. A target that needs no pixels is written first, without a decode."""
    pictured = []
    source = group[0].source
    for recipe in group:
        if recipe.plan.output.format is Format.JSON:
            on_done(recipe.index, output.write_info(recipe, source))
        elif source.drawing is not None and _stays_drawing(recipe.plan):
            on_done(recipe.index, output.write_drawing(recipe, source.drawing))
        else:
            pictured.append(recipe)
    done: set[int] = set()

    def note(index: int, rendered: Rendered) -> None:
        done.add(index)
        on_done(index, rendered)

    def make_the_rest(source: Source) -> None:
        _make_pictures([recipe for recipe in pictured if recipe.index not in done], source, job, limits, note)

    if pictured:
        tolerate(source, limits, make_the_rest)


def _make_pictures(
    pictured: list[Recipe],
    source: Source,
    job: RenderJob,
    limits: ProcessLimits,
    on_done: Callable[[int, Rendered], None],
) -> None:
    """Make the targets that share a decode."""
    pyramid = Pyramid(source, pictured, limits)
    marks = {mark.source: mark.path for mark in job.marks}
    for recipe in pictured:
        rendered = _make(recipe, pyramid.choose_level(recipe), source, marks, limits)
        on_done(recipe.index, replace(rendered, shared_decode=pyramid.name_shared_decode(recipe)))


def _make(recipe: Recipe, decoded: Decoded, source: Source, marks: dict[str, str], limits: ProcessLimits) -> Rendered:
    """Make one target: find its trim, run the steps, write the file."""
    geometry = recipe.geometry or _trim(recipe, decoded, limits)
    draft = Draft(
        source=source,
        decoded=decoded,
        plan=recipe.plan,
        geometry=geometry,
        limits=limits,
        marks=marks,
        is_in_memory=source.has_alpha or _needs_memory(recipe.plan, geometry),
    )
    for step in STEPS:
        draft = step(draft)
    return output.write_picture(recipe, draft)


def _needs_memory(plan: RenderPlan, geometry: Geometry) -> bool:
    """Whether a step after scaling reads pixels more than once, or not from top to bottom. Alpha always does."""
    is_only_scaled = (
        plan.flip == ""
        and not plan.rotation
        and plan.adjust == Adjust()
        and all(layer is None for layer in (plan.blend, plan.mark, plan.border, plan.mask))
        and plan.output.format not in formats.DESCRIPTIONS
    )
    return geometry.smart is not None or geometry.canvas is not None or not is_only_scaled


def _trim(recipe: Recipe, decoded: Decoded, limits: ProcessLimits) -> Geometry:
    """Find the uniform edges of the region in the decoded frames. Return the geometry of the rest."""
    assert recipe.plan.trim is not None
    region = find_region(recipe.upright, recipe.plan.rect)
    frames = [crop(turn_upright(frame, recipe.orientation), region) for frame in decoded.frames]
    found = trim.find(frames, recipe.plan.trim)
    if found is not None:
        found = Box(region.left_px + found.left_px, region.top_px + found.top_px, found.width_px, found.height_px)
    region = trim_region(region, found, pad_px=recipe.plan.trim.pad_px)
    faces = faces_in(recipe.target.faces, recipe.upright)
    return place(region, recipe.plan, faces=faces, max_side_px=limits.output_px)


def _stays_drawing(plan: RenderPlan) -> bool:
    """Whether an SVG is sent as an SVG: the plan names no raster format, and changes only the size."""
    resize = plan.resize
    is_sized_only = plan == RenderPlan(resize=resize, output=plan.output, frames=plan.frames)
    is_cut = resize.crop or resize.faces is not None
    is_whole = resize.aspect is None and not is_cut and resize.fit.value in ("clip", "max")
    is_format_free = plan.output.format is Format.SOURCE or plan.output.is_negotiated
    return is_format_free and is_sized_only and is_whole
