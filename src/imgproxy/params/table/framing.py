"""Frame, mask and trim."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter

_SIDE: Final = kinds.integer(0, 100)

BG: Final = Parameter(
    "bg",
    kinds.COLOUR,
    "Painted behind transparency, padding and turned corners; JPEG is white without it.",
    "0FFF",
)
PAD: Final = Parameter(
    "pad",
    kinds.LENGTH,
    "Space around the picture: inside `w` and `h` where given, else it grows the picture.",
    "0",
)
PAD_TOP: Final = Parameter("pad-top", kinds.LENGTH, "`pad` of one side.", "`pad`")
PAD_RIGHT: Final = Parameter("pad-right", kinds.LENGTH, "`pad` of one side.", "`pad`")
PAD_BOTTOM: Final = Parameter("pad-bottom", kinds.LENGTH, "`pad` of one side.", "`pad`")
PAD_LEFT: Final = Parameter("pad-left", kinds.LENGTH, "`pad` of one side.", "`pad`")
BORDER: Final = Parameter("border", lengths.BORDER, "A line painted over the picture's edge.")
BORDER_TOP: Final = Parameter("border-top", _SIDE, "`border` width of one side.", "`border`")
BORDER_RIGHT: Final = Parameter("border-right", _SIDE, "`border` width of one side.", "`border`")
BORDER_BOTTOM: Final = Parameter("border-bottom", _SIDE, "`border` width of one side.", "`border`")
BORDER_LEFT: Final = Parameter("border-left", _SIDE, "`border` width of one side.", "`border`")
BORDER_RADIUS: Final = Parameter("border-radius", lengths.RADII, "Rounds the outside of `border`.", "0")
BORDER_RADIUS_INNER: Final = Parameter("border-radius-inner", lengths.RADII, "Rounds the inside of `border`.", "0")
MASK: Final = Parameter(
    "mask",
    kinds.no_url(kinds.choice(kinds.words(("ellipse", "corners")))),
    "Cut the picture to an ellipse, or round its corners. Pictures as masks are not supported.",
)
CORNER_RADIUS: Final = Parameter(
    "corner-radius", lengths.RADII, "Radii of `mask=corners`.", "a fifth of the smaller side"
)
MASK_BG: Final = Parameter(
    "mask-bg", kinds.COLOUR, "Colour outside the mask.", "transparent, white in JPEG", ("maskbg",)
)
TRIM: Final = Parameter(
    "trim",
    kinds.choice(kinds.words(("auto", "color", "alpha", "colorunlessalpha"))),
    "Cut uniform edges off before resizing.",
)
TRIM_COLOUR: Final = Parameter(
    "trim-color", kinds.COLOUR, "Colour that `trim=color` cuts.", "the top left pixel", ("trimcolor",)
)
TRIM_TOL: Final = Parameter("trim-tol", kinds.number(0, 255), "How far a pixel may be from it.", "10", ("trimtol",))
TRIM_MD: Final = Parameter("trim-md", kinds.number(0, 255), "Mean difference for `trim=auto`.", "11", ("trimmd",))
TRIM_SD: Final = Parameter("trim-sd", kinds.number(0, 255), "Standard deviation for `trim=auto`.", "10", ("trimsd",))
TRIM_ALPHA: Final = Parameter("trim-alpha", kinds.integer(0, 255), "Alpha up to which `trim=alpha` cuts.", "0")
TRIM_PAD: Final = Parameter(
    "trim-pad", kinds.integer(-200, 200), "Source pixels to keep around, or to cut.", "0", ("trimpad",)
)
