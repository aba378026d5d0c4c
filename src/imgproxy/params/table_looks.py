"""Parameters that change the picture's tone, and those that lay something over it."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds
from imgproxy.params.parameter import ANGLE, COLOR, FLAG, LENGTH, PERCENT, SIGNED_PERCENT, SIZE, Parameter
from imgproxy.params.plan import Fit, Length

_length = kinds.integer(0, 8192)
_percent = kinds.number(0, 100)
_signed_percent = kinds.number(-100, 100)

# --- tone and style ------------------------------------------------------------------------------------------------

BRI: Final = Parameter("bri", _signed_percent, SIGNED_PERCENT, "Brightness.", "0")
CON: Final = Parameter("con", _signed_percent, SIGNED_PERCENT, "Contrast.", "0")
EXP: Final = Parameter("exp", _signed_percent, SIGNED_PERCENT, "Exposure, in linear light: 20 doubles it.", "0")
GAM: Final = Parameter("gam", _signed_percent, SIGNED_PERCENT, "Gamma; above 0 brightens the middle.", "0")
HUE: Final = Parameter("hue", kinds.degrees, ANGLE, "Turn every hue.", "0")
SAT: Final = Parameter("sat", _signed_percent, SIGNED_PERCENT, "Saturation; -100 is grey.", "0")
VIB: Final = Parameter("vib", _signed_percent, SIGNED_PERCENT, "Saturation of what is not saturated yet.", "0")
HIGH: Final = Parameter("high", kinds.number(-100, 0), "a number from -100 to 0", "Darken the highlights.", "0")
SHAD: Final = Parameter("shad", _percent, PERCENT, "Lift the shadows.", "0")
SHARP: Final = Parameter("sharp", _percent, PERCENT, "Sharpen.", "0")
USM: Final = Parameter("usm", _signed_percent, SIGNED_PERCENT, "Unsharp mask; below 0 softens.", "0")
USMRAD: Final = Parameter("usmrad", kinds.number(0, 500), "a number from 0 to 500", "Radius of `usm`.", "2.5")
BLUR: Final = Parameter("blur", kinds.number(0, 2000), "a number from 0 to 2000", "Gaussian blur.", "0")
PX: Final = Parameter("px", kinds.integer(0, 100), "a whole number from 0 to 100", "Pixel blocks of this side.", "0")
MONOCHROME: Final = Parameter(
    "monochrome",
    kinds.color,
    COLOR,
    "Tint from black to white through a colour; its alpha is the strength.",
    "",
    ("mono",),
)
SEPIA: Final = Parameter("sepia", _percent, PERCENT, "Strength of a sepia tone.", "0")
DUOTONE: Final = Parameter("duotone", kinds.two_colors, "two colours: dark,light", "Map dark and light to two colours.")
DUOTONE_ALPHA: Final = Parameter("duotone-alpha", _percent, PERCENT, "Strength of `duotone`.", "100")
INVERT: Final = Parameter("invert", kinds.flag, FLAG, "Negative.", "false", ("inv",))

# --- overlays ------------------------------------------------------------------------------------------------------

BLEND: Final = Parameter(
    "blend",
    kinds.no_url(kinds.color),
    COLOR,
    "A colour blended over the picture. Pictures are not supported here.",
    "",
    ("b",),
)
BLEND_COLOR: Final = Parameter(
    "blend-color",
    kinds.color,
    COLOR,
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
    kinds.choice({mode: mode for mode in BLEND_MODES}),
    f"one of {', '.join(BLEND_MODES)}",
    "How it is blended.",
    "overlay",
    ("bm", "blendmode"),
)
BLEND_ALPHA: Final = Parameter("blend-alpha", _percent, PERCENT, "Strength of `blend`.", "100", ("blendalpha", "balph"))
MARK: Final = Parameter(
    "mark",
    kinds.no_url(kinds.words),
    "a key of the library",
    "A watermark.",
    "",
    ("m",),
)
MARK_BASE: Final = Parameter(
    "mark-base", kinds.no_url(kinds.words), "a folder of keys", "Put before `mark`.", "", ("markbase", "mb")
)
MARK_ALIGN: Final = Parameter(
    "mark-align",
    kinds.choices({word: word for word in ("top", "middle", "bottom", "left", "center", "right")}),
    "top|middle|bottom and left|center|right",
    "Where the watermark is.",
    "bottom,right",
    ("markalign", "ma"),
)
MARK_PAD: Final = Parameter("mark-pad", _length, LENGTH, "Distance from the edges.", "5", ("markpad", "mp"))
MARK_X: Final = Parameter("mark-x", _length, LENGTH, "From the left, instead of aligned.", "", ("markx", "mx"))
MARK_Y: Final = Parameter("mark-y", _length, LENGTH, "From the top, instead of aligned.", "", ("marky", "my"))
MARK_W: Final[Parameter[Length]] = Parameter(
    "mark-w", kinds.size, SIZE, "Width; up to 1 a part of the picture's width.", "", ("markw", "mw")
)
MARK_H: Final[Parameter[Length]] = Parameter(
    "mark-h", kinds.size, SIZE, "Height; up to 1 a part of the picture's height.", "", ("markh", "mh")
)
MARK_SCALE: Final = Parameter(
    "mark-scale", _percent, PERCENT, "Width in per cent of the picture's width.", "", ("markscale", "ms")
)
MARK_FIT: Final = Parameter(
    "mark-fit",
    kinds.choice({mode.value: mode for mode in (Fit.CLIP, Fit.CROP, Fit.FILL, Fit.MAX, Fit.SCALE)}),
    "clip, crop, fill, max or scale",
    "As `fit`, for the watermark.",
    "clip",
    ("markfit", "mf"),
)
MARK_ALPHA: Final = Parameter("mark-alpha", _percent, PERCENT, "Opacity.", "100", ("markalpha", "malph"))
MARK_ROT: Final = Parameter("mark-rot", kinds.degrees, ANGLE, "Turn the watermark counter-clockwise.", "0")
MARK_TILE: Final = Parameter(
    "mark-tile", kinds.choice({"grid": True}), "grid", "Repeat it over the picture.", "", ("marktile", "mtile")
)
MARK_IF_MIN_WIDTH: Final = Parameter("mark-if-min-width", _length, LENGTH, "Only on pictures at least this wide.", "0")
MARK_IF_MIN_HEIGHT: Final = Parameter(
    "mark-if-min-height", _length, LENGTH, "Only on pictures at least this high.", "0"
)
