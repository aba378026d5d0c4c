"""
Reads tags of EXIF blocks and TIFF files: the bytes of a value, as they are in the file.

libvips has EXIF only as text for display: "Jane Doe (dpa) (Jane Doe (dpa), ASCII, 15 components, 15 bytes)". It cannot
be told there where the text of the file ends, and bytes that are no UTF-8 are lost. Libraries for EXIF in pure Python
give texts for display as well, or are not maintained.

Two directories are read, IFD 0 and the Exif IFD that it names. No chain is followed, so no loop can be.
Source: CIPA DC-008-2023 (Exif 3.0), 4.6.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from imgproxy.render.directories import open_tiff
from imgproxy.render.text import decode_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.render.directories import Value

ARTIST: Final = 0x013B
COPYRIGHT: Final = 0x8298
USER_COMMENT: Final = 0x9286
PHOTOGRAPHER: Final = 0xA437
_EXIF_IFD: Final = 0x8769

# Two bytes follow, which should be NUL.
_EXIF_HEAD: Final = b"Exif"

_ASCII_NAMES: Final = frozenset({b"ASCII\0\0\0", bytes(8)})


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of IFD 0, which describe the picture, and of the Exif IFD, which describe how it was taken."""

    picture: Mapping[int, Value] = field(default_factory=dict)
    camera: Mapping[int, Value] = field(default_factory=dict)


def read_block(block: bytes, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    """Read an EXIF block, with or without "Exif" before it. See `read_file`."""
    start = len(_EXIF_HEAD) + 2 if block.startswith(_EXIF_HEAD) else 0
    return read_file(io.BytesIO(block[start:]), picture, camera)


def read_file(file: BinaryIO, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    """
    Read tags of a TIFF or BigTIFF. No tags if it is none.

    Args:
        file: the file, which can be read at any place.
        picture: the wanted tags of IFD 0, and how many bytes of their values are read. What is longer is cut.
        camera: the same of the Exif IFD.
    """
    tiff = open_tiff(file)
    if tiff is None:
        return Tags()
    found = tiff.directory(tiff.first, {**picture, _EXIF_IFD: 8})
    pointer = found.pop(_EXIF_IFD, None)
    at = pointer.numbers()[:1] if pointer is not None else ()
    if at and isinstance(at[0], int) and at[0] > 0:
        return Tags(found, tiff.directory(at[0], camera))
    return Tags(found)


def read_comment(value: Value) -> str:
    """
    Return the text of a UserComment: its first eight bytes name the encoding. Source: Exif 3.0, 4.6.6.5.

    Of the four encodings JIS is not read. Many programs leave the name empty.
    """
    name, text = value.data[:8], value.data[8:]
    if name == b"UNICODE\0":
        return text.decode("utf-16-le" if value.order == "<" else "utf-16-be", "replace").rstrip("\0")
    return decode_text(text.partition(b"\0")[0]) if name in _ASCII_NAMES else ""
