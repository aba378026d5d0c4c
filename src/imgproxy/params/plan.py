"""
The render plan: everything that decides a variant's pixels and bytes, as one frozen value.

A plan is canonical. Every default is resolved, aliases are gone, `dpr` is multiplied into every length, and a value
that cannot change the picture (a focal point without `crop=focalpoint`, a `q` for PNG) is at its default. So two URLs
that mean the same picture make equal plans, and equal plans share one digest, which names the variant on disk.

A plan knows nothing of the source's size: that is `render.geometry`'s business, inside a render process.
Units: `_px` are device pixels; ratios are of the source's (or the rect's) side; percentages are 0-100 as in the URL.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

# Raised whenever the same plan would give different bytes: a changed encoder setting, a mended rounding.
PLAN_VERSION = 1

MAX_SIDE_PX = 8192


class Fit(StrEnum):
    """How the source meets the requested box (spec 3.2)."""

    CLIP = "clip"
    MAX = "max"
    CROP = "crop"
    MIN = "min"
    SCALE = "scale"
    FILL = "fill"
    FILLMAX = "fillmax"
    CLAMP = "clamp"


class Crop(StrEnum):
    """What a crop keeps (spec 3.3); a chain is tried in order, `FACES` falls through where there is no detector."""

    TOP = "top"
    BOTTOM = "bottom"
    LEFT = "left"
    RIGHT = "right"
    CENTER = "center"
    FOCALPOINT = "focalpoint"
    ENTROPY = "entropy"
    EDGES = "edges"
    FACES = "faces"


class Format(StrEnum):
    """What comes out. `SOURCE` keeps the source's own format where it can be encoded, else JPEG, or PNG with alpha."""

    SOURCE = "source"
    JPEG = "jpeg"
    PNG = "png"
    PNG8 = "png8"
    WEBP = "webp"
    AVIF = "avif"
    GIF = "gif"
    JSON = "json"
    BLURHASH = "blurhash"
    PALETTE_JSON = "palette-json"
    PALETTE_CSS = "palette-css"
    # auto=compress alone: PNG for a picture with alpha, JPEG otherwise, GIF and WebP animations kept (spec 4.1).
    COMPRESSED = "compressed"
    # auto=compress,format for a client with neither AVIF nor WebP: PNG8 with alpha, else JPEG.
    COMPRESSED8 = "compressed8"


class ColorSpace(StrEnum):
    """The `cs` parameter (spec 4.3)."""

    SRGB = "srgb"
    ORIGIN = "origin"
    ADOBERGB = "adobergb1998"
    TINYSRGB = "tinysrgb"
    STRIP = "strip"


class Metadata(StrEnum):
    """Which of the source's metadata a variant keeps. GPS, serial numbers and thumbnails never survive."""

    NONE = "none"
    CREDIT = "credit"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Px:
    """An absolute length in pixels: device pixels for sizes, source pixels inside a rect."""

    value: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """A length as a fraction of the source's side."""

    value: float


@dataclass(frozen=True, slots=True)
class Anchor:
    """A position as a fraction of the free room: 0 is left or top, 0.5 the centre, 1 right or bottom."""

    value: float


Length = Px | Ratio
Position = Px | Ratio | Anchor


