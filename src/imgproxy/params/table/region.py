"""Crop."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter
from imgproxy.params.plan import Crop

RECT: Final = Parameter(
    "rect",
    lengths.RECT,
    "Use only this region of the upright source; everything else is relative to it.",
)
CROP: Final = Parameter(
    "crop",
    kinds.choices({mode.value: mode for mode in Crop}),
    "With `fit=crop` or `fit=min`: what stays. The first that applies wins; edges combine (`top,left`).",
    "center",
)
FP_X: Final = Parameter("fp-x", kinds.number(0, 1), "Focal point from the left.", "0.5")
FP_Y: Final = Parameter("fp-y", kinds.number(0, 1), "Focal point from the top.", "0.5")
FP_Z: Final = Parameter("fp-z", kinds.number(1, 100), "Zoom on the focal point.", "1")
FACEINDEX: Final = Parameter(
    "faceindex",
    kinds.integer(1, 100),
    "The face that `fit=facearea` and `crop=faces` keep, the largest is 1. Without such a face: all.",
    "all",
)
FACEPAD: Final = Parameter(
    "facepad", kinds.number(1, 10), "With `fit=facearea`: by how much the area of a face is enlarged.", "1"
)
