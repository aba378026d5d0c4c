"""
What a render is expected to cost, before it is admitted: reading the original, and encoding each result by its size.

A unit is a millisecond of CPU on the machine where the weights were measured side by side; how many seconds one takes
is learnt from the jobs that end, so a slower machine, or a busier one, admits less. The weights are of `pipeline.run`
on photos, a cut-out and an animation at 150-1200 px: what they give is within a factor of two of what was measured.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from imgproxy.params.plan import Format, Px

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.params.plan import RenderPlan, Resize
    from imgproxy.workers.job import RenderJob, SourceFacts

# A still is read in the time that its bytes take (a JPEG of 8 MB and 24 MP in 100 ms, one of 0.8 MB and 6 MP in 12, a
# PNG of 3.6 MB in 44); the frames of an animation hardly have any, and are each read and scaled at their full size.
_READ_A_MEGABYTE: Final = 10.0
_READ_A_MEGAPIXEL: Final = 1.0
_READ_A_MEGAPIXEL_OF_FRAMES: Final = 40.0
# To scale and encode a megapixel, see also benchmarks/results/encoders.md. AVIF: 100, but 330 for the small ones.
_ENCODE_A_MEGAPIXEL: Final = {
    Format.JPEG: 40.0,
    Format.SOURCE: 40.0,
    Format.COMPRESSED: 40.0,
    Format.WEBP: 65.0,
    Format.AVIF: 150.0,
    Format.PNG: 150.0,
    Format.PNG8: 500.0,
    Format.COMPRESSED8: 500.0,
    Format.GIF: 550.0,
}
_AS_THE_SOURCE: Final = frozenset({Format.SOURCE, Format.COMPRESSED})
_DESCRIBE_A_MEGAPIXEL: Final = 20.0
# A variant is reduced for at most this part of what the render from the original costs: for more, little would be won.
# So of photos of 24 megapixels (0.2-0.5), not of 6 (0.7-1.4).
REDUCTION_SHARE_MAX: Final = 0.5
# To decode a megapixel of a variant and to scale it: it is no more than four times as wide as what is made of it, and
# mostly less than twice, where no loader shrinks.
_REDUCE_A_MEGAPIXEL: Final = {"image/jpeg": 12.0, "image/webp": 30.0, "image/avif": 25.0, "image/png": 15.0}
_LEAST: Final = 1.0  # a job of next to nothing
# A photograph has about this many pixels a byte as JPEG; used until a header has been read.
_PIXELS_A_BYTE: Final = 4.0
# Of a plan that names one side: photos are 4:3, or 3:4.
_HEIGHT_A_WIDTH: Final = 0.75
# Large jobs say more of the machine than small ones, and count for more: about the last thirty of a kind.
_LEARNING_RATE: Final = 0.03
_JOB_LEARNING_RATE: Final = 0.1
_FIRST_GUESS_S: Final = 0.001
# Sources, for the cost of their next job, and plans.
_SIZES_REMEMBERED: Final = 50_000
_PLANS_REMEMBERED: Final = 2_048


def units(job: RenderJob, source: SourceFacts | None) -> float:
    """The cost of a job; `source` is what an earlier one found its original to be, if there was one."""
    return _units(job.original_bytes, [target.plan for target in job.targets], source)


def _units(original_bytes: int, plans: Sequence[RenderPlan], source: SourceFacts | None) -> float:
    megabytes = original_bytes / 1e6
    frames, frame_megapixels = 1, megabytes * _PIXELS_A_BYTE
    if source is not None:
        frames, frame_megapixels = source.frames, source.width_px * source.height_px / 1e6
    read = megabytes * _READ_A_MEGABYTE
    read += frames * frame_megapixels * (_READ_A_MEGAPIXEL_OF_FRAMES if frames > 1 else _READ_A_MEGAPIXEL)
    return _LEAST + read + frames * sum(_encoding(plan, frame_megapixels) for plan in plans)


def reduction_units(content_type: str, pixels: int, plan: RenderPlan) -> float | None:
    """
    The cost of making this plan, which names a width, from a variant that is there; None for what is not reduced.

    From one of 1200 px a JPEG of 800 takes 34 units where one from the original takes 130 if that has 24 megapixels,
    and 33 if it has 6, as JPEGs shrink while they are decoded.
    """
    weight = _REDUCE_A_MEGAPIXEL.get(content_type)
    if weight is None:
        return None
    if plan.output.format in _AS_THE_SOURCE:
        plan = replace(plan, output=replace(plan.output, format=Format(content_type.removeprefix("image/"))))
    return _LEAST + weight * pixels / 1e6 + _encoding(plan, pixels / 1e6)


def _encoding(plan: RenderPlan, source_megapixels: float) -> float:
    asked, weight = _asked(plan)
    return weight * (source_megapixels if asked is None else asked)


@lru_cache(_PLANS_REMEMBERED)
def _asked(plan: RenderPlan) -> tuple[float | None, float]:
    """The megapixels that a plan asks for, None for as many as the source has, and what one of them costs."""
    if plan.output.format is Format.JSON:
        return 0.0, 0.0
    return _megapixels(plan.resize), _ENCODE_A_MEGAPIXEL.get(plan.output.format, _DESCRIBE_A_MEGAPIXEL)


def _megapixels(resize: Resize) -> float | None:
    width_px = resize.width.value if isinstance(resize.width, Px) else None
    height_px = resize.height.value if isinstance(resize.height, Px) else None
    if width_px is not None and height_px is not None:
        return width_px * height_px / 1e6
    if width_px is not None:
        return width_px * width_px * (1 / resize.aspect if resize.aspect else _HEIGHT_A_WIDTH) / 1e6
    if height_px is not None:
        return height_px * height_px * (resize.aspect or 1 / _HEIGHT_A_WIDTH) / 1e6
    return None


class CostModel:
    """Seconds a unit takes here and now."""

    def __init__(self) -> None:
        # Of the last jobs, on average. Both are kept, not their ratio job by job: small jobs, whose cost is the least
        # certain, would have as much to say as large ones, and a large one would then be thought to take minutes.
        self._seconds = _FIRST_GUESS_S
        self._units = 1.0
        self._sources: LRUCache[str, SourceFacts] = LRUCache(_SIZES_REMEMBERED)
        # What a job takes one process, of whatever size.
        self.mean_job_s = 0.1

    def units_of(self, job: RenderJob) -> float:
        """The cost of a job; its source is as an earlier job found it, or as its bytes suggest."""
        return units(job, self._sources.get(job.name or job.original))

    def worth_units(self, plan: RenderPlan, original_bytes: int, name: str, *, within_s: float) -> float:
        """What it may cost at most to reduce a variant in place of this render, and to be done within this time."""
        whole = _units(original_bytes, [plan], self._sources.get(name))
        return min(REDUCTION_SHARE_MAX * whole, within_s * self._units / self._seconds)

    def job_ended(self, job: RenderJob, source: SourceFacts, seconds: float) -> None:
        """A job on this source took one process this long."""
        self.mean_job_s += _JOB_LEARNING_RATE * (seconds - self.mean_job_s)
        self._sources[job.name or job.original] = source
        self._seconds += _LEARNING_RATE * (seconds - self._seconds)
        self._units += _LEARNING_RATE * (units(job, source) - self._units)

    def seconds(self, cost_units: float) -> float:
        """The time this much work is expected to take one process."""
        return cost_units * self._seconds / self._units
