"""Orientation."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter

ORIENT: Final = Parameter(
    "orient",
    lengths.ORIENTATION,
    "Orient by this EXIF value, or turn by these degrees, instead of what the file says; 0 leaves it as stored.",
    "from the file",
    ("or",),
)
FLIP: Final = Parameter(
    "flip",
    kinds.choice({"h": "h", "v": "v", "hv": "hv", "vh": "hv"}, "h, v or hv"),
    "Mirror left to right, top to bottom, or both.",
)
ROT: Final = Parameter("rot", kinds.DEGREES, "Turn counter-clockwise.", "0")
ROT_TYPE: Final = Parameter(
    "rot-type",
    kinds.choice(kinds.words(("straighten", "pivot"))),
    "`straighten` keeps the frame and zooms in until it is covered; `pivot` shows all of the picture on `bg`.",
    "straighten",
    ("rottype", "rott"),
)
