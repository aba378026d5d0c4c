"""The statistics of the benchmarks, as pure functions. Samples are floats and never NaN."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and how far the rounds are from it."""

    median: float
    mad: float  # median absolute deviation from the median
    least: float
    most: float
    count: int

    @property
    def relative_mad(self) -> float:
        """Return the deviation as a share of the median; 0 if the median is 0."""
        return self.mad / abs(self.median) if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return median, median absolute deviation, least and most. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    median = statistics.median(values)
    mad = statistics.median(abs(value - median) for value in values)
    return Spread(median, mad, min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """
    Return the nearest-rank percentile: the least value that at least `percent` of the values do not exceed.

    It is always one of the values, so a p99 is a measured latency. Raises ValueError for no values.
    Source: R. J. Hyndman, Y. Fan: Sample Quantiles in Statistical Packages (1996), definition 1.
    """
    if not values:
        raise ValueError("no values")
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[min(rank, len(values)) - 1]


def between(values: Sequence[float]) -> list[float]:
    """
    Return the mean of each value and the next: the reference for what ran between the two.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("fewer than two values")
    return [(before + after) / 2 for before, after in itertools.pairwise(values)]


def paired_ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """
    Return value/reference round by round: both of a round ran under the same conditions of the machine.

    Raises ValueError if the numbers of rounds differ, or a reference is 0.
    """
    if len(values) != len(references):
        raise ValueError(f"{len(values)} rounds against {len(references)}")
    if any(reference == 0 for reference in references):
        raise ValueError("a reference is 0")
    return [value / reference for value, reference in zip(values, references, strict=True)]
