"""
Colours that a container describes without an ICC profile, compared with the standards' own numbers in NumPy.

The matrices are the published ones (BT.2087 for BT.2020; SMPTE EG 432-1's primaries for P3), not the product's, which
are computed from chromaticities.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
import pyvips
from PIL import Image

from imgproxy.params.plan import ColourSpace, Format, Frames, Output, Px, RenderPlan, Resize
from imgproxy.render import jpeg_file, profiles
from imgproxy.render import tiff as tiff_module
from imgproxy.render.characteristics import Transfer, read_png
from imgproxy.render.heif import read_heif
from imgproxy.render.primaries import to_xyz_d50
from tests.pixels.test_colour import by_littlecms, delta_e, embedded_profile
from tests.support import images
from tests.support.containers import avif, avif_of_items, chrm, cicp, gama, tiff, tiff_page, with_chunks, with_nclx
from tests.support.rendering import PNG, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PLAIN = RenderPlan(output=PNG)

P3_TO_BT709 = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])

P3, BT2020, SRGB, PQ, HLG = 12, 9, 13, 16, 18


def swatches() -> NDArray[np.uint8]:
    """Patches of 8 x 8 px: the issue's colour, greys, and colours inside and outside of sRGB."""
    colours = [
        (200, 120, 60),
        (128, 128, 128),
        (255, 255, 255),
        (0, 0, 0),
        (90, 130, 160),
        (230, 80, 70),
        (60, 200, 90),
    ]
    return np.repeat(np.repeat(np.array([colours], np.uint8), 8, axis=0), 8, axis=1)


def decode_srgb(values: Floats) -> Floats:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: Floats) -> Floats:
    """IEC 61966-2-1, in levels of 255; what is outside is clipped."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


# --- SDR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["png", "avif"])
@pytest.mark.parametrize(
    ("primaries", "transfer", "matrix"),
    [(P3, SRGB, P3_TO_BT709), (BT2020, 14, BT2020_TO_BT709), (BT2020, SRGB, BT2020_TO_BT709)],
)
def test_wide_primaries_become_srgb(container: str, primaries: int, transfer: int, matrix: Floats) -> None:
    """P3 and BT.2020 by code points are converted by the standards' matrices."""
    pixels = swatches()
    if container == "png":
        data = with_chunks(images.png(pixels), cicp(primaries, transfer))
    else:
        data = with_nclx(avif(pixels), primaries, transfer)
    want = encode_srgb(decode_srgb(pixels / 255) @ matrix.T)
    assert images.largest_difference(render(data, PLAIN).pixels, want) < 1.6


def test_p3_of_the_issue() -> None:
    """P3 (200, 120, 60) is about (213, 115, 42) in sRGB."""
    data = with_nclx(avif(swatches()), P3, SRGB)
    assert np.abs(render(data, PLAIN).pixels[4, 4].astype(int) - (213, 115, 42)).max() <= 1


@pytest.mark.parametrize(("primaries", "transfer"), [(1, SRGB), (1, 1), (2, 2), (1, 6), (77, SRGB), (1, 77)])
def test_srgb_and_unknown_codes_change_nothing(primaries: int, transfer: int) -> None:
    """BT.709 with any camera curve, and codes that are not known, are taken for sRGB."""
    pixels = swatches()
    for data in (
        with_chunks(images.png(pixels), cicp(primaries, transfer)),
        with_nclx(avif(pixels), primaries, transfer),
    ):
        result = render(data, PLAIN)
        assert np.array_equal(result.pixels, pixels)
        assert embedded_profile(result.data) is None


@pytest.mark.parametrize(("transfer", "gamma"), [(4, 2.2), (5, 2.8), (8, 1.0)])
def test_gamma_curves(transfer: int, gamma: float) -> None:
    """The curves that are powers, and linear light, are decoded as such."""
    pixels = swatches()
    data = with_chunks(images.png(pixels), cicp(1, transfer))
    assert images.largest_difference(render(data, PLAIN).pixels, encode_srgb((pixels / 255) ** gamma)) < 1.6


