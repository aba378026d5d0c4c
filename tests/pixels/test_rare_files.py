"""Rare files: right, or refused with 422, never a wrong picture. TIFF of every kind, lossless and damaged JPEG."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from imgproxy.errors import ColoursNotSupported, DecodeFailed, ImgproxyError, TooManyPixels
from imgproxy.params.plan import Frames, Mark, Px, RenderPlan, Resize
from imgproxy.render.tiff import read_pages
from tests.support import images
from tests.support.containers import tiff, tiff_page
from tests.support.rendering import LIMITS, PNG, render, render_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = RenderPlan(output=PNG)


def plain(*values: float, dtype: Any = np.uint8) -> NDArray[Any]:
    """16 x 16 px of one colour."""
    return np.broadcast_to(np.array(values, dtype), (16, 16, len(values))).copy()


def one_page(pixels: NDArray[Any], photometric: int, **extra: Any) -> bytes:
    return tiff(tiff_page(pixels, photometric, **extra), data=pixels.tobytes())


# --- TIFF -------------------------------------------------------------------------------------------------------------

GREY, WHITE_0, RGB, MASK, CMYK, YCBCR, LAB, ICC_LAB, CFA = 1, 0, 2, 4, 5, 6, 8, 9, 32803

# The level of half of linear light by sRGB's curve, and of a quarter.
HALF, QUARTER = 188, 137

RIGHT = {
    "32-bit grey": (one_page(plain(2**31, dtype=np.uint32), GREY), (128,)),
    "32-bit grey, white is 0": (one_page(plain(2**31 + 2**30, dtype=np.uint32), WHITE_0), (64,)),
    "32-bit RGB": (one_page(plain(2**31, 2**30, 2**32 - 1, dtype=np.uint32), RGB), (128, 64, 255)),
    "32-bit RGB and alpha": (
        one_page(plain(2**31, 2**30, 2**32 - 1, 2**31, dtype=np.uint32), RGB, t338=[2]),
        (128, 64, 255, 128),
    ),
    "16-bit grey": (one_page(plain(100 * 257, dtype=np.uint16), GREY), (100,)),
    "float grey": (one_page(plain(0.5, dtype=np.float32), GREY), (HALF,)),
    "float grey and alpha": (one_page(plain(0.5, 0.2, dtype=np.float32), GREY, t338=[2]), (HALF, 51)),
    "float RGB": (one_page(plain(0.5, 0.25, 1.0, dtype=np.float32), RGB), (HALF, QUARTER, 255)),
    "float RGB, brighter than white": (one_page(plain(7.0, 0.25, -1.0, dtype=np.float32), RGB), (255, QUARTER, 0)),
    "half float RGB": (one_page(plain(0.5, 0.25, 1.0, dtype=np.float16), RGB), (HALF, QUARTER, 255)),
    "RGB and a saved selection": (one_page(plain(200, 120, 60, 0), RGB, t338=[0]), (200, 120, 60)),
    "RGB, a selection, alpha": (one_page(plain(200, 120, 60, 0, 128), RGB, t338=[0, 2]), (200, 120, 60, 128)),
    "RGB, alpha, a selection": (one_page(plain(200, 120, 60, 128, 0), RGB, t338=[2, 0]), (200, 120, 60, 128)),
    "RGB and a sample without a word": (one_page(plain(200, 120, 60, 128), RGB), (200, 120, 60, 128)),
    "grey and three selections": (one_page(plain(60, 1, 2, 3), GREY, t338=[0, 0, 0]), (60,)),
    "CMYK and a spot colour": (one_page(plain(0, 0, 0, 0, 100), CMYK, t338=[0]), (255, 255, 255)),
    "32-bit RGB and a selection": (one_page(plain(2**31, 2**30, 0, 0, dtype=np.uint32), RGB, t338=[0]), (128, 64, 0)),
    # BT.601 by hand: R = Y + 1.402 (Cr - 128), B = Y + 1.772 (Cb - 128).
    "subsampled YCbCr": (
        tiff(
            {**tiff_page(plain(0, 0, 0), YCBCR), 279: 512, 530: [2, 1]},
            data=bytes([180, 180, 100, 150]) * 128,
        ),
        (211, 174, 130),
    ),
}

REFUSED = {
    "signed 8-bit grey": one_page(plain(-100, dtype=np.int8), GREY),
    "signed 8-bit RGB": one_page(plain(-100, 100, 50, dtype=np.int8), RGB),
    "signed 16-bit grey": one_page(plain(-100, dtype=np.int16), GREY),
    "signed 16-bit RGB": one_page(plain(100, 200, 300, dtype=np.int16), RGB),
    "signed 32-bit grey": one_page(plain(2**30, dtype=np.int32), GREY),
    "YCbCr without JPEG and subsampling": one_page(plain(180, 100, 150), YCBCR, t530=[1, 1]),
    "float CMYK": one_page(plain(0.1, 0.3, 0.5, 0, dtype=np.float32), CMYK),
    "float grey, white is 0": one_page(plain(0.25, dtype=np.float32), WHITE_0),
    "a mask": one_page(plain(1), MASK),
    "ICC Lab": one_page(plain(200, 120, 130), ICC_LAB),
    "sensor data": one_page(plain(100), CFA),
}


@pytest.mark.parametrize("name", RIGHT)
def test_tiff_kinds_that_are_shown(name: str) -> None:
    """The colours of a TIFF come out right."""
    data, want = RIGHT[name]
    found = np.atleast_1d(render(data, PLAIN).pixels[5, 5]).astype(int)
    assert found.shape == (len(want),)
    assert np.abs(found - want).max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_tiff_kinds_that_are_refused(name: str) -> None:
    """A TIFF whose colours would come out wrong is 422, also if it is a BigTIFF."""
    with pytest.raises(ColoursNotSupported) as caught:
        render(REFUSED[name], PLAIN)
    assert caught.value.status == 422
    with pytest.raises(ImgproxyError):
        render(as_big(REFUSED[name]), PLAIN)


def as_big(data: bytes) -> bytes:
    """The same one-page TIFF as a BigTIFF: offsets of 8 bytes. The old directory stays as unused bytes."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = b""
    for n in range(count):
        tag, kind, number, value = struct.unpack_from("<HHI4s", data, at + 2 + 12 * n)
        size = {3: 2, 4: 4}[kind] * number
        if size > 4:
            (place,) = struct.unpack("<I", value)
            value = data[place : place + size] if size <= 8 else struct.pack("<Q", place + 8)
        if tag == 273:
            value = struct.pack("<I", struct.unpack("<I", value)[0] + 8)
        entries += struct.pack("<HHQ", tag, kind, number) + value.ljust(8, b"\0")
    body = data[8:]
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(body))
    return head + body + struct.pack("<Q", count) + entries + bytes(8)


