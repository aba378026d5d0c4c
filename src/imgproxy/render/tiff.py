"""
Refuses the pages of a TIFF that libvips would show with wrong colours.

Source: TIFF 6.0, sections 21 (YCbCr) and 22 (old-style JPEG).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from imgproxy.errors import ColoursNotSupported
from imgproxy.render.directories import open_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproxy.render.directories import Value

BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
SAMPLE_FORMAT: Final = 339
SUBSAMPLING: Final = 530

CIE_LAB: Final = 8
_WHITE_IS_ZERO: Final = 0
_CMYK: Final = 5
_YCBCR: Final = 6
# Grey (two ways), RGB, palette, CMYK, YCbCr, Lab; SGI's LogL and LogLuv. Not: masks, ICC Lab, ITU Lab, sensor data.
_SHOWN: Final = frozenset({_WHITE_IS_ZERO, 1, 2, 3, _CMYK, _YCBCR, CIE_LAB, 32844, 32845})

_OLD_JPEG: Final = 6
_JPEG: Final = 7
_SIGNED: Final = 2
_FLOAT: Final = 3

# A scanned magazine has 200 pages of 20 entries. An entry takes 2 us.
_PAGES_MAX: Final = 1000
_ENTRIES_MAX: Final = 50_000

# The tags of a page that are looked at, and the most bytes of their values: 16 bands have 32.
_WANTED: Final = dict.fromkeys((BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT, SUBSAMPLING), 32)


@dataclass(frozen=True, slots=True)
class Page:
    """The tags of a page that say how its colours are stored."""

    values: Mapping[int, Value]

    def numbers(self, tag: int) -> tuple[int | float, ...]:
        """Return the numbers of a tag; nothing if the page does not have it."""
        return self.values[tag].numbers() if tag in self.values else ()

    def first(self, tag: int, default: int = 0) -> int | float:
        """Return the first number of a tag."""
        return next(iter(self.numbers(tag)), default)


def read_pages(file: BinaryIO) -> Iterator[Page]:
    """Yield the pages of a TIFF or BigTIFF, up to the first directory that is empty or not in the file."""
    tiff = open_tiff(file)
    if tiff is None:
        return
    at, left = tiff.first, _ENTRIES_MAX
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _PAGES_MAX:
        seen.add(at)
        entries = tiff.count_entries(at)
        left -= entries
        if entries == 0 or left < 0:
            return
        yield Page(tiff.directory(at, _WANTED))
        at = tiff.next_after(at)


def check_page(path: str, number: int) -> None:
    """
    Raise ColoursNotSupported for a page, from 0, that libvips decodes to wrong colours instead of an error.

    These are: other colour spaces than `_SHOWN`, which it shows as if they were RGB or grey; old-style JPEG, whose
    tiles come out transparent; YCbCr that is neither JPEG nor subsampled, whose planes are shown as RGB; signed
    integers; float CMYK, and float grey with white as zero. What cannot be read here is left to libvips.
    """
    with open(path, "rb") as file:
        page = next((page for n, page in enumerate(read_pages(file)) if n == number), None)
    if page is not None and not _is_shown_right(page):
        raise ColoursNotSupported


def _is_shown_right(page: Page) -> bool:
    photometric = page.first(PHOTOMETRIC, 1)
    compression, sample_format = page.first(COMPRESSION, 1), page.first(SAMPLE_FORMAT, 1)
    is_plain_ycbcr = photometric == _YCBCR and compression != _JPEG
    return (
        photometric in _SHOWN
        and compression != _OLD_JPEG
        and not (is_plain_ycbcr and page.numbers(SUBSAMPLING) == (1, 1))
        and not (sample_format == _SIGNED and photometric != CIE_LAB)
        and not (sample_format == _FLOAT and photometric in (_WHITE_IS_ZERO, _CMYK))
    )


def normalise(image: Any) -> Any:
    """
    Return 32-bit integers as 16 bits, which libvips would take for numbers from 0 to 255. Other pixels are unchanged.

    Raises ColoursNotSupported for signed integers, but those of Lab.
    """
    if image.format == "uint":
        deep = {"b-w": "grey16", "srgb": "rgb16"}.get(image.interpretation, image.interpretation)
        return (image >> 16).cast("ushort").copy(interpretation=deep)
    if image.format in ("char", "short", "int") and image.interpretation not in ("lab", "labs"):
        raise ColoursNotSupported
    return image
