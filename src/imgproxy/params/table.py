"""
Every parameter the grammar knows, in one table, and how a name in a URL finds its row.

Parsing, the messages of strict mode, the check of configured defaults and presets, and the tables in docs/urls.md
all come from here. To add a parameter: declare it in one of the `table_*` modules, list it here, use it in
`assemble`, and run `python -m imgproxy.params.document`.
Source of names, aliases and ranges: imgix-url-params 11.35 (github.com/imgix/imgix-url-params).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgproxy.params import table_geometry as geometry
from imgproxy.params import table_looks as looks
from imgproxy.params import table_output as output

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter

SECTIONS: Final[tuple[tuple[str, tuple[Parameter[Any], ...]], ...]] = (
    (
        "Size",
        (
            geometry.W,
            geometry.H,
            geometry.AR,
            geometry.DPR,
            geometry.FIT,
            geometry.MAX_W,
            geometry.MAX_H,
            geometry.MIN_W,
            geometry.MIN_H,
            geometry.FILL,
            geometry.FILL_COLOR,
        ),
    ),
    (
        "Crop",
        (geometry.RECT, geometry.CROP, geometry.FP_X, geometry.FP_Y, geometry.FP_Z),
    ),
    (
        "Orientation",
        (geometry.ORIENT, geometry.FLIP, geometry.ROT, geometry.ROT_TYPE),
    ),
    (
        "Frame, mask and trim",
        (
            geometry.BG,
            geometry.PAD,
            geometry.PAD_TOP,
            geometry.PAD_RIGHT,
            geometry.PAD_BOTTOM,
            geometry.PAD_LEFT,
            geometry.BORDER,
            geometry.BORDER_TOP,
            geometry.BORDER_RIGHT,
            geometry.BORDER_BOTTOM,
            geometry.BORDER_LEFT,
            geometry.BORDER_RADIUS,
            geometry.BORDER_RADIUS_INNER,
            geometry.MASK,
            geometry.CORNER_RADIUS,
            geometry.MASK_BG,
            geometry.TRIM,
            geometry.TRIM_COLOR,
            geometry.TRIM_TOL,
            geometry.TRIM_MD,
            geometry.TRIM_SD,
            geometry.TRIM_ALPHA,
            geometry.TRIM_PAD,
        ),
    ),
    (
        "Tone and style",
        (
            looks.BRI,
            looks.CON,
            looks.EXP,
            looks.GAM,
            looks.HUE,
            looks.SAT,
            looks.VIB,
            looks.HIGH,
            looks.SHAD,
            looks.SHARP,
            looks.USM,
            looks.USMRAD,
            looks.BLUR,
            looks.PX,
            looks.MONOCHROME,
            looks.SEPIA,
            looks.DUOTONE,
            looks.DUOTONE_ALPHA,
            looks.INVERT,
        ),
    ),
    (
        "Overlays",
        (
            looks.BLEND,
            looks.BLEND_COLOR,
            looks.BLEND_MODE,
            looks.BLEND_ALPHA,
            looks.MARK,
            looks.MARK_BASE,
            looks.MARK_ALIGN,
            looks.MARK_PAD,
            looks.MARK_X,
            looks.MARK_Y,
            looks.MARK_W,
            looks.MARK_H,
            looks.MARK_SCALE,
            looks.MARK_FIT,
            looks.MARK_ALPHA,
            looks.MARK_ROT,
            looks.MARK_TILE,
            looks.MARK_IF_MIN_WIDTH,
            looks.MARK_IF_MIN_HEIGHT,
        ),
    ),
    (
        "Format and encoding",
        (
            output.AUTO,
            output.FM,
            output.Q,
            output.LOSSLESS,
            output.JPG_PROGRESSIVE,
            output.CHROMASUB,
            output.COLORQUANT,
            output.DPI,
            output.CS,
            output.IPTC,
            output.PALETTE,
            output.COLORS,
            output.PREFIX,
        ),
    ),
    (
        "Pages and frames",
        (output.PAGE, output.FRAME, output.LOOP, output.INTERVAL, output.SKIP, output.REVERSE, output.FPS),
    ),
    (
        "Client hints and delivery",
        (output.CH, output.PRESET, output.DL, output.EXPIRES, output.S, output.IXLIB),
    ),
)

PARAMETERS: Final = tuple(parameter for _, parameters in SECTIONS for parameter in parameters)
BY_NAME: Final[dict[str, Parameter[Any]]] = {name: row for row in PARAMETERS for name in row.names}
RENDERING: Final = frozenset(row.name for row in PARAMETERS if row.is_rendering)

# imgix features we leave out. Their parameters are neither an error in strict mode nor a reason to render.
IGNORED_PREFIXES: Final = (
    "txt", "bg-remove", "bg-replace", "upscale", "object-removal", "fill-gen", "fill-gradient", "face", "nr", "ix",
    "blend-", "grid-", "pdf-", "transparency", "svg-",
)  # fmt: skip
IGNORED: Final = frozenset((
    "background-remove", "annotation", "lp-blur", "fp-debug", "htn", "gif-q",
    "ba", "bc", "bf", "bh", "bw", "bp", "bs", "bx", "by",
    "t", "ta", "tcl", "tc", "tf", "tl", "tp", "tsh", "tsz", "tt",
))  # fmt: skip


def is_ignored(name: str) -> bool:
    """Tell whether this is a parameter of imgix that has no effect here."""
    return name in IGNORED or name.startswith(IGNORED_PREFIXES)


def find(name: str) -> tuple[Parameter[Any] | None, bool]:
    """
    Return the row a name in a URL belongs to, and whether its value is base64.

    Names are matched as they are written, in lower case. The ending `64` counts only after a known name.
    """
    row = BY_NAME.get(name)
    if row is not None:
        return row, False
    if name.endswith("64"):
        row = BY_NAME.get(name[:-2])
        if row is not None and row.has_base64:
            return row, True
    return None, False
