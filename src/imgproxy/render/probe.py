"""
A try of libvips, for `imgproxy check`: `python -m imgproxy.render.probe` prints one line of JSON.

    {"libvips": "8.18.0", "missing": ["avif: ..."], "has_fonts": true}

It is a process of its own, as `check` loads no decoder.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

import pyvips

from imgproxy.render import fonts, vips

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE_PX: Final = 16
_SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"><rect width="9" height="9"/></svg>'


def missing_codecs() -> list[str]:
    """Write and read one small picture in each format, and return a line for each that fails."""
    pixels = pyvips.Image.black(SIDE_PX, SIDE_PX, bands=3).copy(interpretation="srgb")

    def both_ways(encode: Callable[[], bytes]) -> Callable[[], pyvips.Image]:
        return lambda: pyvips.Image.new_from_buffer(encode(), "")

    tries: dict[str, Callable[[], pyvips.Image]] = {
        "jpeg": both_ways(lambda: pixels.jpegsave_buffer(Q=75)),
        "png": both_ways(pixels.pngsave_buffer),
        "png with a palette": both_ways(lambda: pixels.pngsave_buffer(palette=True)),
        "webp": both_ways(lambda: pixels.webpsave_buffer(Q=75)),
        "avif": both_ways(lambda: pixels.heifsave_buffer(Q=50, effort=0, compression="av1")),
        "gif": both_ways(pixels.gifsave_buffer),
        "tiff": both_ways(pixels.tiffsave_buffer),
        "svg": lambda: pyvips.Image.new_from_buffer(_SVG, ""),
    }
    missing = []
    for name, attempt in tries.items():
        try:
            attempt().avg()
        except pyvips.Error as error:
            missing.append(f"{name}: {_first_line(error)}")
    return missing


def _first_line(error: pyvips.Error) -> str:
    return (str(error.detail or error.message).strip().splitlines() or ["no reason"])[0]


def main() -> None:
    """Print what this libvips cannot do."""
    vips.prepare()
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    found = {"libvips": version, "missing": missing_codecs(), "has_fonts": fonts.are_installed()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
