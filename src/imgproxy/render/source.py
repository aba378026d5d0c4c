"""
From a file to pixels: recognise, read the header, hold it against the limits, only then decode.

A `Source` is a header: opening one decodes nothing. `decode` gives pixels as they are stored (not upright, in the
source's colours), for a JPEG, WebP or SVG already near the size they are needed in. A JPEG is opened once for both
where it can be told beforehand by how much it will be shrunk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage, TooManyPixels
from imgproxy.render import jpegframe, svg
from imgproxy.render import lab_tiff as labtiff
from imgproxy.render.frames import DEFAULT_DELAY_MS
from imgproxy.render.markup import MarkupError
from imgproxy.render.vips import call
from imgproxy.workers.job import SourceFacts
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.sizes import Size
    from imgproxy.workers.job import ProcessLimits

    # The factor of `decode` that is to be expected of a source of this stored size; None where no pixels will be asked.
    Foresee = Callable[[Size], float | None]

# From which factor on a JPEG is shrunk by how much as it is loaded; the rest is left to the Lanczos filter. libvips'
# thumbnail leaves a factor of 2, sharp of 1. The step to 2 saves most (a third of the time for 800 of 2725 px), so it
# is taken early: at 1.4 the difference from a full decode is DSSIM 0.0026 (at 1: 0.004), a third of what encoding at
# q=75 adds. The further steps save less and wait for 1.75. Measured on libvips' benchmark photo.
JPEG_SHRINKS: Final = ((14.0, 8), (7.0, 4), (2.8, 2))

# WebP's own rescaler is finer than JPEG's: SSIM against a full decode 0.997 at 1.5, 0.995 at 1.
WEBP_HEADROOM: Final = 1.5

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


class Ahead:
    """
    A JPEG that was opened for its pixels before anybody asked, as what will be asked for was foreseen.

    To open one anew costs 0.15 ms, where a render of 6 megapixels takes 27.
    """

    __slots__ = ("_options", "image")

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.image: Any = _open(SourceKind.JPEG, path, None, **options)
        self._options: dict[str, Any] | None = options

    def take(self, options: dict[str, Any]) -> Any | None:
        """The image where it was opened with these options; once, as its pixels can be read only once."""
        if options != self._options:
            return None
        self._options = None
        return self.image


@dataclass(frozen=True, slots=True)
class Source:
    """
    An original whose header was read and found within the limits.

    `header` has the fields of the first page (profile, metadata, delays), not its size; its pixels are never touched
    but by who takes them from `ahead`. `drawing` holds the sanitised text of an SVG, `lab_file` the mended bytes of a
    Lab TIFF. `width_px` x `height_px` is one page as stored.
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
    drawing: bytes | None = None
    lab_file: bytes | None = None
    ahead: Ahead | None = None

    @property
    def is_animation(self) -> bool:
        """Whether it has frames that play."""
        return self.kind in _ANIMATED and self.pages > 1

    @property
    def delays_ms(self) -> tuple[int, ...]:
        """How long each frame of an animation shows; browsers show very short ones for 100 ms."""
        found = self.field("delay")
        delays = [int(delay) for delay in found] if isinstance(found, list) else []
        delays = (delays + [DEFAULT_DELAY_MS] * self.pages)[: self.pages]
        return tuple(delay if delay > 10 else DEFAULT_DELAY_MS for delay in delays)

    @property
    def loop(self) -> int:
        """How often an animation plays; 0 for ever."""
        return int(self.field("loop") or 0)

    def field(self, name: str) -> Any:
        """A header field by libvips' name, or None."""
        return self.header.get(name) if self.header.get_typeof(name) else None

    def facts(self) -> SourceFacts:
        """What the edge may know of it."""
        return SourceFacts(
            content_type=self.kind.value,
            width_px=self.width_px,
            height_px=self.height_px,
            frames=self.pages if self.is_animation else 1,
            orientation=self.orientation,
            has_alpha=self.has_alpha,
        )