def test_a_big_tiff_is_shown() -> None:
    """The BigTIFF of these tests is one that libtiff reads."""
    data, want = RIGHT["32-bit RGB"]
    assert render(as_big(data), PLAIN).pixels[5, 5].tolist() == list(want)


@pytest.mark.parametrize("is_tiled", [True, False])
def test_old_style_jpeg_in_tiff_is_refused(is_tiled: bool) -> None:
    """Old-style JPEG (compression 6), in tiles or strips, is 422."""
    data = images.jpeg(images.quarters(64, 48))
    scan = data.index(b"\xff\xda")
    page: dict[int, Any] = {256: 64, 257: 48, 258: [8, 8, 8], 259: [6], 262: [6], 277: [3], 512: [1]}
    page |= {513: 8, 514: len(data), 530: [1, 1]}
    place, size = 8 + scan, len(data) - scan
    page |= {322: 64, 323: 48, 324: place, 325: size} if is_tiled else {273: place, 278: 48, 279: size}
    with pytest.raises(ColoursNotSupported):
        render(tiff(page, data=data), PLAIN)


def test_jpeg_compressed_ycbcr_tiff_is_shown() -> None:
    """New-style JPEG in a TIFF, also without subsampling, is still shown."""
    pixels = images.quarters(64, 48)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    for quality in (75, 95):  # libvips subsamples below 90
        data = bytes(image.tiffsave_buffer(compression="jpeg", Q=quality))
        assert images.mean_difference(render(data, PLAIN).pixels, pixels) < 3


def test_float_rgb_with_a_profile() -> None:
    """Float RGB is converted by its profile, as the same colours in 8 bits are."""
    linear = pyvips.Image.new_from_array(plain(200 / 255, 120 / 255, 60 / 255, dtype=np.float32))
    data = bytes(linear.copy(interpretation="scrgb").tiffsave_buffer(profile="p3"))
    assert np.abs(render(data, PLAIN).pixels[5, 5].astype(int) - (213, 115, 42)).max() <= 1


def test_lab_in_16_bits() -> None:
    """16-bit Lab: L* is 0 to 65,535, a* and b* are 256 times their value. Compared with CIE's formulas."""
    lightness, a, b = 76.0, -12.0, 23.0
    pixels = plain(round(lightness * 655.35), round(a * 256) % 65536, round(b * 256), dtype=np.uint16)
    y = (lightness + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200]) ** 3 * (0.9642, 1, 0.8249)
    d50_to_bt709 = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    light = np.array(d50_to_bt709) @ xyz
    want = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    found = render(one_page(pixels, LAB), PLAIN).pixels[5, 5]
    assert np.abs(found - want).max() <= 1