def test_cs_origin_keeps_the_numbers_and_names_the_space() -> None:
    """cs=origin embeds a profile of the space, which means the same colours; fm=json names it."""
    pixels = swatches()
    data = with_chunks(images.png(pixels), cicp(P3, SRGB))
    result = render(data, RenderPlan(output=Output(format=Format.PNG, colour_space=ColourSpace.ORIGIN)))
    profile = embedded_profile(result.data)
    assert profile is not None
    assert np.array_equal(result.pixels, pixels)
    by_vips_p3 = by_littlecms(Image.fromarray(pixels), images.vips_profile("p3"))
    assert images.largest_difference(by_littlecms(Image.fromarray(pixels), profile), by_vips_p3) <= 1
    described = json.loads(render(data, RenderPlan(output=Output(format=Format.JSON))).data)
    assert described["ProfileName"] == "Display P3, sRGB"


def test_a_scaled_picture_is_converted_too() -> None:
    """A P3 picture that is scaled has the colours of sRGB."""
    data = with_nclx(avif(np.full((64, 64, 3), (200, 120, 60), np.uint8)), P3, SRGB)
    pixels = render(data, RenderPlan(resize=Resize(width=Px(16)), output=PNG)).pixels
    assert np.abs(pixels.astype(int) - (213, 115, 42)).max() <= 1


def test_a_profile_and_codes() -> None:
    """In PNG `cICP` is stronger than a profile. In AVIF the profile is stronger than the codes."""
    pixels, press = swatches(), images.vips_profile("p3")
    for codes, want in ((cicp(1, SRGB), pixels), (cicp(77, 77), by_littlecms(Image.fromarray(pixels), press))):
        data = with_chunks(images.png(pixels, icc_profile=press), codes)
        assert images.largest_difference(render(data, PLAIN).pixels, want) <= 1
    tagged = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", press)
    data = bytes(tagged.heifsave_buffer(compression="av1", lossless=True))
    assert images.largest_difference(render(data, PLAIN).pixels, by_littlecms(Image.fromarray(pixels), press)) <= 1


# --- gAMA and cHRM --------------------------------------------------------------------------------------------------

ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
REC709 = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def test_gama_and_chrm_without_a_profile() -> None:
    """The gamma and chromaticities of Adobe RGB give what its profile gives."""
    pixels = images.photo(96, 64)
    data = with_chunks(images.png(pixels), gama(256 / 563), chrm(*ADOBE))
    want = by_littlecms(Image.fromarray(pixels), profiles.adobe_rgb())
    found = render(data, PLAIN).pixels
    assert delta_e(found, want) < 0.5
    assert images.largest_difference(found, want) <= 2


def test_gama_alone_is_a_curve() -> None:
    """A gamma of 1 without chromaticities is linear light with sRGB's primaries, in colour and in grey."""
    pixels = swatches()
    want = encode_srgb(pixels / 255)
    assert images.largest_difference(render(with_chunks(images.png(pixels), gama(1.0)), PLAIN).pixels, want) < 1.6
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = render(with_chunks(images.png(grey), gama(1.0)), PLAIN).pixels
    assert found.ndim == 2
    assert images.largest_difference(found, encode_srgb(grey / 255)) < 1.6


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455), chrm(*REC709)],
        [gama(1 / 2.2)],
        [gama(0.0)],
        [chrm(0, 0, 0, 0, 0, 0, 0, 0)],
        [chrm(0.3, 0.3, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4)],
        [(b"sRGB", b"\0"), gama(1.0), chrm(*ADOBE)],
        [(b"gAMA", b"\0\0")],
        [(b"cICP", b"\x0c")],
    ],
)
def test_chunks_that_mean_srgb_or_nothing(chunks: list[tuple[bytes, bytes]]) -> None:
    """Values of sRGB, impossible values, chunks of a wrong length, and chunks next to `sRGB` change no pixel."""
    pixels = swatches()
    assert np.array_equal(render(with_chunks(images.png(pixels), *chunks), PLAIN).pixels, pixels)


