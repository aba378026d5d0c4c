"""
What `q` means: in every format the picture is as near to its original as a JPEG of that `q`.

imgix hands the same number to each encoder; but 75 is a fine JPEG, a poor WebP and a needlessly good AVIF. The table
was measured by `benchmarks/encoders.py`: for each JPEG quality, the setting at which another encoder has the same
DSSIM, as a mean over the photos (benchmarks/results/encoders.md, "Equal quality").
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from imgproxy.params.plan import Format

#   q of JPEG: WebP, AVIF
EQUAL: Final = (
    (0, 1, 3),
    (10, 2, 5),
    (20, 12, 25),
    (30, 26, 36),
    (40, 39, 42),
    (45, 44, 45),
    (50, 50, 47),
    (60, 63, 51),
    (70, 76, 57),
    (75, 79, 61),
    (80, 83, 66),
    (85, 86, 71),
    (90, 90, 80),
    (95, 95, 89),
    (100, 100, 97),
)

_COLUMN: Final = {Format.WEBP: 1, Format.AVIF: 2}


def encoder_quality(q: int, wanted: Format) -> int:
    """Return the encoder's own number (1-100) for a `q` of 0-100; between the measured points it is linear."""
    q = min(100, max(0, q))
    column = _COLUMN.get(wanted)
    if column is None:
        return max(1, q)
    above = min(bisect_right(EQUAL, q, key=lambda row: row[0]), len(EQUAL) - 1)
    low, high = EQUAL[above - 1], EQUAL[above]
    share = (q - low[0]) / (high[0] - low[0])
    return round(low[column] + (high[column] - low[column]) * share)