def test_pages_of_different_kinds() -> None:
    """Each page of a TIFF has its own size, colours and refusal; one page does not change another."""
    first, lab = plain(10, 20, 30), np.broadcast_to(np.array((128, 0, 0), np.uint8), (8, 40, 3)).copy()
    signed = plain(5, dtype=np.int8)
    data = tiff(
        tiff_page(first, RGB),
        tiff_page(lab, LAB, at=8 + first.nbytes),
        tiff_page(signed, GREY, at=8 + first.nbytes + lab.nbytes),
        data=first.tobytes() + lab.tobytes() + signed.tobytes(),
    )
    assert np.array_equal(render(data, PLAIN).pixels, first)
    second = render(data, RenderPlan(frames=Frames(page=2), output=PNG)).pixels
    assert second.shape == (8, 40, 3)
    assert np.abs(second[3, 3].astype(int) - 120).max() <= 3  # L* of 50 is level 119
    with pytest.raises(ColoursNotSupported):
        render(data, RenderPlan(frames=Frames(page=3), output=PNG))


def test_the_pixel_limit_holds_for_every_page() -> None:
    """A second page with too many pixels is refused by its own header."""
    first = plain(1)
    page = {**tiff_page(first, GREY), 256: 100_000, 257: 100_000}
    data = tiff(tiff_page(first, GREY), page, data=first.tobytes())
    assert render(data, PLAIN).rendered.width_px == 16
    with pytest.raises(TooManyPixels):
        render(data, RenderPlan(frames=Frames(page=2), output=PNG))