def open_source(path: str, limits: ProcessLimits, foresee: Foresee = lambda _: None) -> Source:
    """
    Recognise a file and read its header.

    Raises NotAnImage, DecodeFailed where even the header is damaged, TooManyPixels where one page alone is beyond
    the limit (an animation whose frames are too many together is cut later, see `frames`).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, HEAD_BYTES, 0)
        kind = sniff(head)
        size_bytes = os.fstat(descriptor).st_size
        frame = jpegframe.size_of(head, descriptor) if kind is SourceKind.JPEG else None
    finally:
        os.close(descriptor)
    if kind is None:
        raise NotAnImage
    drawing = _sanitise(path) if kind is SourceKind.SVG else None
    lab_file = labtiff.as_rgb_file(path) if kind is SourceKind.TIFF else None
    try:
        ahead = None if frame is None else _open_ahead(path, frame, limits, foresee)
        header = _open(kind, path, drawing or lab_file) if ahead is None else ahead.image
    except pyvips.Error as exc:
        raise DecodeFailed from exc
    if frame is not None and ahead is not None:
        width, height = frame.width_px, frame.height_px
    else:
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
        ahead=ahead,
    )


def _open_ahead(path: str, frame: Size, limits: ProcessLimits, foresee: Foresee) -> Ahead | None:
    """
    Open a JPEG with the shrink that will be asked for. None where that is unknown.

    libvips then tells the shrunk size alone; where that is not the one of `frame`, the size is left to libvips.
    """
    factor = foresee(frame)
    if factor is None:
        return None
    shrink = jpeg_shrink(factor)
    ahead = Ahead(path, _reading(SourceKind.JPEG, allow_truncated=limits.allow_truncated) | {"shrink": shrink})
    is_as_told = (ahead.image.width, ahead.image.height) == (frame.width_px // shrink, frame.height_px // shrink)
    return ahead if is_as_told else None


def _sanitise(path: str) -> bytes:
    """Read at most what may be parsed, and one byte, so that too much is seen as too much."""
    with open(path, "rb") as file:
        data = file.read(svg.MAX_BYTES + 1)
    try:
        return svg.sanitise(data)
    except MarkupError as exc:
        raise DecodeFailed from exc


def _open(kind: SourceKind, path: str, data: bytes | None, **options: Any) -> Any:
    """Call the one loader of this kind, on the file or on the bytes that stand for it."""
    if data is None:
        return call(_LOADERS[kind], path, **options)
    return call(f"{_LOADERS[kind]}_buffer", data, **options)


def decode(source: Source, *, factor: float, page: int = 0, count: int = 1, allow_truncated: bool = False) -> Any:
    """
    Give the pixels of `count` pages from `page` on, one below the other, to be read once from top to bottom.

    Who needs them in another order copies them to memory: that takes 15 % less than to let the loader do so.

    Args:
        source: an open source.
        factor: source pixels that become one pixel of the largest result; a loader that can shrink (or draw, for an
            SVG: below 1 as well) comes as near to it as quality allows.
        page: first page, from 0.
        count: pages to decode.
        allow_truncated: give what there is of a truncated file, instead of failing when the end is missing.

    Errors in the pixels surface when they are read: libvips decodes lazily.
    """
    options = _reading(source.kind, allow_truncated=allow_truncated) | shrink_options(source, factor)
    if source.ahead is not None and (ahead := source.ahead.take(options)) is not None:
        return ahead
    if source.kind in _PAGED:
        options["page"] = page
        if source.kind in _ANIMATED:
            options["n"] = count
    image = _open(source.kind, source.path, source.drawing or source.lab_file, **options)
    return image if source.lab_file is None else labtiff.as_lab(image)


def _reading(kind: SourceKind, *, allow_truncated: bool) -> dict[str, Any]:
    """How a loader is told to read pixels."""
    return {"access": "sequential", "fail_on": "none" if allow_truncated else _FAIL_ON.get(kind, "truncated")}


def shrink_options(source: Source, factor: float) -> dict[str, int | float]:
    """What a loader is told about the size where `factor` source pixels become one."""
    if source.kind is SourceKind.JPEG:
        return {"shrink": jpeg_shrink(factor)}
    if source.kind is SourceKind.WEBP and factor > WEBP_HEADROOM:
        return {"scale": WEBP_HEADROOM / factor}
    if source.kind is SourceKind.SVG:
        return {"scale": 1.0 / factor}
    return {}


def jpeg_shrink(factor: float) -> int:
    """Return by how much libjpeg shrinks (1, 2, 4 or 8) where `factor` source pixels become one."""
    return next((shrink for least, shrink in JPEG_SHRINKS if factor >= least), 1)
