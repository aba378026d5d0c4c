"""
TIFF in 8-bit CIE L*a*b*, which Photoshop writes in Lab mode. libvips 8.18 refuses it ("bad labq format").

One value in the header is changed, so that libvips reads the file as RGB. The three bands are then converted: L* is
0-100 in 0-255, a* and b* are signed bytes. Source: TIFF 6.0, section 23.
"""

from __future__ import annotations

from typing import Any, Final

from imgproxy.render.tiff import BITS_PER_SAMPLE, CIE_LAB, PHOTOMETRIC, Page, read_pages

_RGB: Final = 2


def as_rgb_file(path: str, number: int) -> bytes | None:
    """Return the file with its 8-bit Lab pages declared as RGB, or None if page `number`, from 0, is not one."""
    with open(path, "rb") as file:
        pages = dict(enumerate(read_pages(file)))
        if number not in pages or not _is_eight_bit_lab(pages[number]):
            return None
        spaces = [page.values[PHOTOMETRIC] for page in pages.values() if _is_eight_bit_lab(page)]
        file.seek(0)
        data = bytearray(file.read())
    for space in spaces:  # a SHORT, or a LONG
        end = space.place + len(space.data)
        data[space.place : end] = _RGB.to_bytes(len(space.data), "little" if space.order == "<" else "big")
    return bytes(data)


def _is_eight_bit_lab(page: Page) -> bool:
    return page.numbers(PHOTOMETRIC) == (CIE_LAB,) and page.first(BITS_PER_SAMPLE) == 8


def as_lab(image: Any) -> Any:
    """Convert bands that were loaded as RGB to L*a*b*. A fourth band is alpha."""
    lightness = image.extract_band(0).linear(100 / 255, 0)
    signed = image.extract_band(1, n=2)
    signed = (signed >= 128).ifthenelse(signed.cast("float") - 256, signed)
    lab = lightness.bandjoin(signed.cast("float"))
    if image.bands > 3:
        lab = lab.bandjoin(image.extract_band(3).cast("float"))
    return lab.copy(interpretation="lab")
