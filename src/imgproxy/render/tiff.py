"""
Reads the directories of a TIFF, and refuses the pages that libvips would show with wrong colours.

Sources: TIFF 6.0, section 2 (structure), 21 (YCbCr), 22 (old-style JPEG); the BigTIFF design of libtiff.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from imgproxy.errors import ColoursNotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
EXTRA_SAMPLES: Final = 338
SAMPLE_FORMAT: Final = 339
SUBSAMPLING: Final = 530

CIE_LAB: Final = 8
_WHITE_IS_ZERO: Final = 0
_CMYK: Final = 5
_YCBCR: Final = 6
# Grey (two ways), RGB, palette, CMYK, YCbCr, Lab; SGI's LogL and LogLuv. Not: masks, ICC Lab, ITU Lab, sensor data.
_SHOWN: Final = frozenset({_WHITE_IS_ZERO, 1, 2, 3, _CMYK, _YCBCR, CIE_LAB, 32844, 32845})

# The colours of those that may have more samples than colours.
_COLOURS: Final = {_WHITE_IS_ZERO: 1, 1: 1, 2: 3, _CMYK: 4}
# Values of ExtraSamples: alpha, with the colours premultiplied or not. 0 is unspecified.
_ALPHAS: Final = (1, 2)

_OLD_JPEG: Final = 6
_JPEG: Final = 7
_SIGNED: Final = 2
_FLOAT: Final = 3

# A scanned magazine has 200 pages of 20 entries. An entry takes 2 us.
_PAGES_MAX: Final = 1000
_ENTRIES_MAX: Final = 50_000
_VALUES_MAX: Final = 16

# Field types with whole numbers: BYTE, SHORT, LONG, LONG8.
_TYPES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class Page:
    """The tags of a page with a few whole numbers as values; `places` is where the values lie in the file."""

    values: dict[int, tuple[int, ...]]
    places: dict[int, int]

    def first(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        return self.values.get(tag, (default,))[0]


def read_pages(file: IO[bytes]) -> Iterator[Page]:
    """Yield the pages of a TIFF or BigTIFF, up to the first directory that cannot be read."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    try:
        if order is None:
            return
        is_big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
        (at,) = struct.unpack_from(f"{order}Q", head, 8) if is_big else struct.unpack_from(f"{order}I", head, 4)
        seen: set[int] = set()
        left = _ENTRIES_MAX
        while at not in seen and at != 0 and len(seen) < _PAGES_MAX:
            seen.add(at)
            page, at, entries = _read_page(file, at, order, left, is_big=is_big)
            left -= entries
            yield page
    except (struct.error, OSError, OverflowError):
        return


def _read_page(file: IO[bytes], at: int, order: str, entries_max: int, *, is_big: bool) -> tuple[Page, int, int]:
    """
    Return the page at an offset, the offset of the next one, and the number of entries.

    Raises struct.error if the file is too short, or the entries are too many.
    """
    count_form, entry_form, next_form = ("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")
    value_bytes = 8 if is_big else 4
    count_bytes = struct.calcsize(f"={count_form}")
    file.seek(at)
    (count,) = struct.unpack(f"{order}{count_form}", file.read(count_bytes))
    if count > entries_max:
        raise struct.error
    head_bytes = struct.calcsize(f"={entry_form}")
    step = head_bytes + value_bytes
    entries = file.read(count * step + value_bytes)
    (following,) = struct.unpack_from(f"{order}{next_form}", entries, count * step)
    values: dict[int, tuple[int, ...]] = {}
    places: dict[int, int] = {}
    for start in range(0, count * step, step):
        tag, kind, number = struct.unpack_from(f"{order}{entry_form}", entries, start)
        if kind not in _TYPES or not 1 <= number <= _VALUES_MAX:
            continue
        form = f"{order}{number}{_TYPES[kind]}"
        size = struct.calcsize(form)
        place = at + count_bytes + start + head_bytes
        data = entries[start + head_bytes : start + head_bytes + size]
        if size > value_bytes:
            (place,) = struct.unpack_from(f"{order}{next_form}", entries, start + head_bytes)
            file.seek(place)
            data = file.read(size)
        if len(data) == size:
            values[tag], places[tag] = struct.unpack(form, data), place
    return Page(values, places), following, count


def check_page(path: str, number: int) -> None:
    """
    Raise ColoursNotSupported for a page, from 0, that libvips decodes to wrong colours instead of an error.

    These are: other colour spaces than `_SHOWN`, which it shows as if they were RGB or grey; old-style JPEG, whose
    tiles come out transparent; YCbCr that is neither JPEG nor subsampled, whose planes are shown as RGB; signed
    integers; float CMYK, and float grey with white as zero. What cannot be read here is left to libvips.
    """
    page = _find_page(path, number)
    if page is not None and not _is_shown_right(page):
        raise ColoursNotSupported


def drop_extra(image: Any, path: str, number: int) -> Any:
    """
    Return a page, from 0, without the samples that it says are neither colour nor alpha.

    Photoshop saves selections and spot colours like that. libvips takes the first one for alpha. Without a word about
    them, the first one is.
    """
    if image.bands < 2 or not image.hasalpha():
        return image
    page = _find_page(path, number)
    if page is None or EXTRA_SAMPLES not in page.values or page.first(PHOTOMETRIC, 1) not in _COLOURS:
        return image
    colours, extra = _COLOURS[page.first(PHOTOMETRIC, 1)], page.values[EXTRA_SAMPLES]
    at = next((n for n, value in enumerate(extra) if value in _ALPHAS), None)
    if at == 0 or colours + len(extra) != image.bands:
        return image
    found = image.extract_band(0, n=colours)
    return found if at is None else found.bandjoin(image.extract_band(colours + at))


def _find_page(path: str, number: int) -> Page | None:
    with open(path, "rb") as file:
        return next((page for n, page in enumerate(read_pages(file)) if n == number), None)


def _is_shown_right(page: Page) -> bool:
    photometric = page.first(PHOTOMETRIC, 1)
    compression, sample_format = page.first(COMPRESSION, 1), page.first(SAMPLE_FORMAT, 1)
    is_plain_ycbcr = photometric == _YCBCR and compression != _JPEG
    return (
        photometric in _SHOWN
        and compression != _OLD_JPEG
        and not (is_plain_ycbcr and page.values.get(SUBSAMPLING, (2, 2)) == (1, 1))
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
