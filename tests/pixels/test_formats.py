"""Output: formats, their parameters, `q`, and descriptions (JSON, BlurHash, palette)."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.errors import DecodeFailed, NotAnImage
from imgproxy.params.appearance import Colour
from imgproxy.params.plan import Fit, Format, Metadata, Output, Px, RenderPlan, Resize, Trim
from imgproxy.render.encoders import avif_effort
from tests.support import images
from tests.support.rendering import LIMITS, PNG, render

PIXELS = images.photo(160, 120)
SOURCE = images.png(PIXELS)
HARBOUR = next(Path(__file__, "../../../src/imgproxy/demo/photos").resolve().rglob("harbour-at-dusk.jpg"))
DRAWING = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="20" height="20" fill="#f00"/>'
    b'<rect x="20" width="20" height="20" fill="#00f"/></svg>'
)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("wanted", "name", "content_type"),
    [
        (Format.JPEG, "JPEG", "image/jpeg"),
        (Format.PNG, "PNG", "image/png"),
        (Format.PNG8, "PNG", "image/png"),
        (Format.WEBP, "WEBP", "image/webp"),
        (Format.AVIF, "AVIF", "image/avif"),
        (Format.GIF, "GIF", "image/gif"),
    ],
)
def test_every_format_can_be_written(wanted: Format, name: str, content_type: str) -> None:
    """Each output format has its own file type, and shows the picture."""
    result = render(SOURCE, RenderPlan(output=Output(format=wanted)))
    image = opened(result.data)
    assert (image.format, result.rendered.content_type) == (name, content_type)
    assert images.mean_difference(np.asarray(image.convert("RGB")), PIXELS) < 6
    assert (image.mode == "P") == (wanted in (Format.PNG8, Format.GIF))


@pytest.mark.parametrize(
    ("kind", "has_alpha", "content_type"),
    [
        ("JPEG", False, "image/jpeg"),
        ("PNG", True, "image/png"),
        ("WEBP", True, "image/webp"),
        ("GIF", False, "image/gif"),
        ("AVIF", True, "image/avif"),
        ("TIFF", False, "image/jpeg"),
        ("TIFF", True, "image/png"),
    ],
)
def test_the_source_format_is_kept(kind: str, has_alpha: bool, content_type: str) -> None:
    """Without a format the source's format is kept. One that browsers cannot show becomes JPEG, or PNG with alpha."""
    data = images.encode(images.with_alpha(PIXELS) if has_alpha else PIXELS, kind)
    assert render(data, RenderPlan(resize=Resize(width=Px(80)))).rendered.content_type == content_type


@pytest.mark.parametrize("has_alpha", [False, True])
def test_compress_chooses_by_alpha(has_alpha: bool) -> None:
    """auto=compress: PNG (PNG8 for old clients) if a pixel is transparent, else JPEG."""
    data = images.png(images.with_alpha(PIXELS) if has_alpha else PIXELS)
    plain = render(data, RenderPlan(output=Output(format=Format.COMPRESSED)))
    old = render(data, RenderPlan(output=Output(format=Format.COMPRESSED8)))
    assert plain.rendered.content_type == old.rendered.content_type == ("image/png" if has_alpha else "image/jpeg")
    if has_alpha:
        assert (opened(plain.data).mode, opened(old.data).mode) == ("RGBA", "P")


def test_jpeg_parameters() -> None:
    """Progressive or baseline, halved or full chroma, and the density are in the file as the plan says."""
    for is_progressive in (True, False):
        image = opened(render(SOURCE, RenderPlan(output=Output(Format.JPEG, is_progressive=is_progressive))).data)
        assert bool(image.info.get("progressive")) == is_progressive
    for chroma_444, sampling in ((True, (1, 1)), (False, (2, 2))):
        output = Output(format=Format.JPEG, chroma_444=chroma_444, quality=95, dpi=240)
        image = opened(render(SOURCE, RenderPlan(output=output)).data)
        assert image.layer[0][1:3] == sampling  # type: ignore[attr-defined]
        assert [round(float(n)) for n in image.info["dpi"]] == [240, 240]


@pytest.mark.parametrize("policy", [Metadata.NONE, Metadata.ALL])
@pytest.mark.parametrize("wanted", [Format.JPEG, Format.WEBP, Format.AVIF, Format.PNG, Format.PNG8, Format.GIF])
def test_the_density_of_the_source_is_dropped(wanted: Format, policy: Metadata) -> None:
    """The density in a format's header or in EXIF is 72 dpi, for every density of the source."""
    block = Image.Exif()
    block[0x0110], block[0x011A], block[0x011B] = "Model", 300.0, 300.0
    data = images.jpeg(PIXELS, exif=block.tobytes(), dpi=(300, 300))
    image = opened(render(data, RenderPlan(output=Output(format=wanted, metadata=policy))).data)
    exif = image.getexif()
    told = [*image.info.get("dpi", ()), *(exif[tag] for tag in (0x011A, 0x011B) if tag in exif)]
    assert {round(float(dpi)) for dpi in told} <= {72}
    assert told or policy is Metadata.NONE or wanted is Format.GIF


