"""Bitmaps of every depth and header, written by hand and by Pillow, compared with NumPy."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.errors import DecodeFailed, NotAnImage, TooManyPixels
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from tests.pixels.test_colour import by_littlecms
from tests.support import images
from tests.support.rendering import LIMITS, PNG, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = RenderPlan(output=PNG)
PIXELS = images.photo(13, 7)  # rows need padding in every depth

RGB, RLE8, RLE4, BITFIELDS, ALPHA_BITFIELDS = 0, 1, 2, 3, 6


def bmp(
    size: tuple[int, int], bits: int, rows: bytes, *, compression: int = RGB, header_bytes: int = 40, extra: bytes = b""
) -> bytes:
    """A BMP: `extra` is what follows the 40 bytes that all newer headers share, masks and palette."""
    width, height = size
    if header_bytes == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    start = 14 + len(head) + len(extra)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + extra + rows


def pad(row: bytes) -> bytes:
    return row + bytes(-len(row) % 4)


def rows_of(values: NDArray[Any], *, is_top_down: bool = False) -> bytes:
    """Rows of whole bytes, bottom row first."""
    return b"".join(pad(row.tobytes()) for row in (values if is_top_down else values[::-1]))


def shown(data: bytes) -> NDArray[Any]:
    return render(data, PLAIN).pixels


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_what_pillow_writes(mode: str) -> None:
    """Bitmaps of another program have its pixels."""
    image = Image.fromarray(PIXELS).convert(mode)
    want = np.asarray(image.convert("RGBA" if mode == "RGBA" else "RGB"))
    out = io.BytesIO()
    image.save(out, "BMP")
    found = shown(out.getvalue())
    assert np.array_equal(found, want[..., :3] if found.shape[2] == 3 else want)


@pytest.mark.parametrize(
    ("header_bytes", "is_top_down"),
    [(12, False), *((size, is_top_down) for size in (40, 56, 108, 124) for is_top_down in (False, True))],
)
def test_24_bits(header_bytes: int, is_top_down: bool) -> None:
    """24 bits are blue, green, red, with any header, upright or top-down."""
    height = -7 if is_top_down else 7
    extra = bytes(max(header_bytes - 40, 0))
    data = bmp(
        (13, height), 24, rows_of(PIXELS[..., ::-1], is_top_down=is_top_down), header_bytes=header_bytes, extra=extra
    )
    assert np.array_equal(shown(data), PIXELS)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("header_bytes", [12, 40])
def test_palettes(bits: int, header_bytes: int) -> None:
    """Palette indices of each depth, with three or four bytes an entry."""
    random = np.random.default_rng(bits)
    indices = random.integers(0, 2**bits, (7, 13))
    palette = random.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    rows = b""
    for row in indices[::-1]:
        text = "".join(f"{index:0{bits}b}" for index in row)
        text += "0" * (-len(text) % 8)
        rows += pad(bytes(int(text[n : n + 8], 2) for n in range(0, len(text), 8)))
    spare = b"" if header_bytes == 12 else b"\0"
    extra = b"".join(entry[::-1].tobytes() + spare for entry in palette)
    data = bmp((13, 7), bits, rows, header_bytes=header_bytes, extra=extra)
    assert np.array_equal(shown(data), palette[indices])


def test_an_index_without_an_entry_is_black() -> None:
    """A palette that is too short leaves black."""
    data = bmp((4, 1), 8, bytes([0, 1, 2, 255]), extra=b"\x0a\x14\x1e\0")
    assert shown(data).tolist() == [[[30, 20, 10], [0, 0, 0], [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("bits", "masks", "header_bytes"),
    [
        (16, None, 40),
        (16, (0xF800, 0x07E0, 0x001F, 0), 40),
        (16, (0x0F00, 0x00F0, 0x000F, 0xF000), 108),
        (32, None, 40),
        (32, (0xFF000000, 0x00FF0000, 0x0000FF00, 0), 40),
        (32, (0x3FF00000, 0x000FFC00, 0x000003FF, 0), 40),
        (32, (0x000000FF, 0x0000FF00, 0x00FF0000, 0xFF000000), 124),
        (32, (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000), 56),
    ],
)
def test_masks(bits: int, masks: tuple[int, int, int, int] | None, header_bytes: int) -> None:
    """Any masks; each colour is stretched to 0 to 255."""
    used = masks or {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}[bits]
    random = np.random.default_rng(bits)
    codes = random.integers(0, 2**bits, (7, 13), dtype=np.uint64)
    want = []
    for mask in used:
        if mask:
            shift = (mask & -mask).bit_length() - 1
            want.append(np.round(((codes & mask) >> shift) * 255 / (mask >> shift)))
    rows = rows_of(codes.astype("<u2" if bits == 16 else "<u4"))
    count = 3 if masks and header_bytes == 40 else 0
    extra = struct.pack("<4I", *used)[: 4 * count] if header_bytes == 40 else struct.pack("<4I", *used)
    extra = extra if header_bytes == 40 else extra.ljust(header_bytes - 40, b"\0")
    compression = BITFIELDS if masks else RGB
    data = bmp((13, 7), bits, rows, compression=compression, header_bytes=header_bytes, extra=extra)
    assert images.largest_difference(shown(data), np.dstack(want)) <= 1


def test_alpha_that_is_0_everywhere_is_not_alpha() -> None:
    """Programs that know no alpha leave it 0. Browsers show such a bitmap as opaque."""
    codes = np.full((7, 13), 0x00102030, "<u4")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(84, b"\0")
    found = shown(bmp((13, 7), 32, rows_of(codes), compression=BITFIELDS, header_bytes=124, extra=masks))
    assert found[0, 0].tolist() == [16, 32, 48]


GREYS = b"".join(bytes([n, n, n, 0]) for n in range(256))


def test_run_lengths_of_8_bits() -> None:
    """Runs, literal parts with padding, jumps, ends of rows, and a run that leaves the row."""
    runs = bytes([3, 10, 0, 3, 1, 2, 3, 0]) + b"\0\0"  # the bottom row
    runs += bytes([0, 2, 2, 1]) + bytes([9, 7]) + b"\0\0"  # right by two, up by one: the third row
    runs += bytes([6, 200]) + b"\0\1"
    want = [[200] * 6, [0, 0, 7, 7, 7, 7], [0] * 6, [10, 10, 10, 1, 2, 3]]
    assert shown(bmp((6, 4), 8, runs, compression=RLE8, extra=GREYS))[..., 0].tolist() == want


def test_run_lengths_of_4_bits() -> None:
    """A run alternates between two indices; a literal part has two indices a byte."""
    runs = bytes([5, 0x12, 0, 3, 0x34, 0x50]) + b"\0\0" + bytes([8, 0x66]) + b"\0\1"
    want = [[6] * 8, [1, 2, 1, 2, 1, 3, 4, 5]]
    data = bmp((8, 2), 4, runs, compression=RLE4, extra=GREYS[:64])
    assert shown(data)[..., 0].tolist() == want


def test_an_embedded_profile_is_used() -> None:
    """The profile in a version 5 header converts the colours."""
    profile = images.vips_profile("p3")
    rows = rows_of(PIXELS[..., ::-1])
    fields = bytearray(84)
    fields[16:20] = b"DEBM"
    struct.pack_into("<2I", fields, 72, 124 + len(rows), len(profile))
    data = bmp((13, 7), 24, rows, header_bytes=124, extra=bytes(fields)) + profile
    assert images.largest_difference(shown(data), by_littlecms(Image.fromarray(PIXELS), profile)) <= 1


def test_a_bmp_becomes_jpeg_or_png() -> None:
    """A BMP cannot be sent as BMP: it becomes JPEG, or PNG with alpha, and it is scaled like any other."""
    photo = images.photo(320, 240)
    data = images.encode(photo, "BMP")
    result = render(data, RenderPlan(resize=Resize(width=Px(80))))
    assert result.rendered.content_type == "image/jpeg"
    small = np.asarray(Image.fromarray(photo).resize((80, 60), Image.Resampling.LANCZOS))
    assert images.mean_difference(result.pixels, small) < 4
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(84, b"\0")
    codes = np.full((7, 13), 0x80102030, "<u4")
    with_alpha = bmp((13, 7), 32, rows_of(codes), compression=BITFIELDS, header_bytes=124, extra=masks)
    assert render(with_alpha, RenderPlan()).rendered.content_type == "image/png"
    assert render(data, RenderPlan(output=Output(format=Format.JSON))).rendered.size_bytes > 0


@pytest.mark.parametrize(
    "data",
    [
        bmp((13, 7), 24, bytes(278)),  # one byte is missing, besides padding
        bmp((13, 7), 24, b"", compression=4),  # JPEG inside
        bmp((13, 7), 5, bytes(400)),
        bmp((0, 7), 24, bytes(400)),
        bmp((-13, 7), 24, bytes(400)),
        bmp((6, 4), 8, bytes([3, 10]), compression=RLE8, extra=GREYS),
        bmp((6, 4), 8, bytes([0]), compression=RLE8, extra=GREYS),
        bmp((4, 4), 32, bytes(64), compression=BITFIELDS, extra=struct.pack("<3I", 0xFFFFFFFF, 0, 0)),
        bmp((13, 7), 24, bytes(280))[:30],
    ],
)
def test_damaged_bitmaps_are_refused(data: bytes) -> None:
    """A bitmap that is cut or makes no sense is 422."""
    with pytest.raises(DecodeFailed):
        render(data, PLAIN)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A header of 65,535 x 65,535 px in run lengths is refused by the limit of pixels."""
    with pytest.raises(TooManyPixels):
        render(bmp((65_535, 65_535), 8, b"\0\1", compression=RLE8, extra=GREYS), PLAIN, limits=LIMITS)