# --- range ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_full", [True, False])
def test_monochrome_avif_in_either_range(is_full: bool) -> None:
    """A monochrome AVIF in video range has the same greys as one in full range."""
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (16, 1))
    data = images.encode(
        grey, "AVIF", quality=100, subsampling="4:0:0", range="full" if is_full else "limited", codec="aom"
    )
    found = render(data, PLAIN).pixels
    assert images.largest_difference(found if found.ndim == 2 else found[..., 0], grey) <= 2


def test_colour_avif_in_video_range_is_not_extended_twice() -> None:
    """A colour AVIF in video range has its colours."""
    pixels = np.full((32, 32, 3), (200, 120, 60), np.uint8)
    data = images.encode(pixels, "AVIF", quality=100, subsampling="4:4:4", range="limited", codec="aom")
    assert images.largest_difference(render(data, PLAIN).pixels, pixels) <= 3


def without_colr(data: bytes) -> bytes:
    """The same AVIF without its colour box: the bitstream describes itself."""
    assert data.count(b"colrnclx") == 1
    return data.replace(b"colrnclx", b"freenclx")


@pytest.mark.parametrize("is_full", [True, False])
def test_monochrome_avif_without_a_colour_box(is_full: bool) -> None:
    """The range is in the bitstream, too, and is used if the container does not say it."""
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (16, 1))
    data = images.encode(
        grey, "AVIF", quality=100, subsampling="4:0:0", range="full" if is_full else "limited", codec="aom"
    )
    found = render(without_colr(data), PLAIN).pixels
    assert images.largest_difference(found if found.ndim == 2 else found[..., 0], grey) <= 2


def test_the_colours_of_a_bitstream() -> None:
    """Without a colour box the code points of the AV1 sequence header are used."""
    pixels = swatches()
    data = without_colr(avif(pixels))
    assert np.array_equal(render(data, PLAIN).pixels, pixels)
    assert read_heif(io.BytesIO(data)) is None
    # The codes 1, 13, 0 of the header, which begin at any bit, become 12, 13, 0. Then the range is written, too.
    at = data.index(b"mdat") + 4
    bits = "".join(f"{byte:08b}" for byte in data[at : at + 40])
    codes = f"{1:08b}{13:08b}{0:08b}"
    assert bits.count(codes) == 1
    start = bits.index(codes)
    changed = bits[:start] + f"{12:08b}{13:08b}{0:08b}" + "1" + bits[start + 24 : -1]
    head = bytes(int(changed[n : n + 8], 2) for n in range(0, len(changed), 8))
    colours = read_heif(io.BytesIO(data[:at] + head + data[at + 40 :]))
    assert colours is not None
    assert colours.primaries.name == "Display P3"


@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_in_video_range_is_extended(depth: int) -> None:
    """`cICP` with a narrow range: 16 is black, 235 is white, alpha is not changed."""
    narrow = np.array([[(16, 126, 235, 90), (235, 60, 200, 255)]], np.uint8)
    if depth == 8:
        data = images.png(narrow)
    else:
        deep = pyvips.Image.new_from_array(narrow.astype(np.uint16) * 256).copy(interpretation="rgb16")
        data = bytes(deep.pngsave_buffer())
    found = render(with_chunks(data, cicp(1, SRGB, full_range=0)), PLAIN).pixels
    want = (narrow[..., :3].astype(float) - 16) * 255 / 219
    assert images.largest_difference(found[..., :3], want) <= 1
    assert images.largest_difference(found[..., 3], narrow[..., 3]) <= 1


# --- HDR ------------------------------------------------------------------------------------------------------------