def test_colour_counts() -> None:
    """colorquant limits the palette to the largest power of two that is not above it."""
    for wanted in (Format.PNG8, Format.GIF):
        for colors, most in ((2, 2), (5, 4), (16, 16)):
            result = render(SOURCE, RenderPlan(output=Output(format=wanted, colours=colors)))
            assert len(np.unique(result.pixels.reshape(-1, result.pixels.shape[-1]), axis=0)) <= most


def test_lossless_webp_is_lossless() -> None:
    """lossless=true keeps every pixel."""
    result = render(SOURCE, RenderPlan(output=Output(format=Format.WEBP, is_lossless=True)))
    assert np.array_equal(result.pixels, PIXELS)


@pytest.mark.parametrize("wanted", [Format.JPEG, Format.WEBP, Format.AVIF])
def test_a_higher_q_is_closer_and_larger(wanted: Format) -> None:
    """Each step of `q` gives more bytes and a smaller distance to the source."""
    results = [render(SOURCE, RenderPlan(output=Output(format=wanted, quality=q))) for q in (10, 30, 50, 75, 90)]
    sizes = [len(result.data) for result in results]
    distances = [images.mean_difference(result.pixels, PIXELS) for result in results]
    assert sizes == sorted(sizes)
    assert distances == sorted(distances, reverse=True)


