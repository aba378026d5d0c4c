"""Overlays."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter
from imgproxy.params.plan import Fit, Length

BLEND: Final = Parameter(
    "blend",
    kinds.no_url(kinds.COLOUR),
    "A colour blended over the picture. Pictures are not supported here.",
    "",
    ("b",),
)
BLEND_COLOUR: Final = Parameter(
    "blend-color",
    kinds.COLOUR,
    "The same, where `blend` has no colour.",
    "",
    ("blendcolor", "blend-clr", "blendclr"),
)
BLEND_MODES: Final = (
    "normal", "multiply", "screen", "darken", "lighten", "overlay", "softlight", "hardlight", "difference",
    "exclusion", "color", "hue", "saturation", "luminosity", "burn", "dodge",
)  # fmt: skip
BLEND_MODE: Final = Parameter(
    "blend-mode",
    kinds.choice(kinds.words(BLEND_MODES)),
    "How it is blended.",
    "overlay",
    ("bm", "blendmode"),
)
BLEND_ALPHA: Final = Parameter("blend-alpha", kinds.PERCENT, "Strength of `blend`.", "100", ("blendalpha", "balph"))
MARK: Final = Parameter("mark", kinds.no_url(kinds.text("a key of the library")), "A watermark.", "", ("m",))
MARK_BASE: Final = Parameter(
    "mark-base", kinds.no_url(kinds.text("a folder of keys")), "Put before `mark`.", "", ("markbase", "mb")
)
MARK_ALIGN: Final = Parameter(
    "mark-align",
    kinds.choices(
        kinds.words(("top", "middle", "bottom", "left", "center", "right")), "top|middle|bottom and left|center|right"
    ),
    "Where the watermark is.",
    "bottom,right",
    ("markalign", "ma"),
)
MARK_PAD: Final = Parameter("mark-pad", kinds.LENGTH, "Distance from the edges.", "5", ("markpad", "mp"))
MARK_X: Final = Parameter("mark-x", kinds.LENGTH, "From the left, instead of aligned.", "", ("markx", "mx"))
MARK_Y: Final = Parameter("mark-y", kinds.LENGTH, "From the top, instead of aligned.", "", ("marky", "my"))
MARK_W: Final[Parameter[Length]] = Parameter(
    "mark-w", lengths.SIZE, "Width; up to 1 a part of the picture's width.", "", ("markw", "mw")
)
MARK_H: Final[Parameter[Length]] = Parameter(
    "mark-h", lengths.SIZE, "Height; up to 1 a part of the picture's height.", "", ("markh", "mh")
)
MARK_SCALE: Final = Parameter(
    "mark-scale", kinds.PERCENT, "Width in per cent of the picture's width.", "", ("markscale", "ms")
)
MARK_FIT: Final = Parameter(
    "mark-fit",
    kinds.choice({mode.value: mode for mode in (Fit.CLIP, Fit.CROP, Fit.FILL, Fit.MAX, Fit.SCALE)}),
    "As `fit`, for the watermark.",
    "clip",
    ("markfit", "mf"),
)
MARK_ALPHA: Final = Parameter("mark-alpha", kinds.PERCENT, "Opacity.", "100", ("markalpha", "malph"))
MARK_ROT: Final = Parameter("mark-rot", kinds.DEGREES, "Turn the watermark counter-clockwise.", "0")
MARK_TILE: Final = Parameter(
    "mark-tile", kinds.choice({"grid": True}), "Repeat it over the picture.", "", ("marktile", "mtile")
)
MARK_IF_MIN_WIDTH: Final = Parameter("mark-if-min-width", kinds.LENGTH, "Only on pictures at least this wide.", "0")
MARK_IF_MIN_HEIGHT: Final = Parameter("mark-if-min-height", kinds.LENGTH, "Only on pictures at least this high.", "0")
