"""
A job, from its file to its variants: open, decode as seldom as possible, run the steps, encode, write.

Runs inside a render process. What each target needs is decided first (pure, from the header); targets that can be
made from the same pixels are made from one decode.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage
from imgproxy.params.plan import Adjust, Format, RenderPlan
from imgproxy.render import formats, trim
from imgproxy.render import output as finish
from imgproxy.render import source as load
from imgproxy.render.draft import Work
from imgproxy.render.frames import select_frames, select_page
from imgproxy.render.geometry import Geometry, find_region, place, trim_region, upright_size
from imgproxy.render.orientation import turn_upright
from imgproxy.render.pyramid import Levels
from imgproxy.render.recipe import Aim
from imgproxy.render.scaling import crop
from imgproxy.render.sizes import Box
from imgproxy.render.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.draft import Decoded
    from imgproxy.render.sizes import Size
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob, RenderTarget, SourceFacts

# A site asks for the same few plans, of pictures in the same few sizes.
DECISIONS_REMEMBERED: Final = 512


def run(job: RenderJob, limits: ProcessLimits, on_done: Callable[[int, Rendered], None]) -> tuple[float, SourceFacts]:
    """
    Make every target of a job, calling `on_done` as each file is whole.

    Returns the seconds until the header was read and checked, and the source's facts.

    Raises NotAnImage, DecodeFailed, TooManyPixels; OSError where a file cannot be written.
    """
    started = time.perf_counter()
    try:
        source = load.open_source(job.original, limits, lambda stored: _foresee(job, stored, limits))
        aims = [_aim(index, target, source, limits) for index, target in enumerate(job.targets)]
        opened_s = time.perf_counter() - started
        for group in _groups(aims):
            _make_group(group, source, job, limits, on_done)
    except pyvips.Error as exc:
        # HEIC is HEVC inside, whose decoder is not free and not in every libvips: the file is whole, we cannot read it.
        raise (NotAnImage if "nsupported codec" in str(exc) else DecodeFailed) from exc
    return opened_s, source.facts()


# --- what each target needs ---------------------------------------------------------------------------------


def _aim(index: int, target: RenderTarget, source: Source, limits: ProcessLimits) -> Aim:
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
        selection = select_page(source.pages, plan.frames)
    orientation = plan.orient or source.orientation
    upright = upright_size(source.width_px, source.height_px, orientation)
    geometry = None if plan.trim else _geometry(plan, upright, limits.output_px)
    return Aim(index, target, selection, animated, orientation, upright, geometry)


def _foresee(job: RenderJob, stored: Size, limits: ProcessLimits) -> float | None:
    """The factor of the decode, if the source is an upright still of this size; None where nothing will be decoded."""
    factors = [
        _geometry(plan, upright_size(stored.width_px, stored.height_px, plan.orient or 1), limits.output_px).factor
        for plan in (target.plan for target in job.targets)
        if plan.trim is None and plan.output.format is not Format.JSON
    ]
    return min(factors, default=None)


@lru_cache(DECISIONS_REMEMBERED)
def _geometry(plan: RenderPlan, upright: Size, max_side_px: int) -> Geometry:
    return place(find_region(upright, plan.rect), plan, max_side_px=max_side_px)


def _groups(aims: list[Aim]) -> list[list[Aim]]:
    """Targets that can share one decode, the largest first: same frames, both trimmed or both not."""
    groups: dict[tuple[tuple[int, ...], bool], list[Aim]] = {}
    for aim in sorted(aims, key=lambda aim: aim.factor):
        groups.setdefault((aim.selection.order, aim.geometry is None), []).append(aim)
    return list(groups.values())


# --- decode -------------------------------------------------------------------------------------------------


def _make_group(
    group: list[Aim],
    source: Source,
    job: RenderJob,
    limits: ProcessLimits,
    on_done: Callable[[int, Rendered], None],
) -> None:
    described = [aim for aim in group if aim.plan.output.format is Format.JSON]
    for aim in described:
        on_done(aim.index, finish.write_info(aim, source))
    pictured = [aim for aim in group if aim.plan.output.format is not Format.JSON]
    if source.drawing is not None:
        for aim in [aim for aim in pictured if _stays_drawing(aim.plan)]:
            pictured.remove(aim)
            on_done(aim.index, finish.write_drawing(aim, source.drawing))
    if not pictured:
        return
    levels = Levels(source, pictured, limits)
    marks = {mark.source: mark.path for mark in job.marks}
    for aim in pictured:
        rendered = _make(aim, levels, source, marks, limits)
        name = levels.name_of(aim)
        on_done(aim.index, replace(rendered, shared_decode=name) if name else rendered)


# --- one target ---------------------------------------------------------------------------------------------


def _make(aim: Aim, levels: Levels, source: Source, marks: dict[str, str], limits: ProcessLimits) -> Rendered:
    decoded = levels.decoded_for(aim)
    geometry = aim.geometry or _trimmed(aim, decoded, limits)
    work = Work(
        source=source,
        decoded=decoded,
        plan=aim.plan,
        geometry=geometry,
        limits=limits,
        marks=marks,
        is_in_memory=source.has_alpha or _needs_memory(aim.plan, geometry),
    )
    for step in STEPS:
        work = step(work)
    return finish.write_picture(aim, work)


def _needs_memory(plan: RenderPlan, geometry: Geometry) -> bool:
    """Whether anything after scaling reads pixels twice or in another order than top to bottom; so does any alpha."""
    return geometry.smart is not None or geometry.canvas is not None or not _is_plain(plan)


@lru_cache(DECISIONS_REMEMBERED)
def _is_plain(plan: RenderPlan) -> bool:
    """Whether nothing is to be done but to scale."""
    return (
        plan.flip == ""
        and not plan.rotation
        and plan.adjust == Adjust()
        and all(layer is None for layer in (plan.blend, plan.mark, plan.border, plan.mask))
        and plan.output.format not in formats.DESCRIPTIONS
    )


def _trimmed(aim: Aim, decoded: Decoded, limits: ProcessLimits) -> Geometry:
    """Find the uniform edges of the region in the decoded pixels, and place what is left."""
    assert aim.plan.trim is not None
    region = find_region(aim.upright, aim.plan.rect)
    image = crop(turn_upright(decoded.frames[0], aim.orientation), region)
    found = trim.find(image, aim.plan.trim)
    if found is not None:
        found = Box(region.left_px + found.left_px, region.top_px + found.top_px, found.width_px, found.height_px)
    region = trim_region(region, found, pad_px=aim.plan.trim.pad_px)
    return place(region, aim.plan, max_side_px=limits.output_px)


def _stays_drawing(plan: RenderPlan) -> bool:
    """Whether an SVG may leave as one: its format and its pixels are left to it, a size alone asks for no raster."""
    resize = plan.resize
    is_sized_only = plan == RenderPlan(resize=resize, output=plan.output, frames=plan.frames)
    is_whole = resize.aspect is None and not resize.crop and resize.fit.value in ("clip", "max")
    is_format_free = plan.output.format is Format.SOURCE or plan.output.is_negotiated
    return is_format_free and is_sized_only and is_whole
