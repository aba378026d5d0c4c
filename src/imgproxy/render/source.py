"""
From a file to pixels: recognise the format, read the header, check the limits, then decode.

Opening a `Source` decodes nothing. `decode` gives pixels as they are stored: not upright, in the source's colours. A
JPEG, WebP or SVG is decoded near the size that is needed. Animations that libvips does not read as browsers do have a
reader of their own.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage, TooManyPixels
from imgproxy.render import bmp, heic, jpeg_file, lab_tiff, svg, tiff
from imgproxy.render.apng import is_apng, read_apng
from imgproxy.render.avif_sequence import is_sequence, read_sequence
from imgproxy.render.characteristics import read_png
from imgproxy.render.frames import DEFAULT_DELAY_MS
from imgproxy.render.gif import read_gif
from imgproxy.render.heif import read_heif
from imgproxy.render.markup import MarkupError
from imgproxy.render.sizes import Size
from imgproxy.render.tagging import tag
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.characteristics import Characteristics
    from imgproxy.render.heic import Heic
    from imgproxy.render.patchwork import FrameReader
    from imgproxy.render.svg import Drawing
    from imgproxy.workers.job import ProcessLimits

# (factor, shrink): from this factor on, libjpeg shrinks by this much on load, and the Lanczos filter does the rest.
# libvips' thumbnail leaves a factor of 2 to the filter, sharp leaves 1. The shrink by 2 saves most (a third of the time
# for 800 of 2725 px), so it starts early and leaves 1.4: the difference from a full decode is then DSSIM 0.0026 (0.004
# where 1 is left), a third of what encoding at q=75 adds. The other shrinks save less and leave 1.75. Measured on
# libvips' benchmark photo.
JPEG_SHRINKS: Final = ((14.0, 8), (7.0, 4), (2.8, 2))

# libwebp's own scaler is better than JPEG's: SSIM against a full decode is 0.997 where 1.5 is left, 0.995 where 1 is.
WEBP_HEADROOM: Final = 1.5

_T = TypeVar("_T")

# What "1in" in an SVG is in pixels. Source: CSS Values 4, section 6.2.
CSS_DPI: Final = 96

_LOADERS: Final = {
    SourceKind.JPEG: "jpegload",
    SourceKind.PNG: "pngload",
    SourceKind.WEBP: "webpload",
    SourceKind.GIF: "gifload",
    SourceKind.AVIF: "heifload",
    SourceKind.TIFF: "tiffload",
    SourceKind.SVG: "svgload",
}

# libtiff reports a strip that ends too early as an error, not as a truncated file. libjpeg warns where data is missing
# before the end marker: `tolerate` then looks how much.
_FAIL_ON: Final = {SourceKind.TIFF: "error", SourceKind.JPEG: "warning"}

_PAGED: Final = frozenset({SourceKind.WEBP, SourceKind.GIF, SourceKind.AVIF, SourceKind.TIFF})
_ANIMATED: Final = frozenset({SourceKind.WEBP, SourceKind.GIF})
# Their pages can differ in size, colours and alpha.
_STILL_PAGED: Final = _PAGED - _ANIMATED
_HEIF: Final = frozenset({SourceKind.AVIF, SourceKind.HEIC})


@dataclass(frozen=True, slots=True)
class Source:
    """
    An original whose header was read and is within the limits.

    `header` has the fields of one page, number `page` in the file from 0 (profile, metadata, delays). Its pixels are
    never read, except of a BMP. `width_px` x `height_px` is that page as it is stored. `primary` is the page that is
    shown if none is asked for. `drawing` is the sanitised SVG, `lab_file` the repaired bytes of a Lab TIFF, `heic` the
    open HEIC, `colours` what the container says about them without a profile. `is_tolerant`: nearly all of a damaged
    JPEG is there, the rest may be empty. `reader` reads the frames in place of libvips.
    """

    path: str
    kind: SourceKind
    header: Any
    width_px: int
    height_px: int
    pages: int
    orientation: int
    has_alpha: bool
    size_bytes: int
    drawing: Drawing | None = None
    lab_file: bytes | None = None
    heic: Heic | None = None
    colours: Characteristics | None = None
    page: int = 0
    primary: int = 0
    can_shrink: bool = True
    is_tolerant: bool = False
    reader: FrameReader | None = None

    @property
    def palette_bits(self) -> int | None:
        """The bits of an index into the palette; None if the file has no palette. Source: libvips' `palette` field."""
        return int(self.field("bits-per-sample") or 8) if self.header.get_typeof("palette") else None

    @property
    def is_animation(self) -> bool:
        """Whether it has frames that play."""
        return (self.kind in _ANIMATED or self.reader is not None) and self.pages > 1

    @property
    def delays_ms(self) -> tuple[int, ...]:
        """How long each frame of an animation shows. Browsers show a very short frame for 100 ms."""
        found = self.field("delay") if self.reader is None else list(self.reader.delays_ms)
        delays = [int(delay) for delay in found] if isinstance(found, list) else []
        delays = (delays + [DEFAULT_DELAY_MS] * self.pages)[: self.pages]
        return tuple(delay if delay > 10 else DEFAULT_DELAY_MS for delay in delays)

    @property
    def loop(self) -> int:
        """How often an animation plays; 0 is for ever."""
        return int(self.field("loop") or 0) if self.reader is None else self.reader.loop

    def field(self, name: str) -> Any:
        """Return a header field by libvips' name, or None."""
        return self.header.get(name) if self.header.get_typeof(name) else None


