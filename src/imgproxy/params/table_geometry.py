"""Parameters that decide which part of the source is shown, how large, and in what frame."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds
from imgproxy.params.parameter import ANGLE, BOUND, COLOR, LENGTH, RADII, SIZE, Parameter
from imgproxy.params.plan import Crop, Fit, Length

_length = kinds.integer(0, 8192)
_bound = kinds.integer(1, 8192, below_is_absent=True)

# --- size --------------------------------------------------------------------------------------------------------

W: Final[Parameter[Length]] = Parameter(
    "w", kinds.size, SIZE, "Width: pixels, or up to 1 a part of the source's width (after `rect`).", "", ("width",)
)
H: Final[Parameter[Length]] = Parameter("h", kinds.size, SIZE, "Height, as `w`.", "", ("height",))
AR: Final = Parameter(
    "ar",
    kinds.aspect,
    "W:H, both above 0",
    "Aspect ratio, with `fit=crop` or `fit=fill`, unless `w` and `h` are given.",
)
DPR: Final = Parameter(
    "dpr",
    kinds.pixel_ratio,
    "a number above 0 and up to 5",
    "Device pixels per CSS pixel: multiplies `w`, `h` and every length on the output, where `w` or `h` is given.",
    "1",
)
FIT: Final = Parameter(
    "fit",
    kinds.choices({mode.value: mode for mode in Fit} | {"facearea": "facearea"}),
    "one of clip, max, crop, min, scale, fill, fillmax, clamp, facearea",
    "How the source meets the requested box. `facearea` takes the mode listed after it, or a centred crop.",
    "clip",
    ("f",),
)
MAX_W: Final = Parameter(
    "max-w", _bound, BOUND, "With `fit=crop`: the width is at most this; the height stays.", "", ("max-width",)
)
MAX_H: Final = Parameter("max-h", _bound, BOUND, "As `max-w`, for the height.", "", ("max-height",))
MIN_W: Final = Parameter(
    "min-w", _bound, BOUND, "With `fit=crop`: the width is at least this; wins over `max-w`.", "", ("min-width",)
)
MIN_H: Final = Parameter("min-h", _bound, BOUND, "As `min-w`, for the height.", "", ("min-height",))
FILL: Final = Parameter(
    "fill",
    kinds.choice({"solid": "solid", "blur": "blur", "gradient": "solid", "gen": "solid"}),
    "solid or blur",
    "With `fit=fill` or `fillmax`: the free area is a colour, or the picture itself, enlarged and blurred.",
    "solid",
)
FILL_COLOR: Final = Parameter("fill-color", kinds.color, COLOR, "Colour of `fill=solid`.", "`bg`", ("fillcolor",))

# --- crop --------------------------------------------------------------------------------------------------------

RECT: Final = Parameter(
    "rect",
    kinds.rect,
    "x,y,w,h in pixels or ratios, or left|center|right, top|middle|bottom, full",
    "Use only this region of the upright source; everything else is relative to it.",
)
CROP: Final = Parameter(
    "crop",
    kinds.choices({mode.value: mode for mode in Crop}),
    "a list of top, bottom, left, right, center, faces, focalpoint, edges, entropy",
    "With `fit=crop` or `fit=min`: what stays. The first that applies wins; edges combine (`top,left`).",
    "center",
)
FP_X: Final = Parameter("fp-x", kinds.number(0, 1), "a number from 0 to 1", "Focal point from the left.", "0.5")
FP_Y: Final = Parameter("fp-y", kinds.number(0, 1), "a number from 0 to 1", "Focal point from the top.", "0.5")
FP_Z: Final = Parameter("fp-z", kinds.number(1, 100), "a number from 1 to 100", "Zoom on the focal point.", "1")

# --- rotation and frame --------------------------------------------------------------------------------------------

ORIENT: Final = Parameter(
    "orient",
    kinds.orientation,
    "0 to 8, 90, 180 or 270",
    "Orient by this EXIF value, or turn by these degrees, instead of what the file says; 0 leaves it as stored.",
    "from the file",
    ("or",),
)
FLIP: Final = Parameter(
    "flip",
    kinds.choice({"h": "h", "v": "v", "hv": "hv", "vh": "hv"}),
    "h, v or hv",
    "Mirror left to right, top to bottom, or both.",
)
ROT: Final = Parameter("rot", kinds.degrees, ANGLE, "Turn counter-clockwise.", "0")
ROT_TYPE: Final = Parameter(
    "rot-type",
    kinds.choice({"straighten": "straighten", "pivot": "pivot"}),
    "straighten or pivot",
    "`straighten` keeps the frame and zooms in until it is covered; `pivot` shows all of the picture on `bg`.",
    "straighten",
    ("rottype", "rott"),
)
BG: Final = Parameter(
    "bg",
    kinds.color,
    COLOR,
    "Painted behind transparency, padding and turned corners; JPEG is white without it.",
    "0FFF",
)
PAD: Final = Parameter(
    "pad", _length, LENGTH, "Room around the picture: inside `w` and `h` where given, else it grows the picture.", "0"
)
PAD_TOP: Final = Parameter("pad-top", _length, LENGTH, "`pad` of one side.", "`pad`")
PAD_RIGHT: Final = Parameter("pad-right", _length, LENGTH, "`pad` of one side.", "`pad`")
PAD_BOTTOM: Final = Parameter("pad-bottom", _length, LENGTH, "`pad` of one side.", "`pad`")
PAD_LEFT: Final = Parameter("pad-left", _length, LENGTH, "`pad` of one side.", "`pad`")
BORDER: Final = Parameter(
    "border", kinds.border, "width,colour with a width from 1 to 100", "A line painted over the picture's edge."
)
_side = kinds.integer(0, 100)
BORDER_TOP: Final = Parameter("border-top", _side, "0 to 100", "`border` width of one side.", "`border`")
BORDER_RIGHT: Final = Parameter("border-right", _side, "0 to 100", "`border` width of one side.", "`border`")
BORDER_BOTTOM: Final = Parameter("border-bottom", _side, "0 to 100", "`border` width of one side.", "`border`")
BORDER_LEFT: Final = Parameter("border-left", _side, "0 to 100", "`border` width of one side.", "`border`")
BORDER_RADIUS: Final = Parameter("border-radius", kinds.radii, RADII, "Rounds the outside of `border`.", "0")
BORDER_RADIUS_INNER: Final = Parameter("border-radius-inner", kinds.radii, RADII, "Rounds the inside of `border`.", "0")
MASK: Final = Parameter(
    "mask",
    kinds.no_url(kinds.choice({"ellipse": "ellipse", "corners": "corners"})),
    "ellipse or corners",
    "Cut the picture to an ellipse, or round its corners. Pictures as masks are not supported.",
)
CORNER_RADIUS: Final = Parameter(
    "corner-radius", kinds.radii, RADII, "Radii of `mask=corners`.", "a fifth of the smaller side"
)
MASK_BG: Final = Parameter(
    "mask-bg", kinds.color, COLOR, "Colour outside the mask.", "transparent, white in JPEG", ("maskbg",)
)
TRIM: Final = Parameter(
    "trim",
    kinds.choice({mode: mode for mode in ("auto", "color", "alpha", "colorunlessalpha")}),
    "auto, color, alpha or colorunlessalpha",
    "Cut uniform edges off before resizing.",
)
TRIM_COLOR: Final = Parameter(
    "trim-color", kinds.color, COLOR, "Colour that `trim=color` cuts.", "the top left pixel", ("trimcolor",)
)
TRIM_TOL: Final = Parameter(
    "trim-tol", kinds.number(0, 255), "a number from 0", "How far a pixel may be from it.", "0", ("trimtol",)
)
TRIM_MD: Final = Parameter(
    "trim-md", kinds.number(0, 255), "a number from 0", "Mean difference for `trim=auto`.", "11", ("trimmd",)
)
TRIM_SD: Final = Parameter(
    "trim-sd", kinds.number(0, 255), "a number from 0", "Standard deviation for `trim=auto`.", "10", ("trimsd",)
)
TRIM_ALPHA: Final = Parameter(
    "trim-alpha", kinds.integer(0, 255), "0 to 255", "Alpha up to which `trim=alpha` cuts.", "0"
)
TRIM_PAD: Final = Parameter(
    "trim-pad", kinds.integer(-200, 200), "-200 to 200", "Source pixels to keep around, or to cut.", "0", ("trimpad",)
)
