"""
From a file to pixels: recognise the format, read the header, check the limits, then decode.

Opening a `Source` decodes nothing. `decode` gives pixels as they are stored: not upright, in the source's colours. A
JPEG, WebP or SVG is decoded near the size that is needed.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage, TooManyPixels
from imgproxy.render import lab_tiff, svg
from imgproxy.render.frames import DEFAULT_DELAY_MS
from imgproxy.render.markup import MarkupError
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff, unpack

if TYPE_CHECKING:
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

# What "1in" in an SVG is in pixels. Source: CSS Values 4, section 6.2.
CSS_DPI: Final = 96

_LOADERS: Final = {
    SourceKind.JPEG: "jpegload",
    SourceKind.PNG: "pngload",
    SourceKind.WEBP: "webpload",
    SourceKind.GIF: "gifload",
    SourceKind.AVIF: "heifload",
    SourceKind.HEIC: "heifload",
    SourceKind.TIFF: "tiffload",
    SourceKind.SVG: "svgload",
}

# libtiff reports a strip that ends too early as an error, not as a truncated file.
_FAIL_ON: Final = {SourceKind.TIFF: "error"}

_PAGED: Final = frozenset({SourceKind.WEBP, SourceKind.GIF, SourceKind.AVIF, SourceKind.HEIC, SourceKind.TIFF})
_ANIMATED: Final = frozenset({SourceKind.WEBP, SourceKind.GIF})


@dataclass(frozen=True, slots=True)
class Source:
    """
    An original whose header was read and is within the limits.

    `header` has the fields of the first page (profile, metadata, delays); its pixels are never read. `drawing` is the
    sanitised SVG, `lab_file` the repaired bytes of a Lab TIFF. `width_px` x `height_px` is one stored page.
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

    @property
    def palette_bits(self) -> int | None:
        """The bits of an index into the palette; None if the file has no palette. Source: libvips' `palette` field."""
        return int(self.field("bits-per-sample") or 8) if self.header.get_typeof("palette") else None

    @property
    def is_animation(self) -> bool:
        """Whether it has frames that play."""
        return self.kind in _ANIMATED and self.pages > 1

    @property
    def delays_ms(self) -> tuple[int, ...]:
        """How long each frame of an animation shows. Browsers show a very short frame for 100 ms."""
        found = self.field("delay")
        delays = [int(delay) for delay in found] if isinstance(found, list) else []
        delays = (delays + [DEFAULT_DELAY_MS] * self.pages)[: self.pages]
        return tuple(delay if delay > 10 else DEFAULT_DELAY_MS for delay in delays)

    @property
    def loop(self) -> int:
        """How often an animation plays; 0 is for ever."""
        return int(self.field("loop") or 0)

    def field(self, name: str) -> Any:
        """Return a header field by libvips' name, or None."""
        return self.header.get(name) if self.header.get_typeof(name) else None


def open_source(path: str, limits: ProcessLimits) -> Source:
    """
    Recognise a file and read its header.

    Raises NotAnImage; DecodeFailed if the header is damaged; TooManyPixels if one page is over the limit;
    DrawingTooComplex. (An animation with too many frames is cut later, see `frames`.)
    """
    with open(path, "rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
        size_bytes = os.fstat(file.fileno()).st_size
    if kind is None:
        raise NotAnImage
    with limits.drawing() if kind is SourceKind.SVG else nullcontext():
        drawing = _sanitise(path) if kind is SourceKind.SVG else None
        lab_file = lab_tiff.as_rgb_file(path) if kind is SourceKind.TIFF else None
        try:
            header = _open(kind, path, drawing.text if drawing else lab_file)
        except pyvips.Error as exc:
            raise DecodeFailed from exc
    width, height = int(header.width), int(header.height)
    if width * height > limits.source_pixels and kind is not SourceKind.SVG:
        raise TooManyPixels(pixels=width * height, limit_px=limits.source_pixels)
    orientation = int(header.get("orientation")) if header.get_typeof("orientation") else 1
    return Source(
        path=path,
        kind=kind,
        header=header,
        width_px=width,
        height_px=height,
        pages=int(header.get("n-pages")) if kind in _PAGED and header.get_typeof("n-pages") else 1,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        has_alpha=bool(header.hasalpha()),
        size_bytes=size_bytes,
        drawing=drawing,
        lab_file=lab_file,
    )


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
    if kind is SourceKind.SVG:  # libvips takes 72 dpi, and enlarges everything by what is above
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
    fail_on = "none" if limits.allow_truncated else _FAIL_ON.get(source.kind, "truncated")
    options: dict[str, Any] = {"access": "sequential", "fail_on": fail_on, **shrink_options(source, factor)}
    if source.kind in _PAGED:
        options["page"] = page
    if source.kind in _ANIMATED:
        options["n"] = count
    if source.drawing is not None:
        with limits.drawing():
            return _open(source.kind, source.path, source.drawing.text, **options).copy_memory()
    image = _open(source.kind, source.path, source.lab_file, **options)
    return image if source.lab_file is None else lab_tiff.as_lab(image)


def shrink_options(source: Source, factor: float) -> dict[str, int | float]:
    """Return the loader's options that set the decoded size, for `factor` source pixels per result pixel."""
    if source.kind is SourceKind.JPEG:
        return {"shrink": jpeg_shrink(factor)}
    if source.kind is SourceKind.WEBP and factor > WEBP_HEADROOM:
        return {"scale": WEBP_HEADROOM / factor}
    if source.kind is SourceKind.SVG:
        return {"scale": 1.0 / factor}
    return {}


def jpeg_shrink(factor: float) -> int:
    """Return by how much libjpeg shrinks (1, 2, 4 or 8) for `factor` source pixels per result pixel."""
    return next((shrink for least, shrink in JPEG_SHRINKS if factor >= least), 1)