def pq_value(nits: Floats | float) -> Floats:
    """SMPTE ST 2084, inverse EOTF."""
    power = (np.asarray(nits, float) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def pq_nits(value: Floats) -> Floats:
    """SMPTE ST 2084, EOTF."""
    power = np.asarray(value, float) ** (1 / 78.84375)
    return 10000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def eetf(nits: Floats) -> Floats:
    """BT.2390, 5.4.1, from 1000 to 203 cd/m2 with a black of 0."""
    top = pq_value(1000)
    most = pq_value(203) / top
    knee = 1.5 * most - 0.5
    value = np.minimum(pq_value(nits) / top, 1)
    t = np.maximum((value - knee) / (1 - knee), 0)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_nits(np.where(value < knee, value, spline) * top)


def hlg_light(value: Floats) -> Floats:
    """BT.2100, table 5: inverse OETF, OOTF for 1000 cd/m2. The result is in cd/m2."""
    scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    brightness = scene @ np.array([0.2627, 0.6780, 0.0593])
    found: Floats = 1000 * brightness[..., None] ** 0.2 * scene
    return found


def hdr_swatches() -> NDArray[np.uint16]:
    """16-bit code values: a ramp of greys, then random colours that do not leave sRGB too far."""
    greys = np.repeat(np.linspace(0, 65535, 64)[:, None], 3, axis=1)
    base = np.random.default_rng(7).uniform(0.2, 0.7, (64, 1))
    colours = (base + np.random.default_rng(8).uniform(-0.08, 0.08, (64, 3))) * 65535
    found: NDArray[np.uint16] = np.concatenate([greys, colours])[None].repeat(4, axis=0).round().astype(np.uint16)
    return found


def deep_png(pixels: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    return with_chunks(
        bytes(pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16").pngsave_buffer()), *chunks
    )


@pytest.mark.parametrize(("transfer", "light"), [(PQ, pq_nits), (HLG, hlg_light)])
def test_hdr_png_is_tone_mapped(transfer: int, light: Any) -> None:
    """PQ and HLG become SDR by the EETF of BT.2390, then BT.709 by the matrix."""
    pixels = hdr_swatches()
    want = encode_srgb(eetf(light(pixels / 65535)) / 203 @ BT2020_TO_BT709.T)
    found = render(deep_png(pixels, cicp(BT2020, transfer)), PLAIN)
    assert images.largest_difference(found.pixels, want) < 2
    assert images.mean_difference(found.pixels, want) < 0.5
    assert embedded_profile(found.data) is None


def test_hdr_avif_of_10_bits_is_tone_mapped() -> None:
    """A 10-bit PQ AVIF is tone-mapped, too; a code of 1023 is white."""
    codes = (np.arange(0, 1024, 16)[None, :, None].repeat(16, axis=0).repeat(3, axis=2)).astype(np.uint16)
    codes[:, -1] = 1023
    data = with_nclx(avif((codes << 6).astype(np.uint16)), BT2020, PQ)
    want = encode_srgb(eetf(pq_nits(codes / 1023)) / 203)
    found = render(data, PLAIN).pixels
    assert images.largest_difference(found, want) < 2
    assert found[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("nits", "level"), [(0, 0), (1, 15), (10, 63), (50, 136), (203, 229), (1000, 255), (4000, 255)]
)
def test_the_tone_curve_at_known_lights(nits: int, level: int) -> None:
    """Up to 88 cd/m2 light is kept, reference white (203) is level 229, 1000 and more is white."""
    pixels = np.full((8, 8, 3), round(float(pq_value(nits)) * 65535), np.uint16)
    found = render(deep_png(pixels, cicp(BT2020, PQ)), PLAIN).pixels
    assert np.abs(found[0, 0].astype(int) - level).max() <= 1


def test_hlg_at_75_per_cent_is_reference_white() -> None:
    """An HLG signal of 75 % is reference white (BT.2408, table 1): the same level as 203 cd/m2 in PQ."""
    pixels = np.full((8, 8, 3), round(0.75 * 65535), np.uint16)
    found = render(deep_png(pixels, cicp(BT2020, HLG)), PLAIN).pixels
    assert np.abs(found[0, 0].astype(int) - 229).max() <= 1


@pytest.mark.parametrize("space", list(ColourSpace))
def test_hdr_in_every_colour_space(space: ColourSpace) -> None:
    """Every value of `cs` gives a tone-mapped picture; cs=origin cannot keep HDR."""
    pixels = np.full((8, 8, 3), round(float(pq_value(50)) * 65535), np.uint16)
    output = Output(format=Format.PNG, colour_space=space)
    found = render(deep_png(pixels, cicp(BT2020, PQ)), RenderPlan(output=output))
    assert np.abs(found.pixels[0, 0].astype(int) - 136).max() <= 3
    assert (embedded_profile(found.data) is not None) == (space in (ColourSpace.ADOBERGB, ColourSpace.TINYSRGB))


def test_hdr_with_alpha_and_grey() -> None:
    """Alpha is kept, a grey PQ picture stays grey, an 8-bit one works, and scaling comes before the curve."""
    code = round(float(pq_value(50)) * 65535)
    with_alpha = np.full((8, 8, 4), code, np.uint16)
    with_alpha[..., 3] = 128 * 257
    found = render(deep_png(with_alpha, cicp(BT2020, PQ)), RenderPlan(resize=Resize(width=Px(4)), output=PNG)).pixels
    assert np.abs(found[0, 0].astype(int) - (136, 136, 136, 128)).max() <= 1
    grey = pyvips.Image.new_from_array(np.full((8, 8), code, np.uint16)).copy(interpretation="grey16")
    found = render(with_chunks(bytes(grey.pngsave_buffer()), cicp(BT2020, PQ)), PLAIN).pixels
    assert found.ndim == 2
    assert abs(int(found[0, 0]) - 136) <= 1
    shallow = images.png(np.full((8, 8, 3), round(code / 257), np.uint8))
    found = render(with_chunks(shallow, cicp(BT2020, PQ)), PLAIN).pixels
    assert np.abs(found[0, 0].astype(int) - 136).max() <= 2


# --- items ----------------------------------------------------------------------------------------------------------


def test_the_primary_item_is_shown() -> None:
    """Of an AVIF with several pictures the primary one is shown, at its size; page=2 is the first of the others."""
    first, second = np.full((16, 48, 3), 40, np.uint8), np.full((64, 24, 3), 200, np.uint8)
    data = avif_of_items([first, second], primary=1)
    for page, want in ((1, second), (2, first), (9, first)):
        found = render(data, RenderPlan(frames=Frames(page=page), output=PNG)).pixels
        assert found.shape[:2] == want.shape[:2]
        assert (
            images.largest_difference(
                found[..., :3] if found.ndim == 3 else found, want if found.ndim == 3 else want[..., 0]
            )
            <= 1
        )
    described = json.loads(render(data, RenderPlan(output=Output(format=Format.JSON))).data)
    assert (described["PixelWidth"], described["PixelHeight"]) == (24, 64)


# --- garbage --------------------------------------------------------------------------------------------------------


def test_garbage_in_a_container_never_raises() -> None:
    """Headers with random bytes changed, or cut anywhere, give an answer or None, never an exception."""
    random = np.random.default_rng(5)
    pixels = swatches()
    page = tiff_page(pixels, 2)
    files: list[tuple[bytes, Callable[[BinaryIO], object]]] = [
        (with_chunks(images.png(pixels), cicp(P3, SRGB), gama(0.5), chrm(*ADOBE)), read_png),
        (with_nclx(avif(pixels), P3, SRGB), read_heif),
        (avif_of_items([pixels, pixels], primary=1), read_heif),
        (without_colr(avif(pixels)), read_heif),
        (tiff(page, page, data=pixels.tobytes()), lambda file: list(tiff_module.read_pages(file))),
        (images.jpeg(pixels), jpeg_file.is_lossless),
    ]
    for data, read in files:
        for n in range(2000):
            changed = bytearray(data)
            for _ in range(1 + n % 4):
                changed[random.integers(0, min(len(data), 700))] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
            read(io.BytesIO(changed[: random.integers(0, len(data)) if n % 3 == 0 else None]))


def test_impossible_chromaticities_make_no_profile() -> None:
    """Random numbers in `cHRM` either make a profile or count as missing."""
    random = np.random.default_rng(6)
    for _ in range(300):
        values = random.choice([0.0, 0.00001, 0.1, 0.3127, 0.33, 0.6, 0.7, 1.0, 20_000.0], 8)
        colours = read_png(io.BytesIO(with_chunks(images.png(swatches()), chrm(*values), gama(random.uniform(0, 12)))))
        if colours is not None and colours.transfer is not Transfer.SRGB:
            profiles.write_profile(colours.name, profiles.to_columns(to_xyz_d50(colours.primaries)), 256)
