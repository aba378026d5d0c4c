"""Bytes: palette sources stay palette, flat pictures get the smallest encoding, photos are encoded as they were."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageDraw

from imgproxy.params.appearance import Adjust, Border, Colour, Sides
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.render.smallest import is_flat, may_be_flat
from imgproxy.render.source import open_source
from tests.support import images
from tests.support.rendering import LIMITS, render

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


# --- not larger than the source ---------------------------------------------------------------------------------


def radar(step: int) -> Pixels:
    """A frame of a weather radar of 320 x 240 in six colours: cells with ragged edges that move."""
    noise = np.random.default_rng(7).random((60, 100))
    cells = np.kron(np.roll(noise, step, axis=1)[:, :80], np.ones((4, 4)))
    levels = np.array([(240, 244, 230), (120, 180, 240), (40, 110, 220), (40, 160, 60), (240, 200, 40), (220, 50, 30)])
    return np.asarray(levels[np.digitize(cells, (0.5, 0.7, 0.8, 0.88, 0.95))], np.uint8)


def radar_gif(frames: int = 6) -> bytes:
    """An animation of the radar, without dithering."""
    images_ = [Image.fromarray(radar(n)).quantize(8, dither=Image.Dither.NONE) for n in range(frames)]
    out = io.BytesIO()
    images_[0].save(out, "GIF", save_all=True, append_images=images_[1:], duration=100, loop=0)
    return out.getvalue()


@pytest.mark.parametrize("width", [319, 300, 240, 160])
@pytest.mark.parametrize(
    "output", [Output(), Output(format=Format.WEBP), NEGOTIATED], ids=["own format", "fm=webp", "auto=format"]
)
def test_a_reduced_animation_is_not_larger_than_its_source(width: int, output: Output) -> None:
    """A radar of six colours, a pixel or more narrower, is not larger than its source, has its frames, and looks alike."""
    source = radar_gif()
    result = render(source, RenderPlan(resize=Resize(width=Px(width)), output=output))
    assert len(result.data) <= len(source)
    with Image.open(io.BytesIO(result.data)) as image:
        assert getattr(image, "n_frames", 1) == 6
        for n in range(6):
            image.seek(n)
            size = (width, round(240 * width / 320))
            expected = np.asarray(Image.fromarray(radar(n)).resize(size, Image.Resampling.LANCZOS))
            assert images.mean_difference(np.asarray(image.convert("RGB")), expected) < 12


def test_the_last_resort_is_the_colours_of_the_source() -> None:
    """Where fewer colours are not enough, the variant has those of the source and no others."""
    source = radar_gif()
    result = render(source, RenderPlan(resize=Resize(width=Px(319))))
    colours = {tuple(colour) for colour in np.unique(radar(0).reshape(-1, 3), axis=0)}
    with Image.open(io.BytesIO(result.data)) as image:
        shown = {tuple(colour) for colour in np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)}
    assert shown == colours


def test_an_animated_palette_png_stays_an_animation() -> None:
    """Of an animated PNG with a palette, auto=format sends all frames: as WebP, or as GIF where that is smaller."""
    pictures = [Image.fromarray(radar(n)).quantize(8, dither=Image.Dither.NONE) for n in range(4)]
    out = io.BytesIO()
    pictures[0].save(out, "PNG", save_all=True, append_images=pictures[1:], duration=100)
    result = render(out.getvalue(), RenderPlan(resize=Resize(width=Px(300)), output=NEGOTIATED))
    assert result.rendered.content_type in {"image/webp", "image/gif"}
    assert result.rendered.frames == 4
    with Image.open(io.BytesIO(result.data)) as image:
        assert getattr(image, "n_frames", 1) == 4


@pytest.mark.parametrize("width", [639, 480, 320])
def test_a_reduced_palette_png_is_not_larger_than_its_source(width: int) -> None:
    """A chart of 16 colours is not larger than its source at any smaller width."""
    source = palette_png(CHART)
    assert len(render(source, RenderPlan(resize=Resize(width=Px(width)))).data) <= len(source)


@pytest.mark.parametrize(
    "plan",
    [
        RenderPlan(resize=Resize(width=Px(640))),
        RenderPlan(resize=Resize(width=Px(319)), pad=Sides(top_px=9)),
        RenderPlan(resize=Resize(width=Px(319)), border=Border(Sides(3, 3, 3, 3), Colour(1, 2, 3))),
        RenderPlan(resize=Resize(width=Px(319)), background=Colour(1, 2, 3)),
    ],
    ids=["enlarged", "padded", "framed", "on a background"],
)
def test_what_shows_more_than_its_source_may_be_larger(plan: RenderPlan) -> None:
    """An enlarged picture, or one with colours that the source does not have, keeps all its colours."""
    result = render(radar_gif(), plan)
    with Image.open(io.BytesIO(result.data)) as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 6


@pytest.mark.parametrize(
    "output", [Output(format=Format.PNG), Output(format=Format.WEBP, is_lossless=True)], ids=["fm=png", "lossless"]
)
def test_what_is_asked_without_loss_may_be_larger(output: Output) -> None:
    """A reduced chart has the pixels of Pillow's Lanczos filter, with all the colours that it brings in."""
    result = render(palette_png(CHART), RenderPlan(resize=Resize(width=Px(639)), output=output))
    assert len(result.data) > len(palette_png(CHART))
    expected = np.asarray(Image.fromarray(CHART).resize((639, result.pixels.shape[0]), Image.Resampling.LANCZOS))
    assert images.mean_difference(result.pixels, expected) < 0.5


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