def test_no_garbage_raises_another_error() -> None:
    """Bitmaps with random bytes changed are shown or refused with an error of ours."""
    random = np.random.default_rng(11)
    originals = [
        bmp((13, 7), 24, rows_of(PIXELS)),
        bmp((6, 4), 8, bytes([3, 10, 0, 3, 1, 2, 3, 0, 0, 0, 0, 2, 2, 1, 9, 7, 0, 1]), compression=RLE8, extra=GREYS),
        bmp((4, 4), 32, bytes(64), compression=BITFIELDS, extra=struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)),
    ]
    for n in range(300):
        data = bytearray(originals[n % 3])
        for _ in range(3):
            data[random.integers(2, 80)] = random.integers(0, 256)
        with suppress(DecodeFailed, TooManyPixels, NotAnImage):
            render(bytes(data), PLAIN)


@pytest.mark.parametrize("bits", [4, 24])
def test_the_padding_of_the_last_row_may_be_missing(bits: int) -> None:
    """All pixels are there, so the file is whole; one byte less is a pixel less."""
    side = 3
    row = b"\x11\x10" if bits == 4 else bytes((0, 0, 255)) * side
    extra = bytes(4) + bytes((0, 0, 255, 0)) * 15 if bits == 4 else b""
    whole = bmp((side, side), bits, pad(row) * (side - 1) + row, extra=extra)
    assert (shown(whole)[..., :3] == (255, 0, 0)).all()
    with pytest.raises(DecodeFailed):
        shown(whole[:-1])