def test_the_default_is_q_75() -> None:
    """No `q` means 75."""
    for wanted in (Format.JPEG, Format.WEBP, Format.AVIF):
        assert (
            render(SOURCE, RenderPlan(output=Output(format=wanted))).data
            == render(SOURCE, RenderPlan(output=Output(format=wanted, quality=75))).data
        )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - SSIM of luma, the mean over five scales."""
    total = 0.0
    x, y = (pixels.astype(float) @ np.array([0.299, 0.587, 0.114]) for pixels in (a, b))
    for _ in range(5):
        total += images.ssim(x, y) / 5
        x, y = (plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3)) for plane in (x, y))
    return 1 - total


@pytest.mark.parametrize("q", [45, 60, 75, 85])
def test_q_means_the_same_quality_in_every_format(q: int) -> None:
    """At the same `q`, WebP and AVIF have about the same distance to one photo as JPEG: q is fitted to the mean of many."""
    with Image.open(HARBOUR) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((480, 320), Image.Resampling.LANCZOS))
    source = images.png(pixels)
    found = {
        wanted: distance(pixels, render(source, RenderPlan(output=Output(format=wanted, quality=q))).pixels)
        for wanted in (Format.JPEG, Format.WEBP, Format.AVIF)
    }
    for wanted in (Format.WEBP, Format.AVIF):
        assert 0.6 < found[wanted] / found[Format.JPEG] < 1.5, found


@pytest.mark.parametrize(
    ("cap_pixels", "content_type"),
    [(160 * 120, "image/avif"), (160 * 120 - 1, "image/webp"), (None, "image/avif")],
)
def test_an_avif_above_the_cap_is_a_webp(cap_pixels: int | None, content_type: str) -> None:
    """A negotiated AVIF with more pixels than its limit becomes a WebP of the same picture."""
    plan = RenderPlan(output=Output(Format.AVIF, is_negotiated=True, avif_max_pixels=cap_pixels))
    result = render(SOURCE, plan)
    assert result.rendered.content_type == content_type
    assert images.mean_difference(np.asarray(opened(result.data).convert("RGB")), PIXELS) < 6


def test_large_avifs_are_encoded_faster() -> None:
    """A large picture gets a lower effort."""
    assert avif_effort(640 * 480) == 1
    assert avif_effort(1920 * 1080) == 0


# --- SVG --------------------------------------------------------------------------------------------------------


def test_an_svg_is_drawn_at_its_final_size() -> None:
    """A drawing enlarged twenty times has sharp edges."""
    result = render(DRAWING, RenderPlan(resize=Resize(width=Px(800)), output=PNG))
    assert result.pixels.shape == (400, 800, 3)
    assert tuple(result.pixels[200, 398]) == (255, 0, 0)
    assert tuple(result.pixels[200, 401]) == (0, 0, 255)


def test_an_svg_stays_an_svg_if_only_its_size_changes() -> None:
    """Without a format, and with nothing but a size, an SVG stays an SVG. A crop makes a raster picture."""
    for plan in (RenderPlan(), RenderPlan(resize=Resize(width=Px(80)))):
        result = render(DRAWING, plan)
        assert result.rendered.content_type == "image/svg+xml"
        assert b"<rect" in result.data
    cropped = RenderPlan(resize=Resize(width=Px(20), height=Px(20), fit=Fit.CROP))
    assert render(DRAWING, cropped).rendered.content_type == "image/jpeg"


def test_an_svg_is_never_drawn_with_more_pixels_than_the_limit() -> None:
    """A drawing of any size is drawn with at most the pixels that a source may have."""
    huge = DRAWING.replace(b'width="40" height="20"', b'width="30000" height="15000" viewBox="0 0 40 20"')
    limits = LIMITS.__class__(1_500_000_000, 1_000_000, 256, 8192)
    result = render(huge, RenderPlan(resize=Resize(width=Px(4000)), output=PNG), limits=limits)
    assert result.rendered.width_px == 4000


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    """In every format, a file that ends too early is refused."""
    data = images.encode(images.photo(320, 240), kind)
    with pytest.raises(DecodeFailed):
        render(data[: len(data) * 2 // 3], RenderPlan(output=PNG))


def test_other_files_are_not_images() -> None:
    """A file that does not begin like one of the formats is refused before a decoder reads it."""
    for data in (b"", b"%PDF-1.7", b"<html><svg></svg></html>", b"BM" + bytes(100), b"8BPS" + bytes(100)):
        with pytest.raises(NotAnImage):
            render(data, RenderPlan())


# --- descriptions -----------------------------------------------------------------------------------------------


def test_fm_json_describes_the_source() -> None:
    """fm=json has the stored size, the orientation, colour and EXIF, but no private fields."""
    block = Image.Exif()
    block[0x0112], block[0x0110] = 6, "Model"
    block.get_ifd(0x8825)[1] = "N"
    data = images.jpeg(PIXELS, exif=block.tobytes(), icc_profile=images.vips_profile("p3"), dpi=(144, 144))
    result = render(data, RenderPlan(resize=Resize(width=Px(10)), output=Output(format=Format.JSON)))
    found: dict[str, Any] = json.loads(result.data)
    assert result.rendered.content_type == "application/json"
    assert (found["PixelWidth"], found["PixelHeight"], found["Orientation"]) == (160, 120, 6)
    assert (found["Content-Type"], found["Content-Length"]) == ("image/jpeg", str(len(data)))
    assert (found["ColorModel"], found["Depth"], found["DPIWidth"]) == ("RGB", 8, 144)
    assert found["TIFF"]["Model"] == "Model"
    assert "P3" in found["ProfileName"]
    assert found["JFIF"] == {"IsProgressive": False}
    assert "GPS" not in result.data.decode()


def test_fm_json_of_an_animation() -> None:
    """Frames and delays of an animation are described as imgix does."""
    data = images.animation("GIF", [PIXELS, PIXELS[::-1]], [40, 60])
    found = json.loads(render(data, RenderPlan(output=Output(format=Format.JSON))).data)
    assert found["Output"] == {"Frames": 2}
    assert found["GIF"]["DelayTime"] == 0.04


def decode_blurhash(text: str, width: int, height: int) -> np.ndarray:
    """A decoder written from woltapp/blurhash's Algorithm.md, independent of our encoder."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~"

    def number(part: str) -> int:
        total = 0
        for letter in part:
            total = total * 83 + digits.index(letter)
        return total

    flag = number(text[0])
    across, down = flag % 9 + 1, flag // 9 + 1
    largest = (number(text[1]) + 1) / 166
    average = number(text[2:6])
    srgb = np.array([average >> 16, (average >> 8) & 255, average & 255]) / 255
    factors = [np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)]
    for n in range(1, across * down):
        value = number(text[4 + n * 2 : 6 + n * 2])
        parts = np.array([value // 361, value // 19 % 19, value % 19])
        factors.append(np.sign(parts - 9) * ((parts - 9) / 9) ** 2 * largest)
    y, x = np.mgrid[0:height, 0:width]
    linear = np.zeros((height, width, 3))
    for n, factor in enumerate(factors):
        basis = np.cos(math.pi * x * (n % across) / width) * np.cos(math.pi * y * (n // across) / height)
        linear += basis[..., None] * factor
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def test_blurhash_decodes_to_the_picture() -> None:
    """An independent decoder finds the picture's colours in the hash, at their places."""
    result = render(SOURCE, RenderPlan(output=Output(format=Format.BLURHASH)))
    text = result.data.decode("ascii")
    assert len(text) == 28
    found = decode_blurhash(text, 16, 12)
    small = np.asarray(Image.fromarray(PIXELS).resize((16, 12), Image.Resampling.BOX))
    plain = np.broadcast_to(small.mean(axis=(0, 1)), small.shape)
    assert images.mean_difference(found, small) < 0.75 * images.mean_difference(plain, small)


def test_palette_json() -> None:
    """The palette of a picture of four colours has these four, the most frequent first, with hex codes."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:] = (200, 20, 30)
    pixels[:16, :] = (20, 30, 200)
    pixels[:8, :] = (240, 240, 240)
    pixels[:4, :20] = (10, 120, 10)
    result = render(images.png(pixels), RenderPlan(output=Output(format=Format.PALETTE_JSON, colours=4)))
    found = json.loads(result.data)
    assert {color["hex"] for color in found["colors"]} == {"#c8141e", "#141ec8", "#f0f0f0", "#0a780a"}
    assert found["colors"][0]["hex"] == "#c8141e"
    luminance = (pixels / 255 @ np.array([0.2126, 0.7152, 0.0722])).mean()
    assert abs(found["average_luminance"] - luminance) < 0.002
    assert found["dominant_colors"]["vibrant"]["hex"] in ("#c8141e", "#141ec8")


def test_palette_css() -> None:
    """The CSS has a foreground and a background class for each colour, with the prefix."""
    output = Output(format=Format.PALETTE_CSS, colours=3, palette_prefix="pic")
    result = render(SOURCE, RenderPlan(output=output))
    text = result.data.decode()
    assert result.rendered.content_type == "text/css; charset=utf-8"
    for n in (1, 2, 3):
        assert f".pic-fg-{n}{{color:#" in text
        assert f".pic-bg-{n}{{background-color:#" in text
    assert ".pic-fg-4" not in text


# --- trim -------------------------------------------------------------------------------------------------------


def framed(ground: tuple[int, ...], noise: int = 0) -> np.ndarray:
    """The photo, 60 x 40, on a plain ground of 100 x 90 at (25, 30)."""
    found = np.empty((90, 100, len(ground)), np.uint8)
    found[:] = ground
    if noise:
        levels = np.random.default_rng(1).integers(-noise, noise + 1, found.shape)
        found = np.clip(found.astype(int) + levels, 0, 255).astype(np.uint8)
    photo = images.photo(60, 40)
    found[30:70, 25:85] = photo if len(ground) == 3 else np.dstack([photo, np.full((40, 60), 255, np.uint8)])
    return found


@pytest.mark.parametrize(
    ("trim", "ground", "noise"),
    [
        (Trim("color"), (250, 250, 250), 3),
        (Trim("color", colour=Colour(0, 0, 0), tolerance=8), (3, 3, 3), 2),
        (Trim("auto"), (255, 255, 255), 0),
        (Trim("auto"), (10, 10, 40), 4),
        (Trim("alpha"), (0, 0, 0, 0), 0),
        (Trim("colorunlessalpha"), (255, 255, 255, 0), 0),
        (Trim("colorunlessalpha"), (255, 255, 255), 0),
    ],
    ids=str,
)
def test_trim_finds_the_picture(trim: Trim, ground: tuple[int, ...], noise: int) -> None:
    """Each mode cuts the plain edges off and leaves exactly the photo."""
    result = render(images.png(framed(ground, noise)), RenderPlan(trim=trim, output=PNG))
    assert (result.rendered.width_px, result.rendered.height_px) == (60, 40)
    assert images.mean_difference(result.pixels[..., :3], images.photo(60, 40)) < 0.01


def test_trim_padding_keeps_a_margin() -> None:
    """trim-pad keeps pixels around the box that was found. A negative value cuts further."""
    for pad, size in ((5, (70, 50)), (-5, (50, 30))):
        plan = RenderPlan(trim=Trim("color", pad_px=pad), output=PNG)
        result = render(images.png(framed((255, 255, 255))), plan)
        assert (result.rendered.width_px, result.rendered.height_px) == size


def test_a_trim_that_would_leave_nothing_is_skipped() -> None:
    """A picture of one colour stays as it is, in every mode."""
    plain = images.png(np.full((30, 40, 3), 77, np.uint8))
    for mode in ("auto", "color", "alpha", "colorunlessalpha"):
        result = render(plain, RenderPlan(trim=Trim(mode), output=PNG))
        assert (result.rendered.width_px, result.rendered.height_px) == (40, 30)
