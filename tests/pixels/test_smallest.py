"""Bytes: palette sources stay palette, flat pictures get the smallest encoding, photos are encoded as they were."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageDraw

from imgproxy.params.appearance import Adjust
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.render.smallest import is_flat
from tests.support import images
from tests.support.rendering import render

if TYPE_CHECKING:
    from tests.support.images import Pixels

HALF = Resize(width=Px(320))
NEGOTIATED = Output(format=Format.AVIF, is_negotiated=True, may_be_webp=True)


def chart(step: int = 0) -> Pixels:
    """A chart of 640 x 480 in ten colours: bars, lines, and dots that move with `step`."""
    image = Image.new("RGB", (640, 480), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for n in range(8):
        draw.line((40, 60 + 50 * n, 620, 60 + 50 * n), (190, 190, 190))
        draw.rectangle((50 + 70 * n, 420 - 40 * n, 100 + 70 * n, 420), (30 * n, 90, 220 - 25 * n))
        draw.ellipse((40 + 70 * n + 9 * step, 430, 70 + 70 * n + 9 * step, 460), (30 * n, 90, 220 - 25 * n))
    return np.asarray(image)


CHART = chart()


def palette_png(pixels: Pixels, colours: int = 16) -> bytes:
    """A PNG with a palette, without dithering."""
    out = io.BytesIO()
    Image.fromarray(pixels).quantize(colours, dither=Image.Dither.NONE).save(out, "PNG")
    return out.getvalue()


def halved(pixels: Pixels) -> Pixels:
    """Half the size, by Pillow."""
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def mode(data: bytes) -> str:
    """Pillow's mode: P is a palette."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode


def webp_chunks(data: bytes) -> set[bytes]:
    """The kinds of pixel data in a WebP: VP8 is lossy, VP8L lossless. Source: RFC 9649, section 2."""
    return {name for name in (b"VP8 ", b"VP8L") if name in data}


# --- palettes ---------------------------------------------------------------------------------------------------


def test_a_palette_png_stays_palette_when_it_is_scaled() -> None:
    """At half width a chart of 16 colours has a palette, is much smaller than in true colour, and looks the same."""
    result = render(palette_png(CHART), RenderPlan(resize=HALF))
    true_colour = render(palette_png(CHART), RenderPlan(resize=HALF, output=Output(format=Format.PNG)))
    assert (mode(result.data), mode(true_colour.data)) == ("P", "RGB")
    assert len(result.data) < 0.6 * len(true_colour.data)
    assert images.mean_difference(result.pixels, halved(CHART)) < 1


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
def test_fm_png_of_a_palette_source_loses_nothing(colours: int) -> None:
    """fm=png has a palette only if it holds every pixel exactly, as it does at full size."""
    data = palette_png(images.photo(160, 120), colours)
    result = render(data, RenderPlan(output=Output(format=Format.PNG)))
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(result.pixels, np.asarray(image.convert("RGB")))
    assert mode(result.data) == "P"


def test_new_colours_need_more_than_the_palette() -> None:
    """With a tone parameter a palette source becomes true colour: the palette was not made for its colours."""
    plan = RenderPlan(resize=HALF, adjust=Adjust(saturation=40))
    assert mode(render(palette_png(CHART), plan).data) == "RGB"


def test_a_true_colour_png_stays_true_colour() -> None:
    """A PNG without a palette never gets one on its own."""
    assert mode(render(images.png(CHART), RenderPlan(resize=HALF)).data) == "RGB"


def test_a_scaled_animation_keeps_a_small_palette() -> None:
    """A GIF of ten colours at half width has up to 64, is smaller than Pillow's file, and shows the same frames."""
    source = images.animation("GIF", [chart(n) for n in range(6)], [100] * 6)
    result = render(source, RenderPlan(resize=HALF))
    assert len(result.data) < len(images.animation("GIF", [halved(chart(n)) for n in range(6)], [100] * 6))
    with Image.open(io.BytesIO(result.data)) as image:
        assert getattr(image, "n_frames", 1) == 6
        for n in range(6):
            image.seek(n)
            shown = np.asarray(image.convert("RGB"))
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 64
            assert images.mean_difference(shown, halved(chart(n))) < 1.5


