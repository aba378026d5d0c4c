"""
The blocks of a source that hold text, as raw bytes: XMP, IPTC, EXIF and the texts of a PNG.

libvips finds them in the container. Where it gives only a part of a block, changes its bytes, or does not look for it,
the file is read here: a TIFF, a PNG, a GIF, and a JPEG if libvips says that there is something to read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from imgproxy.render import exif, gif_xmp, jpeg_file, png_text
from imgproxy.render.credit import IIM_MARK, PHOTOSHOP_HEAD, find_iim
from imgproxy.render.exif import Tags
from imgproxy.render.png_text import Texts
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.render.source import Source

XMP_FIELD: Final = "xmp-data"
IPTC_FIELD: Final = "iptc-data"
EXIF_FIELD: Final = "exif-data"

# Source: Adobe Photoshop TIFF Technical Notes (2002). The second holds Photoshop's resources.
_TIFF_IIM: Final = 33723
_TIFF_PHOTOSHOP: Final = 34377
_TIFF_IPTC: Final = {_TIFF_IIM: 4_000_000, _TIFF_PHOTOSHOP: 4_000_000}

# A block of this length may go on in the next segment: a JPEG segment holds 65,533 bytes.
_LONG_BLOCK_BYTES: Final = 60_000
_APP13: Final = 0xED


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one source. Those that it does not have are empty. `texts` are keyword and text, of a PNG."""

    xmp: bytes = b""
    iptc: bytes = b""
    exif: Tags = field(default_factory=Tags)
    texts: tuple[tuple[str, bytes], ...] = ()


def read_blocks(source: Source, picture: Mapping[int, int], camera: Mapping[int, int]) -> Blocks:
    """Read all blocks. `picture` and `camera` are the wanted tags of EXIF, see `exif.read_file`. Raises OSError."""
    texts = _read_png_texts(source)
    return Blocks(
        xmp=_read_xmp(source, texts),
        iptc=_read_iptc(source, texts),
        exif=_read_exif(source, texts, picture, camera),
        texts=texts.texts,
    )


def read_exif(source: Source, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    """Read EXIF alone, as `read_blocks` does."""
    return _read_exif(source, _read_png_texts(source), picture, camera)


def _read_xmp(source: Source, texts: Texts) -> bytes:
    if source.kind is SourceKind.GIF:
        with open(source.path, "rb") as file:
            return gif_xmp.find(file.read())
    return _blob(source.header, XMP_FIELD) or texts.xmp or png_text.raw_profile(texts, "xmp")


def _read_iptc(source: Source, texts: Texts) -> bytes:
    """Return IPTC-IIM, alone or in Photoshop's resources (see `find_iim`), or nothing."""
    if source.kind is SourceKind.TIFF:  # libvips gives only the first of the two tags
        with open(source.path, "rb") as file:
            found = exif.read_file(file, _TIFF_IPTC, {}).picture
        blocks = [_in_order(found[tag].data) for tag in (_TIFF_IIM, _TIFF_PHOTOSHOP) if tag in found]
        return next((block for block in blocks if find_iim(block)), b"")
    block = _blob(source.header, IPTC_FIELD)
    is_cut = len(block) > _LONG_BLOCK_BYTES or not find_iim(block)
    if block and is_cut and source.kind is SourceKind.JPEG:  # libvips gives the first of several segments
        with open(source.path, "rb") as file:
            return join_app13(file)
    return block or png_text.raw_profile(texts, "iptc", "8bim")


def _in_order(iim: bytes) -> bytes:
    """Undo what programs do that write IIM as LONG, and turn the four bytes of each. The first byte of IIM tells."""
    if iim[:1] == IIM_MARK or iim[3:4] != IIM_MARK:
        return iim
    return b"".join(iim[at : at + 4][::-1] for at in range(0, len(iim), 4))


def _read_exif(source: Source, texts: Texts, picture: Mapping[int, int], camera: Mapping[int, int]) -> Tags:
    if source.kind is SourceKind.TIFF:
        with open(source.path, "rb") as file:
            return exif.read_file(file, picture, camera)
    block = _blob(source.header, EXIF_FIELD) or texts.exif or png_text.raw_profile(texts, "exif", "app1")
    return exif.read_block(block, picture, camera) if block else Tags()


def _read_png_texts(source: Source) -> Texts:
    """Read the texts of a PNG; nothing from other files. Without a buffer, the pixels are not read."""
    if source.kind is not SourceKind.PNG:
        return Texts()
    with open(source.path, "rb", buffering=0) as file:
        return png_text.read_texts(file)


def join_app13(file: BinaryIO) -> bytes:
    """
    Return the Photoshop resources of a JPEG: the content of all its APP13 segments, as one block.

    Photoshop goes on in the next segment, behind a new head.
    """
    parts: list[bytes] = []
    for marker, start, end in jpeg_file.walk(file):
        if marker == _APP13:
            file.seek(start + 4)  # behind the marker and the length
            data = file.read(max(end - start - 4, 0))
            if data.startswith(PHOTOSHOP_HEAD):
                parts.append(data.removeprefix(PHOTOSHOP_HEAD))
    return PHOTOSHOP_HEAD + b"".join(parts) if parts else b""


def _blob(header: Any, name: str) -> bytes:
    return bytes(header.get(name)) if header.get_typeof(name) else b""
