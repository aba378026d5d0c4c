"""Tone and style."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter

BRI: Final = Parameter("bri", kinds.SIGNED_PERCENT, "Brightness.", "0")
CON: Final = Parameter("con", kinds.SIGNED_PERCENT, "Contrast.", "0")
EXP: Final = Parameter("exp", kinds.SIGNED_PERCENT, "Exposure, in linear light: 20 doubles it.", "0")
GAM: Final = Parameter("gam", kinds.SIGNED_PERCENT, "Gamma; above 0 brightens the middle.", "0")
HUE: Final = Parameter("hue", kinds.DEGREES, "Turn every hue.", "0")
SAT: Final = Parameter("sat", kinds.SIGNED_PERCENT, "Saturation; -100 is grey.", "0")
VIB: Final = Parameter("vib", kinds.SIGNED_PERCENT, "Saturation of what is not saturated yet.", "0")
HIGH: Final = Parameter("high", kinds.number(-100, 0), "Darken the highlights.", "0")
SHAD: Final = Parameter("shad", kinds.PERCENT, "Lift the shadows.", "0")
SHARP: Final = Parameter("sharp", kinds.PERCENT, "Sharpen.", "0")
USM: Final = Parameter("usm", kinds.SIGNED_PERCENT, "Unsharp mask; below 0 softens.", "0")
USMRAD: Final = Parameter("usmrad", kinds.number(0, 500), "Radius of `usm`.", "2.5")
BLUR: Final = Parameter("blur", kinds.number(0, 2000), "Gaussian blur.", "0")
PX: Final = Parameter("px", kinds.integer(0, 100), "Pixel blocks of this side.", "0")
MONOCHROME: Final = Parameter(
    "monochrome",
    kinds.COLOUR,
    "Tint from black to white through a colour; its alpha is the strength.",
    "",
    ("mono",),
)
SEPIA: Final = Parameter("sepia", kinds.PERCENT, "Strength of a sepia tone.", "0")
DUOTONE: Final = Parameter("duotone", lengths.TWO_COLOURS, "Map dark and light to two colours.")
DUOTONE_ALPHA: Final = Parameter("duotone-alpha", kinds.PERCENT, "Strength of `duotone`.", "100")
INVERT: Final = Parameter("invert", kinds.FLAG, "Negative.", "false", ("inv",))