def test_auto_format_sends_a_gif_that_is_smaller() -> None:
    """Of a small ellipse on a transparent ground, auto=format sends the GIF that fm=gif is: the WebP would be larger."""
    shape = Image.new("P", (256, 128), 1)
    shape.putpalette([191, 0, 2, 0, 0, 0])
    ImageDraw.Draw(shape).ellipse((20, 5, 235, 120), fill=0)
    out = io.BytesIO()
    shape.save(out, "GIF", transparency=1, optimize=True)
    plan = RenderPlan(resize=Resize(width=Px(128)))
    outputs = (NEGOTIATED, Output(format=Format.GIF), Output(format=Format.WEBP))
    chosen, own, webp = (render(out.getvalue(), replace(plan, output=output)) for output in outputs)
    assert (chosen.rendered.content_type, chosen.data) == ("image/gif", own.data)
    assert len(own.data) < len(webp.data)


def test_a_large_gradient_is_lossless_too() -> None:
    """A gradient whose steps are wider than a pixel is flat, and its lossless WebP is a third of the lossy one."""
    place = np.mgrid[0:600, 0:800].astype(float)
    pixels = np.stack([place[1] * 0.2 + place[0] * 0.1, place[0] * 0.3, 255 - place[1] * 0.25], axis=-1).astype(
        np.uint8
    )
    result = render(images.png(pixels), RenderPlan(output=Output(format=Format.WEBP)))
    assert webp_chunks(result.data) == {b"VP8L"}
    assert len(result.data) < len(images.encode(pixels, "WEBP", quality=82)) / 3


def test_a_large_flat_picture_that_compresses_badly_without_loss_is_lossy() -> None:
    """A large flat picture of noise and plain areas is lossy where that is smaller, as a whole and in a sample."""
    noise = np.random.default_rng(5).normal(128, 3, (600, 320, 3)).clip(0, 255).astype(np.uint8)
    pixels = np.full((600, 800, 3), 200, np.uint8)
    pixels[:, 240:560] = noise
    result = render(images.png(pixels), RenderPlan(output=Output(format=Format.WEBP)))
    assert webp_chunks(result.data) == {b"VP8 "}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_photo_is_encoded_as_asked(kind: str) -> None:
    """Of a photo, auto=format sends the same AVIF as fm=avif, and the WebP is lossy."""
    source = images.encode(images.photo(160, 120), kind)
    chosen = render(source, RenderPlan(output=NEGOTIATED))
    asked = render(source, RenderPlan(output=replace(NEGOTIATED, is_negotiated=False, may_be_webp=False)))
    assert chosen.data == asked.data
    assert webp_chunks(render(source, RenderPlan(output=Output(format=Format.WEBP))).data) == {b"VP8 "}


def test_the_header_of_a_png_tells_a_photo() -> None:
    """A large PNG of more than 6 bits a pixel is a photo, whatever its pixels are; a small file is looked at."""
    noise = np.random.default_rng(3).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    for pixels, level, expected in ((noise, 6, False), (CHART, 6, True), (CHART, 0, False), (CHART[:60, :60], 0, True)):
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(images.png(pixels, compress_level=level))
            file.flush()
            source = open_source(file.name, LIMITS)
        assert may_be_flat(source, Format.WEBP, RenderPlan()) is expected


def test_what_is_flat() -> None:
    """A picture is flat if eleven twentieths of its pixels equal their right neighbour; a column of one pixel is not."""
    noise = np.random.default_rng(3).integers(0, 256, (64, 101, 3)).astype(np.uint8)
    for flat_columns, expected in ((100, True), (60, True), (50, False), (0, False)):
        pixels = noise.copy()
        pixels[:, : flat_columns + 1] = (10, 20, 30)
        assert is_flat(pyvips.Image.new_from_array(pixels)) is expected
    assert not is_flat(pyvips.Image.new_from_array(noise[:, :1].copy()))
