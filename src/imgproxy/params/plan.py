"""
The render plan: everything that decides the pixels and bytes of a variant, as one frozen value.

A plan is canonical. Every default is resolved, `dpr` is multiplied into every length, and a value that cannot change
the picture (a focal point without `crop=focalpoint`, a `q` for PNG) is at its default. So two URLs that mean the same
picture make equal plans. Equal plans have the same digest, which names the variant on disk.

A plan does not know the size of the source; `render.geometry` applies it, in a render process.
Units: `_px` are device pixels; ratios are of the side of the source (or of the rect); per cents are 0-100 as in URLs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

from imgproxy.params.appearance import (
    NO_SIDES,
    TRANSPARENT_WHITE,
    UNADJUSTED,
    Adjust,
    Blend,
    Border,
    Colour,
    Mask,
    Sides,
)

# To be raised when the same plan gives other bytes: another encoder setting, a corrected rounding.
PLAN_VERSION = 2

MAX_SIDE_PX = 8192

DEFAULT_TOLERANCE = 10.0  # of trim: JPEG leaves noise of a few levels on plain areas


class Fit(StrEnum):
    """How the source meets the requested box."""

    CLIP = "clip"
    MAX = "max"
    CROP = "crop"
    MIN = "min"
    SCALE = "scale"
    FILL = "fill"
    FILLMAX = "fillmax"
    CLAMP = "clamp"


class Crop(StrEnum):
    """What a crop keeps. Of a list the first one that applies counts. In a plan, `Resize.faces` stands for FACES."""

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
    """The format. `SOURCE`: the format of the source if it can be encoded, else JPEG, or PNG with alpha."""

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
    # The face record of an original (`workers.faces`). No URL can ask for it.
    FACES = "faces"
    # auto=compress alone: PNG for a picture with alpha, else JPEG; GIF and WebP animations stay.
    COMPRESSED = "compressed"
    # auto=compress,format for a client without AVIF and WebP: PNG8 with alpha, else JPEG.
    COMPRESSED8 = "compressed8"


class ColourSpace(StrEnum):
    """The `cs` parameter."""

    SRGB = "srgb"
    ORIGIN = "origin"
    ADOBERGB = "adobergb1998"
    TINYSRGB = "tinysrgb"
    STRIP = "strip"


class Metadata(StrEnum):
    """Which metadata of the source a variant keeps. It never keeps GPS, serial numbers and thumbnails."""

    NONE = "none"
    CREDIT = "credit"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Px:
    """An absolute length: device pixels for sizes (with `dpr` fractions, rounded last), source pixels inside a rect."""

    value: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A length as a fraction of the source's side."""

    value: float


@dataclass(frozen=True, slots=True)
class Anchor:
    """A position as a fraction of the free space: 0 is left or top, 0.5 the centre, 1 right or bottom."""

    value: float


Length = Px | Ratio
Position = Px | Ratio | Anchor


@dataclass(frozen=True, slots=True)
class Rect:
    """A region of the upright source, in source pixels or ratios."""

    x: Position
    y: Position
    width: Length
    height: Length


@dataclass(frozen=True, slots=True)
class Trim:
    """Cut uniform edges before resizing."""

    mode: str  # auto | color | alpha | colorunlessalpha
    colour: Colour | None = None
    tolerance: float = DEFAULT_TOLERANCE
    mean_difference: float = 11.0
    standard_deviation: float = 10.0
    alpha: int = 0
    pad_px: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """min-w, max-w, min-h, max-h; only with fit=crop."""

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
class FaceChoice:
    """Keep faces: all, or number `index` from 1, the largest first. `is_area`: fit=facearea, else crop=faces."""

    index: int | None = None
    is_area: bool = False
    pad: float = 1.0  # fit=facearea: the area of a face is its box, enlarged by this