def test_a_slow_fade_ends_where_it_should() -> None:
    """Small differences between frames are left out, but do not add up: no frame is more than 8 levels off."""
    frames = [np.full((40, 40, 3), (60 + n, 100, 160 - n), np.uint8) for n in range(40)]
    result = render(images.animation("WEBP", frames, [50] * 40), RenderPlan(output=Output(format=Format.GIF)))
    with Image.open(io.BytesIO(result.data)) as image:
        shown: list[Pixels] = []
        for n in range(getattr(image, "n_frames", 1)):
            image.seek(n)
            shown += [np.asarray(image.convert("RGB"))] * round(image.info["duration"] / 50)
    assert len(shown) == 40
    assert max(images.largest_difference(a, b) for a, b in zip(shown, frames, strict=True)) <= 8


# --- flat pictures ----------------------------------------------------------------------------------------------


def test_a_flat_webp_is_lossless_where_that_is_smaller() -> None:
    """A chart becomes a lossless WebP that is smaller than Pillow's lossy one, with pixels within 2 levels."""
    result = render(images.png(CHART), RenderPlan(output=Output(format=Format.WEBP)))
    assert webp_chunks(result.data) == {b"VP8L"}
    assert images.largest_difference(result.pixels, CHART) <= 2
    assert len(result.data) < len(images.encode(CHART, "WEBP", quality=75))


def test_a_flat_png_has_the_filters_that_make_it_smaller() -> None:
    """A PNG of flat text-like noise is smaller than Pillow's with adaptive filters, and has the same pixels."""
    dots = np.random.default_rng(5).random((240, 320)) < 0.05
    pixels = np.where(dots[..., None], (180, 30, 40), (250, 250, 245)).astype(np.uint8)
    result = render(images.png(pixels), RenderPlan())
    assert np.array_equal(result.pixels, pixels)
    assert len(result.data) < 0.9 * len(images.png(pixels))


def test_an_animated_chart_is_lossless_too() -> None:
    """An animated GIF as WebP is lossless where that is smaller."""
    source = images.animation("GIF", [chart(n) for n in range(4)], [100] * 4)
    result = render(source, RenderPlan(output=Output(format=Format.WEBP)))
    assert webp_chunks(result.data) == {b"VP8L"}
    assert len(result.data) < len(source)


def test_auto_format_sends_the_smaller_of_avif_and_webp() -> None:
    """Of a chart, auto=format sends a WebP that is smaller than the AVIF. fm=avif is an AVIF."""
    chosen = render(images.png(CHART), RenderPlan(output=NEGOTIATED))
    asked = render(images.png(CHART), RenderPlan(output=Output(format=Format.AVIF)))
    assert (chosen.rendered.content_type, asked.rendered.content_type) == ("image/webp", "image/avif")
    assert len(chosen.data) < len(asked.data)
    assert images.largest_difference(chosen.pixels, CHART) <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_photo_is_encoded_as_asked(kind: str) -> None:
    """Of a photo, auto=format sends the same AVIF as fm=avif, and the WebP is lossy."""
    source = images.encode(images.photo(160, 120), kind)
    chosen = render(source, RenderPlan(output=NEGOTIATED))
    asked = render(source, RenderPlan(output=replace(NEGOTIATED, is_negotiated=False, may_be_webp=False)))
    assert chosen.data == asked.data
    assert webp_chunks(render(source, RenderPlan(output=Output(format=Format.WEBP))).data) == {b"VP8 "}


def test_what_is_flat() -> None:
    """A picture is flat if three fifths of its pixels equal their right neighbour; a column of one pixel is not."""
    noise = np.random.default_rng(3).integers(0, 256, (64, 101, 3)).astype(np.uint8)
    for flat_columns, expected in ((100, True), (65, True), (55, False), (0, False)):
        pixels = noise.copy()
        pixels[:, : flat_columns + 1] = (10, 20, 30)
        assert is_flat(pyvips.Image.new_from_array(pixels)) is expected
    assert not is_flat(pyvips.Image.new_from_array(noise[:, :1].copy()))
