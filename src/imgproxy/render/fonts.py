"""Fonts: whether fontconfig finds any. Without one, the text of drawings is boxes, and no error tells."""

from __future__ import annotations

import sys
from typing import Final

import pyvips

_LETTER: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><text x="2" y="28" font-size="24">%s</text></svg>'
)

_NONE: Final = (
    "fontconfig finds no font: text in SVG files is drawn as boxes. Install fonts that have the measures of the usual "
    "ones, such as fonts-liberation and fonts-dejavu-core, and fontconfig-config with them"
)


def are_installed() -> bool:
    """Draw two letters and see whether they differ: where there is no font, all letters are the same box."""
    try:
        one, other = (pyvips.Image.svgload_buffer((_LETTER % letter).encode()).write_to_memory() for letter in "IW")
    except pyvips.Error:
        return True  # this libvips has no librsvg, so it draws no text
    return bool(one != other)


def warn_if_none() -> None:
    """Write a warning to standard error, which the edge logs, if there are no fonts. Takes 25 ms and 4 MB."""
    if not are_installed():
        print(f"render: {_NONE}", file=sys.stderr, flush=True)  # noqa: T201