def open_source(path: str, limits: ProcessLimits) -> Source:
    """
    Recognise a file and read its header.

    Raises NotAnImage; HeicNotInstalled; DecodeFailed if the header is damaged; TooManyPixels if one page is over the
    limit; DrawingTooComplex. (An animation with too many frames is cut later, see `frames`.)
    """
    with open(path, "rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
        size_bytes = os.fstat(file.fileno()).st_size
    if kind is None:
        raise NotAnImage
    with limits.drawing() if kind is SourceKind.SVG else nullcontext():
        drawing = _sanitise(path) if kind is SourceKind.SVG else None
        return _read_page(path, kind, size_bytes, drawing, limits)


def at_page(source: Source, page: int, limits: ProcessLimits) -> Source:
    """
    Return the source with the header of another page, from 0. The frames of an animation share one header.

    Raises DecodeFailed, TooManyPixels.
    """
    if page == source.page or source.kind not in _STILL_PAGED:
        return source
    return _read_page(source.path, source.kind, source.size_bytes, source.drawing, limits, page=page)


def _read_page(
    path: str,
    kind: SourceKind,
    size_bytes: int,
    drawing: Drawing | None,
    limits: ProcessLimits,
    *,
    page: int | None = None,
) -> Source:
    """Read the header of a page. Without a number libvips reads the primary item of a HEIF, else the first page."""
    lab_file = lab_tiff.as_rgb_file(path, page or 0) if kind is SourceKind.TIFF else None
    opened = heic.open_file(path) if kind is SourceKind.HEIC else None
    colours = _read_colours(path, kind)
    options = {} if page is None else {"page": page}
    try:
        if kind is SourceKind.BMP:
            header = bmp.load(path, limits.source_pixels, allow_truncated=limits.allow_truncated)
        else:
            header = opened.header if opened else _open(kind, path, drawing.drawn if drawing else lab_file, **options)
            header = tag(header, colours)
    except pyvips.Error as exc:
        raise DecodeFailed from exc
    reader = _find_reader(kind, path, header, limits) if page is None else None
    width, height = int(header.width), int(header.height)
    if reader is not None:
        width, height = reader.size.width_px, reader.size.height_px
    if width * height > limits.source_pixels and kind is not SourceKind.SVG:
        raise TooManyPixels(pixels=width * height, limit_px=limits.source_pixels)
    orientation = int(header.get("orientation")) if header.get_typeof("orientation") else 1
    primary = int(header.get("heif-primary")) if header.get_typeof("heif-primary") else 0
    return Source(
        path=path,
        kind=kind,
        header=header,
        width_px=width,
        height_px=height,
        pages=_count_pages(kind, header) if reader is None else len(reader.delays_ms),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        has_alpha=bool(header.hasalpha()) if reader is None else reader.has_alpha,
        size_bytes=size_bytes,
        drawing=drawing,
        lab_file=lab_file,
        heic=opened,
        colours=colours,
        page=primary if page is None else page,
        primary=primary,
        can_shrink=kind is not SourceKind.JPEG or _check_jpeg(path, limits),
        reader=reader,
    )


def _count_pages(kind: SourceKind, header: Any) -> int:
    return int(header.get("n-pages")) if kind in _PAGED and header.get_typeof("n-pages") else 1


def _find_reader(kind: SourceKind, path: str, header: Any, limits: ProcessLimits) -> FrameReader | None:
    """Return the reader of an animation that libvips does not read as browsers do; None for all other files."""
    if kind not in (SourceKind.PNG, SourceKind.GIF, SourceKind.AVIF):
        return None
    with open(path, "rb") as file:
        if kind is SourceKind.PNG and is_apng(file):
            file.seek(0)
            return read_apng(file.read(), header, allow_truncated=limits.allow_truncated)
        if kind is SourceKind.AVIF and is_sequence(file.read(12)):
            file.seek(0)
            return read_sequence(file.read())
        if kind is SourceKind.GIF:
            loop = int(header.get("loop")) if header.get_typeof("loop") else 0
            size = Size(int(header.width), int(header.height))
            return read_gif(file.read(), _count_pages(kind, header), size, loop)
    return None


def _read_colours(path: str, kind: SourceKind) -> Characteristics | None:
    read: Callable[[BinaryIO], Characteristics | None]
    if kind is SourceKind.PNG:
        read = read_png
    elif kind in _HEIF:
        read = read_heif
    else:
        return None
    with open(path, "rb") as file:
        return read(file)


def _check_jpeg(path: str, limits: ProcessLimits) -> bool:
    """Return whether libjpeg can shrink a JPEG. Raises DecodeFailed if a part of it is missing unnoticed."""
    with open(path, "rb") as file:
        if not limits.allow_truncated and jpeg_file.is_filled_up(file):
            raise DecodeFailed
        return not jpeg_file.is_lossless(file)


def _sanitise(path: str) -> Drawing:
    """Read one byte more than may be parsed, so that a file that is too long is refused, not cut."""
    with open(path, "rb") as file:
        data = unpack(file.read(svg.MAX_BYTES + 1), svg.MAX_BYTES + 1)
    try:
        return svg.sanitise(data)
    except MarkupError as exc:
        raise DecodeFailed from exc


def _open(kind: SourceKind, path: str, data: bytes | None, **options: Any) -> Any:
    """Call the loader of this kind on the file, or on `data` if it is given."""
    if data is None:
        return pyvips.Operation.call(_LOADERS[kind], path, **options)
    if kind is SourceKind.SVG:  # with another dpi than 72, libvips enlarges everything
        options |= {"dpi": CSS_DPI, "scale": options.get("scale", 1.0) * 72 / CSS_DPI}
    return pyvips.Operation.call(f"{_LOADERS[kind]}_buffer", data, **options)


def decode(source: Source, limits: ProcessLimits, *, factor: float, page: int = 0, count: int = 1) -> Any:
    """
    Return the pixels of `count` pages from `page` on, one below the other. They can be read once, from top to bottom.

    A caller that needs another order copies them to memory: that takes 15 % less time than the loader's own copy.
    libvips decodes lazily, so damaged pixels raise pyvips.Error only when they are read. An SVG is drawn at once, under
    the watchdog of drawings.

    Args:
        source: an open source.
        limits: with `allow_truncated`, what a truncated file has is returned, instead of failing.
        factor: source pixels per pixel of the largest result. A loader that can shrink comes as close to it as quality
            allows. An SVG is drawn at exactly this factor, also below 1.
        page: first page, from 0.
        count: pages to decode.
    """
    if source.heic is not None:
        return tag(heic.decode(source.heic), source.colours)
    is_tolerant = limits.allow_truncated or source.is_tolerant
    fail_on = "none" if is_tolerant else _FAIL_ON.get(source.kind, "truncated")
    if source.reader is not None:
        return _join_frames(source, source.reader.read(page, count, fail_on))
    options: dict[str, Any] = {"access": "sequential", "fail_on": fail_on, **shrink_options(source, factor)}
    if source.kind in _PAGED:
        options["page"] = page
    if source.kind in _ANIMATED:
        options["n"] = count
    if source.drawing is not None:
        with limits.drawing():
            return _open(source.kind, source.path, source.drawing.drawn, **options).copy_memory()
    if source.kind is SourceKind.BMP:
        return source.header  # its bytes are in memory already
    if source.kind is SourceKind.TIFF:
        tiff.check_page(source.path, page)
    image = _open(source.kind, source.path, source.lab_file, **options)
    if source.kind is SourceKind.TIFF:
        return lab_tiff.as_lab(image) if source.lab_file is not None else tiff.normalise(image)
    return tag(image, source.colours)


def _join_frames(source: Source, frames: list[Any]) -> Any:
    """Put the frames of a reader one below the other. They are RGB in full range, with the colours of the file."""
    joined = pyvips.Image.arrayjoin(frames, across=1)
    colours = source.colours
    if colours is None or (colours.is_limited and colours.is_srgb):
        return joined
    return tag(joined, replace(colours, is_limited=False))


def tolerate(source: Source, limits: ProcessLimits, use: Callable[[Source], _T]) -> _T:
    """
    Call `use` with the source, and once more with what there is if this is a damaged JPEG with nearly all its pixels.

    Raises what `use` raises.
    """
    try:
        return use(source)
    except pyvips.Error:
        if source.kind is not SourceKind.JPEG or limits.allow_truncated or not jpeg_file.is_nearly_whole(source.path):
            raise
    return use(replace(source, is_tolerant=True))


def shrink_options(source: Source, factor: float) -> dict[str, int | float]:
    """Return the loader's options that set the decoded size, for `factor` source pixels per result pixel."""
    if source.kind is SourceKind.JPEG:
        return {"shrink": jpeg_shrink(factor) if source.can_shrink else 1}
    if source.kind is SourceKind.WEBP and factor > WEBP_HEADROOM:
        return {"scale": WEBP_HEADROOM / factor}
    if source.kind is SourceKind.SVG:
        return {"scale": 1.0 / factor}
    return {}


def jpeg_shrink(factor: float) -> int:
    """Return by how much libjpeg shrinks (1, 2, 4 or 8) for `factor` source pixels per result pixel."""
    return next((shrink for least, shrink in JPEG_SHRINKS if factor >= least), 1)