@pytest.mark.parametrize("end", [b"", b"\0\0", b"\0\1"])
def test_the_end_mark_of_runs_may_be_missing(end: bytes) -> None:
    """Where the runs fill the last row, there is nothing more to come; where they do not, the file is cut."""
    palette = bytes(4) + bytes((0, 0, 255, 0)) * 255
    rows = b"\4\1\0\0" * 3 + b"\4\1"
    assert (shown(bmp((4, 4), 8, rows + end, compression=RLE8, extra=palette))[..., :3] == (255, 0, 0)).all()
    with pytest.raises(DecodeFailed):
        shown(bmp((4, 4), 8, rows[:-2] + b"\3\1", compression=RLE8, extra=palette))


@pytest.mark.parametrize("bits", [8, 24])
def test_pixels_without_a_place_follow_the_header(bits: int) -> None:
    """Some programs write 0 where the place of the pixels belongs: it is behind header and palette."""
    side = 4
    rows = b"\1" * 16 if bits == 8 else bytes((0, 0, 255)) * side * side
    extra = bytes(4) + bytes((0, 0, 255, 0)) * 255 if bits == 8 else b""
    data = bytearray(bmp((side, side), bits, rows, extra=extra))
    data[10:14] = bytes(4)
    assert (shown(bytes(data))[..., :3] == (255, 0, 0)).all()