# --- lossless JPEG ----------------------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def lossless_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of process 14 (ITU-T T.81, annex H): predictor 1, and one Huffman table with nine codes of four bits."""
    height, width, bands = pixels.shape
    samples = pixels.astype(int)
    predicted = np.full_like(samples, 128)
    predicted[:, 1:] = samples[:, :-1]
    predicted[1:, 0] = samples[:-1, 0]
    bits = ""
    for difference in (samples - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        bits += f"{size:04b}"
        if size:
            bits += f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    names = b"RGB"[:bands]
    frame = struct.pack(">BHHB", 8, height, width, bands) + b"".join(bytes([name, 0x11, 0]) for name in names)
    table = bytes([0]) + bytes([0, 0, 0, 9] + [0] * 12) + bytes(range(9))
    start = bytes([bands]) + b"".join(bytes([name, 0]) for name in names) + bytes([1, 0, 0])
    return b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, table) + segment(0xDA, start) + scan + b"\xff\xd9"


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("width", [64, 32, 20, 8])
def test_lossless_jpeg_is_whole_at_every_size(bands: int, width: int) -> None:
    """A lossless JPEG (SOF3) is the whole picture, however much it is reduced, not its top left corner."""
    pixels = images.photo(64, 48)[..., :bands]
    found = render(lossless_jpeg(pixels), RenderPlan(resize=Resize(width=Px(width)), output=PNG)).pixels
    small = Image.fromarray(pixels.squeeze()).resize((width, width * 3 // 4), Image.Resampling.LANCZOS)
    assert found.shape == np.asarray(small).shape
    assert images.mean_difference(found, np.asarray(small)) < 2


def test_a_cut_lossless_jpeg_is_refused() -> None:
    """Half of a lossless JPEG is 422, with and without an end marker."""
    data = lossless_jpeg(images.photo(64, 48))
    for tail in (b"", b"\xff\xd9"):
        with pytest.raises(DecodeFailed):
            render(data[: len(data) // 2] + tail, PLAIN)


# --- damaged JPEG -----------------------------------------------------------------------------------------------------

WHOLE = images.photo(640, 480)


def jpeg_cut(share: float, tail: bytes, **options: Any) -> bytes:
    """The first part of a JPEG, with something else instead of its end."""
    data = images.jpeg(WHOLE, **options)
    scan = data.rindex(b"\xff\xda")
    return data[: scan + round((len(data) - 2 - scan) * share)] + tail


@pytest.mark.parametrize("tail", [b"", b"\xff\xd9", b"\xff", bytes(50)])
@pytest.mark.parametrize("is_progressive", [False, True])
@pytest.mark.parametrize("width", [640, 100])
def test_a_jpeg_that_lacks_its_end_is_shown(tail: bytes, is_progressive: bool, width: int) -> None:
    """A JPEG with all its pixels is shown, with or without the marker at the end."""
    data = jpeg_cut(1.0, tail, progressive=is_progressive)
    found = render(data, RenderPlan(resize=Resize(width=Px(width)), output=PNG)).pixels
    want = render(images.jpeg(WHOLE), RenderPlan(resize=Resize(width=Px(width)), output=PNG)).pixels
    assert images.largest_difference(found, want) <= 16
    assert images.mean_difference(found, want) < 0.2


@pytest.mark.parametrize("tail", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("width", [640, 100])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_a_jpeg_that_lacks_more_is_refused(share: float, tail: bytes, width: int) -> None:
    """A JPEG that lacks more than 2 % of its rows is refused, also if it ends with the marker of the end."""
    with pytest.raises(DecodeFailed):
        render(jpeg_cut(share, tail), RenderPlan(resize=Resize(width=Px(width)), output=PNG))


@pytest.mark.parametrize("is_progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_jpeg_whose_end_is_zeros_is_refused(share: float, is_progressive: bool) -> None:
    """A download into a file of the final size that stopped is 422: libjpeg would read the zeros as pixels."""
    missing = round(len(images.jpeg(WHOLE, progressive=is_progressive)) * (1 - share))
    with pytest.raises(DecodeFailed):
        render(jpeg_cut(share, bytes(missing), progressive=is_progressive), PLAIN)


def test_zeros_behind_the_end_are_padding() -> None:
    """A whole JPEG with zeros after its end marker is shown."""
    data = images.jpeg(WHOLE)
    assert np.array_equal(render(data + bytes(len(data)), PLAIN).pixels, render(data, PLAIN).pixels)


@pytest.mark.parametrize("tail", [b"", b"\xff\xd9"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(tail: bytes) -> None:
    """A progressive JPEG that ends in an earlier scan is coarse everywhere, and refused."""
    data = images.jpeg(WHOLE, progressive=True)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 4
    with pytest.raises(DecodeFailed):
        render(data[: (scans[2] + scans[3]) // 2] + tail, PLAIN)


def test_allow_truncated_shows_what_there_is() -> None:
    """With `limits.allow_truncated` half of a JPEG is shown, with grey below."""
    limits = replace(LIMITS, allow_truncated=True)
    found = render(jpeg_cut(0.5, b""), PLAIN, limits=limits).pixels
    assert images.mean_difference(found[:200], WHOLE[:200]) < 4
    assert (found[-100:] == 128).all()


def test_a_warning_alone_does_not_refuse() -> None:
    """A JPEG about which libjpeg only warns (stray bytes before a marker) is shown as it was."""
    data = images.jpeg(WHOLE)
    stray = data[:-2] + b"\x12\x34\x56" + data[-2:]
    assert np.array_equal(render(stray, PLAIN).pixels, render(data, PLAIN).pixels)


def test_a_grey_picture_that_is_whole_is_not_taken_for_empty() -> None:
    """A JPEG whose lower half is mid-grey is shown: only where libjpeg complains are empty rows counted."""
    pixels = WHOLE.copy()
    pixels[240:] = 128
    assert render(images.jpeg(pixels), PLAIN).rendered.height_px == 480


def test_a_watermark_that_lacks_its_end_is_painted() -> None:
    """The same holds for watermarks."""
    plan = RenderPlan(mark=Mark("mark"), output=PNG)
    mark = images.jpeg(np.full((32, 32, 3), 200, np.uint8))[:-2]
    result = render(images.png(np.zeros((64, 64, 3), np.uint8)), plan, marks={"mark": mark})
    assert not result.rendered.is_mark_missing
    assert result.pixels.max() >= 199


def test_damaged_cmyk_jpeg() -> None:
    """Empty rows are recognised in CMYK, too."""
    pixels = np.random.default_rng(3).integers(0, 255, (320, 320, 4)).astype(np.uint8)
    out = io.BytesIO()
    Image.frombytes("CMYK", (320, 320), pixels.tobytes()).save(out, "JPEG", quality=80)
    data = out.getvalue()
    assert render(data[:-2], PLAIN).rendered.width_px == 320
    with pytest.raises(DecodeFailed):
        render(data[: len(data) // 2] + b"\xff\xd9", PLAIN)


def test_a_damaged_jpeg_in_several_sizes() -> None:
    """Several variants of one damaged JPEG are each made once."""
    plans = [RenderPlan(resize=Resize(width=Px(width)), output=PNG) for width in (640, 320, 100)]
    results = render_all(jpeg_cut(1.0, b""), *plans)
    assert [result.rendered.width_px for result in results] == [640, 320, 100]


def test_a_tiff_whose_directories_form_a_circle() -> None:
    """A directory that names itself as the next one is read once."""
    pixels = plain(1, 2, 3)
    data = bytearray(one_page(pixels, RGB))
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * count, at)
    assert len(list(read_pages(io.BytesIO(data)))) == 1
