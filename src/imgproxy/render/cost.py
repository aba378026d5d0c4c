"""
What a render is expected to cost, before it is admitted: megapixels of the source times a weight of the format.

The weights are ratios of encoding and decoding times measured side by side (benchmarks/results/encoders.md); how many
seconds one unit takes is learnt from the jobs that end, so a slower machine, or a busier one, admits less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from imgproxy.params.plan import Format

if TYPE_CHECKING:
    from imgproxy.render.job import RenderJob, SourceFacts

# Relative to decoding a JPEG with shrink-on-load and encoding a JPEG of usual size.
_FORMAT_WEIGHT: Final = {
    Format.JPEG: 1.0,
    Format.SOURCE: 1.0,
    Format.COMPRESSED: 1.0,
    Format.WEBP: 1.5,
    Format.PNG: 2.0,
    Format.PNG8: 4.0,
    Format.COMPRESSED8: 4.0,
    Format.GIF: 4.0,
    Format.AVIF: 8.0,
}
# A decode is shared by the targets of a job; each further target costs its encoding, about half of the whole.
_FURTHER_TARGET: Final = 0.5
# A photograph has about this many pixels a byte as JPEG; used until a header has been read.
_PIXELS_A_BYTE: Final = 4.0
_LEAST_MEGAPIXELS: Final = 0.25
_FIRST_GUESS_S: Final = 0.01
_LEARNING_RATE: Final = 0.1
# Sizes of sources, for the cost of their next job.
_SIZES_REMEMBERED: Final = 50_000


def units(job: RenderJob, megapixels: float) -> float:
    """The cost of a job on a source of this size, in units of one megapixel to JPEG."""
    weights = [_FORMAT_WEIGHT.get(target.plan.output.format, 1.0) for target in job.targets]
    dearest = max(weights, default=0.0)
    shared = dearest + _FURTHER_TARGET * (sum(weights) - dearest)
    return max(megapixels, _LEAST_MEGAPIXELS) * shared


def megapixels_of(source: SourceFacts) -> float:
    """All frames of a source."""
    return source.width_px * source.height_px * source.frames / 1e6


def guessed_megapixels(source_bytes: int) -> float:
    """What a source of this many bytes may have."""
    return source_bytes * _PIXELS_A_BYTE / 1e6


class CostModel:
    """Seconds a unit takes here and now."""

    def __init__(self) -> None:
        self._seconds_a_unit = _FIRST_GUESS_S
        self._megapixels: LRUCache[str, float] = LRUCache(_SIZES_REMEMBERED)
        # What a job takes one process, of whatever size.
        self.mean_job_s = 0.1

    def units_of(self, job: RenderJob) -> float:
        """The cost of a job; the size of its source is as an earlier job found it, or as its bytes suggest."""
        known = self._megapixels.get(job.original)
        if known is None:
            known = guessed_megapixels(job.original_bytes)
        return units(job, known)

    def job_ended(self, job: RenderJob, source: SourceFacts, seconds: float) -> None:
        """A job on this source took one process this long."""
        self.mean_job_s += _LEARNING_RATE * (seconds - self.mean_job_s)
        self._megapixels[job.original] = megapixels = megapixels_of(source)
        self.learn(units(job, megapixels), seconds)

    def seconds(self, cost_units: float) -> float:
        """The time this much work is expected to take one process."""
        return cost_units * self._seconds_a_unit

    def learn(self, cost_units: float, seconds: float) -> None:
        """A job of this cost took one process this long."""
        if cost_units > 0:
            self._seconds_a_unit += _LEARNING_RATE * (seconds / cost_units - self._seconds_a_unit)