@dataclass(frozen=True, slots=True)
class Color:
    """sRGB 0-255 with alpha 0-255 (255 is opaque)."""

    red: int
    green: int
    blue: int
    alpha: int = 255

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The three colour bands."""
        return self.red, self.green, self.blue


TRANSPARENT_WHITE = Color(255, 255, 255, 0)
WHITE = Color(255, 255, 255)


@dataclass(frozen=True, slots=True)
class Rect:
    """A region of the upright source, in source pixels or ratios (spec 3.4)."""

    x: Position
    y: Position
    width: Length
    height: Length


@dataclass(frozen=True, slots=True)
class Trim:
    """Cut uniform edges before resizing (spec 5)."""

    mode: str  # auto | color | alpha | colorunlessalpha
    color: Color | None = None
    tolerance: float = 0.0
    mean_difference: float = 11.0
    standard_deviation: float = 10.0
    alpha: int = 0
    pad_px: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """min-w, max-w, min-h, max-h; only with fit=crop (spec 3.1)."""

    min_width_px: int | None = None
    max_width_px: int | None = None
    min_height_px: int | None = None
    max_height_px: int | None = None


@dataclass(frozen=True, slots=True)
class Focal:
    """fp-x, fp-y in 0-1 of the region, fp-z >= 1."""

    x: float = 0.5
    y: float = 0.5
    zoom: float = 1.0


@dataclass(frozen=True, slots=True)
class Resize:
    """The size and how the source gets there."""

    width: Length | None = None
    height: Length | None = None
    aspect: float | None = None  # width / height; only where it has effect
    fit: Fit = Fit.CLIP
    bounds: Bounds = Bounds()
    crop: tuple[Crop, ...] = ()  # () is the centre
    focal: Focal | None = None  # only with Crop.FOCALPOINT
    fill_blur: bool = False  # fit=fill|fillmax: a blurred cover instead of a colour
    fill_color: Color | None = None  # fit=fill|fillmax: None follows `background`


@dataclass(frozen=True, slots=True)
class Adjust:
    """Tone, colour and style (spec 6); 0 leaves the picture as it is."""

    brightness: float = 0.0
    contrast: float = 0.0
    exposure: float = 0.0
    gamma: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    vibrance: float = 0.0
    highlight: float = 0.0
    shadow: float = 0.0
    sharpen: float = 0.0
    unsharp: float = 0.0
    unsharp_radius: float = 2.5
    blur: float = 0.0
    pixellate_px: int = 0
    monochrome: Color | None = None
    sepia: float = 0.0
    duotone: tuple[Color, Color] | None = None
    duotone_alpha: float = 100.0
    invert: bool = False
    enhance: bool = False  # auto=enhance


@dataclass(frozen=True, slots=True)
class Sides:
    """A width per side, in device pixels."""

    top_px: int = 0
    right_px: int = 0
    bottom_px: int = 0
    left_px: int = 0


@dataclass(frozen=True, slots=True)
class Border:
    """Painted over the picture's edge (spec 5). Radii: one, or four from the top left clockwise."""

    sides: Sides
    color: Color
    radius_px: tuple[int, ...] = ()
    inner_radius_px: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """An ellipse, or rounded corners; `radius_px` empty means a fifth of the smaller side."""

    shape: str  # ellipse | corners
    radius_px: tuple[int, ...] = ()
    background: Color | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark (spec 7). `source` is a key of the library, or a name of a configured mark."""

    source: str
    horizontal: str = "right"  # left | center | right
    vertical: str = "bottom"  # top | middle | bottom
    pad_px: int = 5
    x_px: int | None = None
    y_px: int | None = None
    width: Length | None = None
    height: Length | None = None
    scale: float | None = None  # per cent of the picture's width
    fit: Fit = Fit.CLIP
    alpha: float = 100.0
    rotation: float = 0.0
    is_tiled: bool = False
    min_width_px: int = 0  # mark-if-min-width
    min_height_px: int = 0


@dataclass(frozen=True, slots=True)
class Blend:
    """A colour blended over the picture."""

    color: Color
    mode: str = "overlay"
    alpha: float = 100.0


@dataclass(frozen=True, slots=True)
class Frames:
    """Which page or frames of the source are used and how they play."""

    page: int = 1
    first: int | None = None  # frame=a or a-b, 1-based
    last: int | None = None
    loop: int | None = None  # None keeps the source's
    interval: int = 1
    skip: int = 0
    is_reversed: bool = False
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The encoding."""

    format: Format = Format.SOURCE
    # AVIF or WebP was chosen for the client (auto=format without fm), so an SVG stays an SVG.
    is_negotiated: bool = False
    # AVIF was chosen for the client, whatever fm says: with more pixels it leaves as WebP. None: it may be any size.
    avif_max_pixels: int | None = None
    quality: int | None = None  # None is the format's default; unset where the format has no quality
    is_lossless: bool = False
    is_progressive: bool = True
    chroma_444: bool = False
    colors: int | None = None  # colorquant, or the palette's size
    dpi: int | None = None
    color_space: ColorSpace = ColorSpace.SRGB
    metadata: Metadata = Metadata.CREDIT
    palette_prefix: str = "image"


@dataclass(frozen=True)
class RenderPlan:
    """One variant, completely described. `RenderPlan()` decodes and encodes again in the source's format."""

    orient: int | None = None  # EXIF orientation 1-8 to apply instead of the source's
    rect: Rect | None = None
    trim: Trim | None = None
    resize: Resize = Resize()
    flip: str = ""  # "", "h", "v", "hv"
    rotation: float = 0.0  # degrees counter-clockwise, 0 <= r < 360
    is_pivot: bool = False  # rot-type=pivot
    adjust: Adjust = Adjust()
    blend: Blend | None = None
    mark: Mark | None = None
    border: Border | None = None
    mask: Mask | None = None
    pad: Sides = Sides()
    background: Color = TRANSPARENT_WHITE
    frames: Frames = Frames()
    output: Output = Output()

    def __hash__(self) -> int:
        """By its digest, which is made once: to go through all fields takes longer than a look into a dictionary."""
        return hash(self.digest)

    def canonical(self) -> str:
        """The plan as text: only what differs from the defaults, in a fixed order. Equal plans, equal text."""
        return _describe(self)

    @cached_property
    def digest(self) -> str:
        """32 hex digits that name the variant: of the plan's text and PLAN_VERSION."""
        return hashlib.sha256(f"{PLAN_VERSION}:{self.canonical()}".encode()).hexdigest()[:32]

    @cached_property
    def family(self) -> tuple[int, str] | None:
        """
        The width, and a name for all plans that differ from this one in nothing else.

        None where the width alone does not make the size: then no other plan is the same picture, larger.
        """
        size = self.resize
        if not isinstance(size.width, Px) or size.height is not None or size.fit not in (Fit.CLIP, Fit.MAX):
            return None
        return size.width.value, replace(self, resize=replace(size, width=None)).digest


def _describe(value: Any) -> str:
    """Write a plan value as text without its defaults; floats to twelve digits, so that 0.1+0.2 equals 0.3."""
    rows = _rows(value.__class__)
    if rows is not None:
        parts = [
            f"{name}={_describe(found)}"
            for name, default in rows
            # Most fields hold the very default, so identity spares the comparison.
            if (found := getattr(value, name)) is not default and found != default
        ]
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "[" + ",".join(_describe(item) for item in value) + "]"
    if isinstance(value, str):
        return repr(str(value))
    return str(value)


@cache
def _rows(kind: Any) -> tuple[tuple[str, object], ...] | None:
    """The names and defaults of a dataclass's fields; None for other types. A length has no default, so it is kept."""
    return tuple((item.name, item.default) for item in fields(kind)) if is_dataclass(kind) else None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What an image URL asks for, after parsing and negotiation."""

    key: str
    plan: RenderPlan | None  # None: the original's bytes, untouched
    vary: tuple[str, ...] = ()  # request headers the plan depended on, e.g. ("Accept",)
    expires_at_s: int | None = None  # Unix time after which the URL is no longer valid
    download_name: str | None = None  # dl: the file name for Content-Disposition
    notes: tuple[str, ...] = ()  # parameters that were ignored or clamped, for the log
