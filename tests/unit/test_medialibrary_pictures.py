"""The reader of picture headers: the size in every format, and no exception for garbage."""

from __future__ import annotations

import gzip
import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgproxy.medialibrary.server.pictures import Picture, sniff

MIME = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}


def sniff_bytes(data: bytes) -> Picture | None:
    return sniff(lambda offset, length: data[offset : offset + length])


def encoded(kind: str, width_px: int = 61, height_px: int = 37, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (10, 200, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "jpeg with a large profile": ("JPEG", {"icc_profile": b"x" * 200_000, "exif": b"Exif\0\0" + b"e" * 60_000}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "lossy webp": ("WEBP", {"quality": 50}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "extended webp": ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
    "avif": ("AVIF", {"quality": 50}),
    "tiff": ("TIFF", {}),
    "bmp": ("BMP", {}),
    "deflated tiff": ("TIFF", {"compression": "tiff_deflate"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_size_of_each_format(name: str) -> None:
    """Type and size are read from a header that a real encoder wrote."""
    kind, options = CASES[name]

    assert sniff_bytes(encoded(kind, **options)) == Picture(MIME[kind], 61, 37)


@pytest.mark.parametrize("name", CASES)
def test_a_cut_header_gives_none_or_the_right_size(name: str) -> None:
    """A file that is cut anywhere is unreadable or has the right size."""
    kind, options = CASES[name]
    data = encoded(kind, **options)
    right = Picture(MIME[kind], 61, 37)
    for end in [*range(min(len(data), 600)), len(data) // 2]:
        assert sniff_bytes(data[:end]) in {None, right}


def test_big_endian_tiff() -> None:
    """A big-endian TIFF with its directory after the pixels and SHORT sides is read."""
    tags = b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in ((256, 300), (257, 200), (258, 8), (259, 1))
    )
    data = b"MM\0*" + struct.pack(">I", 1008) + b"\0" * 1000 + struct.pack(">H", 4) + tags + b"\0" * 4

    assert sniff_bytes(data) == Picture("image/tiff", 300, 200)


def test_the_largest_item_of_an_avif_is_the_picture() -> None:
    """Tiles and thumbnails have sizes too; the largest is the picture's."""
    sizes = b"".join(
        struct.pack(">I4sI", 20, b"ispe", 0) + struct.pack(">II", *size)
        for size in ((512, 512), (4000, 3000), (160, 120))
    )
    meta = struct.pack(">I4sI", 12 + len(sizes), b"meta", 0) + sizes
    brand = struct.pack(">I4s4sI4s", 20, b"ftyp", b"mif1", 0, b"heic")

    assert sniff_bytes(brand + meta) == Picture("image/heic", 4000, 3000)


SVGS = {
    '<svg width="120" height="80"/>': (120, 80),
    '<?xml version="1.0"?>\n<!-- by hand --><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 12"></svg>': (
        24,
        12,
    ),
    '<svg width="1in" height="2.54cm" viewBox="0,0,1,1">': (96, 96),
    '<svg width="100%" height="50%" viewBox="0 0 640 480">': (640, 480),
    "<svg:svg xmlns:svg='x' width='10px' height='20px'>": (10, 20),
    '<!DOCTYPE svg PUBLIC "a" "b">\n<svg>': (300, 150),
    '<svg data-a="1 > 0" width="7" height="8">': (7, 8),
    '<svg width=".5in" height=" 12.5 px ">': (48, 12),
    f"<svg {'a' * 60_000} width='7' height='8'>": (7, 8),
    f"<svg a{' ' * 60_000} width='7' height='8'>": (7, 8),
    f"<svg height='8' width='{'1' * 60_000}.x' viewBox='0 0 7 9'>": (7, 8),
}


@pytest.mark.parametrize("text", SVGS)
def test_svg_sizes(text: str) -> None:
    """Units, viewBox, percentages, prefixes and quotes give the size that a browser would use."""
    width_px, height_px = SVGS[text]

    assert sniff_bytes(text.encode()) == Picture("image/svg+xml", width_px, height_px)


def test_svgs_that_are_packed_or_wide() -> None:
    """A compressed SVG and one in UTF-16 have the size that they say."""
    text = '<svg width="7" height="8">'

    for data in (gzip.compress(text.encode()), text.encode("utf-16")):
        assert sniff_bytes(data) == Picture("image/svg+xml", 7, 8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b\x08 damaged",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x00",
        b"\xff\xd8\xff" + b"\xff" * 5000,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 30,
        b"GIF89a\0\0\0\0",
        b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 30,
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"\0\0\0\x18ftypavif\0\0\0\0",
        b"\0\0\0\0ftypavif" + b"\0" * 100,
        b"<html><svg width='1' height='1'></html>",
        b'<svg width="1e999" height="nan">',
        b'<svg viewBox="0 0 99999999999 1">',
        b"<svg " + b"a='" * 20_000,
        b"<!-- " + b"<svg" * 10_000,
        b"hello",
    ],
)
def test_broken_headers(data: bytes) -> None:
    """Cut, empty, senseless or hostile headers give None or an SVG of the default size."""
    found = sniff_bytes(data)

    assert found is None or (found.mime_type == "image/svg+xml" and found.width_px <= 300)


MAGIC = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF....WEBP",
    b"\0\0\0\x20ftypavif",
    b"II*\0",
    b"<svg",
]


@given(st.sampled_from(MAGIC), st.binary(max_size=400))
def test_garbage_never_raises(magic: bytes, rest: bytes) -> None:
    """Random bytes after any magic number give None or a picture of a sane size."""
    found = sniff_bytes(magic + rest)

    assert found is None or (0 < found.width_px <= 10_000_000 and 0 < found.height_px <= 10_000_000)


def test_only_the_header_is_read() -> None:
    """Of a large JPEG less than 1,000 bytes are read."""
    data = encoded("JPEG", icc_profile=b"x" * 500_000)
    read = []

    def read_at(offset: int, length: int) -> bytes:
        read.append(len(data[offset : offset + length]))
        return data[offset : offset + length]

    assert sniff(read_at) == Picture("image/jpeg", 61, 37)
    assert sum(read) < 1000