@dataclass(frozen=True, slots=True)
class Resize:
    """The size, and how the source gets it."""

    width: Length | None = None
    height: Length | None = None
    aspect: float | None = None  # width / height; only if it has an effect
    fit: Fit = Fit.CLIP
    bounds: Bounds = Bounds()
    crop: tuple[Crop, ...] = ()  # () is the centre
    focal: Focal | None = None  # only with Crop.FOCALPOINT
    fill_blur: bool = False  # fit=fill|fillmax: a blurred cover instead of a colour
    fill_colour: Colour | None = None  # fit=fill|fillmax: None follows `background`
    faces: FaceChoice | None = None  # without a face in the picture, all the other fields apply


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark. `source` is a key of the library."""

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
class Frames:
    """Which page or frames of the source are used and how they play."""

    page: int = 1
    # frame=a-b, from 1. None is the first or last frame of the file. A still is `first`, whatever `last` says.
    first: int | None = None
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
    # auto=format chose AVIF or WebP and there is no fm: an SVG stays an SVG.
    is_negotiated: bool = False
    # auto=format chose AVIF: with more pixels the variant is WebP instead. None: no limit.
    avif_max_pixels: int | None = None
    may_be_webp: bool = False  # auto=format chose AVIF: of a flat picture, a WebP is sent if it is smaller
    quality: int | None = None  # None: the default of the format, or it has none
    is_lossless: bool = False
    is_progressive: bool = True
    chroma_444: bool = False
    colours: int | None = None  # colorquant, or the size of the palette
    dpi: int | None = None
    colour_space: ColourSpace = ColourSpace.SRGB
    metadata: Metadata = Metadata.CREDIT
    palette_prefix: str = "image"
    has_faces: bool = False  # fm=json: with the faces


@dataclass(frozen=True)
class RenderPlan:
    """The complete description of a variant. `RenderPlan()` means: decode, and encode again in the source's format."""

    orient: int | None = None  # EXIF orientation 1-8 to apply instead of the source's
    rect: Rect | None = None
    trim: Trim | None = None
    resize: Resize = Resize()
    flip: str = ""  # "", "h", "v", "hv"
    rotation: float = 0.0  # degrees counter-clockwise, 0 <= r < 360
    is_pivot: bool = False  # rot-type=pivot
    adjust: Adjust = UNADJUSTED
    blend: Blend | None = None
    mark: Mark | None = None
    border: Border | None = None
    mask: Mask | None = None
    pad: Sides = NO_SIDES
    background: Colour = TRANSPARENT_WHITE
    frames: Frames = Frames()
    output: Output = Output()

    def __hash__(self) -> int:
        """Hash the digest, which is made once; hashing all fields takes longer than the look-up it is for."""
        return hash(self.digest)

    def canonical(self) -> str:
        """Return the plan as text: what differs from the defaults, in a fixed order. Equal plans have equal texts."""
        return describe(self)

    @cached_property
    def digest(self) -> str:
        """The name of the variant: 32 hex digits, from the text of the plan and PLAN_VERSION."""
        return hashlib.sha256(f"{PLAN_VERSION}:{self.canonical()}".encode()).hexdigest()[:32]

    @cached_property
    def family(self) -> tuple[int, str] | None:
        """
        The width in whole pixels, and a name for all plans that differ from this one only in it.

        None if not only the width decides the size: then no plan gives the same picture larger.
        """
        size = self.resize
        is_scaled_only = size.fit in (Fit.CLIP, Fit.MAX) and size.faces is None
        if not isinstance(size.width, Px) or size.height is not None or not is_scaled_only:
            return None
        return round(size.width.value), replace(self, resize=replace(size, width=None)).digest


# --- the canonical text, which digests are made of ---


def describe(value: Any) -> str:
    """Write a value of a plan as text, without its defaults. Floats have twelve digits, so that 0.1+0.2 equals 0.3."""
    rows = _rows(value.__class__)
    if rows is not None:
        found = [(name, getattr(value, name)) for name, default in rows if getattr(value, name) != default]
        parts = [f"{_written(name)}={describe(item)}" for name, item in found]
        return f"{_written(type(value).__name__)}({','.join(parts)})"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "[" + ",".join(describe(item) for item in value) + "]"
    if isinstance(value, str):
        return repr(str(value))
    return str(value)


def _written(name: str) -> str:
    """Return a name in the spelling that plans have always had: their digests are made of it."""
    return name.replace("olour", "olor")


@cache
def _rows(kind: Any) -> tuple[tuple[str, object], ...] | None:
    """Return names and defaults of the fields of a dataclass; None for other types. A field without default is kept."""
    return tuple((item.name, item.default) for item in fields(kind)) if is_dataclass(kind) else None
