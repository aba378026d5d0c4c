"""Size."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter
from imgproxy.params.plan import Fit, Length

_BOUND: Final = kinds.integer(1, 8192, below_is_absent=True)

W: Final[Parameter[Length]] = Parameter(
    "w", lengths.SIZE, "Width: pixels, or up to 1 a part of the source's width (after `rect`).", "", ("width",)
)
H: Final[Parameter[Length]] = Parameter("h", lengths.SIZE, "Height, as `w`.", "", ("height",))
AR: Final = Parameter(
    "ar", lengths.ASPECT, "Aspect ratio, with `fit=crop` or `fit=fill`, unless `w` and `h` are given."
)
DPR: Final = Parameter(
    "dpr",
    lengths.PIXEL_RATIO,
    "Device pixels per CSS pixel: multiplies `w`, `h` and every length on the output, where `w` or `h` is given.",
    "1",
)
FIT: Final = Parameter(
    "fit",
    kinds.choices(
        {mode.value: mode for mode in Fit} | {"facearea": "facearea"},
        "one of clip, max, crop, min, scale, fill, fillmax, clamp, facearea",
        is_mostly_one=True,
    ),
    "How the source meets the requested box. `facearea`: the faces; without one the mode listed after it, else `crop`.",
    "clip",
    ("f",),
)
MAX_W: Final = Parameter(
    "max-w", _BOUND, "With `fit=crop`: the width is at most this; the height stays.", "", ("max-width",)
)
MAX_H: Final = Parameter("max-h", _BOUND, "As `max-w`, for the height.", "", ("max-height",))
MIN_W: Final = Parameter(
    "min-w", _BOUND, "With `fit=crop`: the width is at least this; wins over `max-w`.", "", ("min-width",)
)
MIN_H: Final = Parameter("min-h", _BOUND, "As `min-w`, for the height.", "", ("min-height",))
FILL: Final = Parameter(
    "fill",
    kinds.choice({"solid": "solid", "blur": "blur", "gradient": "solid", "gen": "solid"}, "solid or blur"),
    "With `fit=fill` or `fillmax`: the free area is a colour, or the picture itself, enlarged and blurred.",
    "solid",
)
FILL_COLOUR: Final = Parameter("fill-color", kinds.COLOUR, "Colour of `fill=solid`.", "`bg`", ("fillcolor",))
