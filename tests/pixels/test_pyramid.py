"""Variants that share a decode look like variants that are made alone."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pyvips
from PIL import Image

from imgproxy.params.appearance import WHITE
from imgproxy.params.plan import Crop, Fit, Format, Output, Px, Rect, RenderPlan, Resize, Trim
from imgproxy.render.scaling import halve
from tests.support import images
from tests.support.rendering import PNG, render, render_all
from tests.support.slow import slow_but

if TYPE_CHECKING:
    from collections.abc import Callable

# Odd sides: no halving of them comes out even.
PHOTO = images.photo(1203, 899)
WIDTHS_PX = (400, 300, 250, 170, 120, 80, 40)
HARBOUR = Path(__file__).parents[2] / "src/imgproxy/demo/photos/2026/03/14/harbour-at-dusk.jpg"
SRCSET_PX = (320, 480, 768, 1920)


def widths(output: Output = PNG, sizes_px: tuple[int, ...] = WIDTHS_PX) -> list[RenderPlan]:
    """A srcset's plans."""
    return [RenderPlan(resize=Resize(width=Px(width)), output=output) for width in sizes_px]


def cmyk_jpeg() -> bytes:
    """The photo as a press would have it, untagged."""
    return images.encode(np.asarray(Image.fromarray(PHOTO).convert("CMYK")), "JPEG", mode="CMYK", quality=95)


def tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of these pixels."""
    return images.encode(pixels, "TIFF")


SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="1203" height="899"><rect width="1203" height="899" fill="#cde"/>
<circle cx="400" cy="300" r="211" fill="#b30"/><path d="M0 899 Q600 200 1203 777" stroke="#036" stroke-width="31"/></svg>"""

ENCODERS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: images.jpeg(PHOTO),
    "JPEG 4:2:0": lambda: images.encode(PHOTO, "JPEG", quality=90, subsampling=2),
    "JPEG on its side": lambda: images.jpeg(PHOTO, exif=images.exif(6)),
    "grey JPEG": lambda: images.encode(PHOTO[..., 1], "JPEG", quality=95),
    "CMYK JPEG": cmyk_jpeg,
    "PNG": lambda: images.png(PHOTO),
    "WebP": lambda: images.encode(PHOTO, "WEBP", quality=95),
    "TIFF": lambda: tiff(PHOTO),
    "SVG": lambda: SVG,
}
RASTER = [kind for kind in ENCODERS if kind != "SVG"]


@cache
def original(kind: str) -> bytes:
    """The photo, or the drawing, as a file of this kind. To write one takes as long as a test."""
    return ENCODERS[kind]()


@pytest.mark.parametrize("kind", RASTER)
def test_a_srcset_made_together_is_the_one_made_apart(kind: str) -> None:
    """Seven widths made together look like those made alone. Without `shared_decode` they have the same bytes."""
    data = original(kind)
    for plan, result in zip(widths(), render_all(data, *widths()), strict=True):
        alone = render(data, plan).pixels
        assert result.pixels.shape == alone.shape
        if not result.rendered.shared_decode:
            assert np.array_equal(result.pixels, alone)
        # Of a JPEG, libjpeg's own way of shrinking alone, which differs most in noise like this (0.999 in a photo); else
        # libvips' box filter, which takes several halvings in one and rounds up.
        assert images.ssim(result.pixels, alone) > (0.98 if "JPEG" in kind else 0.995)
        assert images.mean_difference(result.pixels, alone) < (2.0 if "JPEG" in kind else 1.0)


SHARED = list(product(("JPEG", "PNG", "WebP", "SVG"), (Format.JPEG, Format.WEBP, Format.AVIF)))
SHARED_QUICK = {("JPEG", Format.JPEG), ("PNG", Format.JPEG), ("WebP", Format.JPEG), ("SVG", Format.WEBP)}


@pytest.mark.parametrize(("kind", "output"), slow_but(SHARED_QUICK, SHARED))
def test_a_variant_with_other_bytes_names_its_shared_decode(kind: str, output: Format) -> None:
    """Variants with the same `shared_decode` have the same bytes, so a strong entity tag can include it."""
    data = original(kind)
    plans = widths(Output(format=output))
    seen = set()
    for plan, result in zip(plans, render_all(data, *plans), strict=True):
        seen.add(result.rendered.shared_decode)
        # The largest decides how large they are decoded; what lies between does not matter.
        again = render_all(data, plans[0], plan)[1] if plan != plans[0] else render(data, plan)
        assert (again.data, again.rendered.shared_decode) == (result.data, result.rendered.shared_decode)
        if not result.rendered.shared_decode:
            assert result.data == render(data, plan).data
    assert len(seen) > 1


def test_hidden_colours_do_not_bleed_in_any_size() -> None:
    """The magenta under transparent pixels bleeds into no size of a srcset, and the alpha is the same as made alone."""
    data = images.png(images.with_alpha(PHOTO))
    for plan, result in zip(widths(), render_all(data, *widths()), strict=True):
        alone = render(data, plan).pixels
        assert images.mean_difference(result.pixels[..., 3], alone[..., 3]) < 1.0
        assert images.mean_difference(_as_seen(result.pixels), _as_seen(alone)) < 1.0
        assert images.ssim(_as_seen(result.pixels), _as_seen(alone)) > 0.995


def _as_seen(pixels: np.ndarray) -> np.ndarray:
    """The picture on black."""
    found: np.ndarray = pixels[..., :3].astype(np.float64) * pixels[..., 3:] / 255
    return found


def test_frames_of_a_shared_animation_keep_their_order() -> None:
    """Every frame of an animation made in several sizes together looks like the frame made alone."""
    frames = [images.photo(402, 300, seed=n) for n in range(3)]
    frames[1][:150] = (200, 30, 30)
    frames[2][150:] = (30, 30, 200)
    data = images.animation("WEBP", frames, [100, 100, 100])
    output = Output(format=Format.WEBP, is_lossless=True)
    plans = widths(output, (200, 90, 40))
    for plan, result in zip(plans, render_all(data, *plans), strict=True):
        alone = render(data, plan)
        assert result.rendered.frames == alone.rendered.frames == 3
        for found, wanted in zip(_frames(result.data), _frames(alone.data), strict=True):
            assert images.mean_difference(found, wanted) < 1.5


def _frames(data: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(data)) as picture:
        found = []
        for number in range(3):
            picture.seek(number)
            found.append(np.asarray(picture.convert("RGB")))
        return found


@pytest.mark.parametrize("kind", ["JPEG", "JPEG on its side", "PNG"])
def test_cuts_and_crops_share_a_decode_without_a_shift(kind: str) -> None:
    """Windows anywhere in the picture, at any scale, show the same part as made alone."""
    data = original(kind)
    square = Resize(width=Px(60), height=Px(60), fit=Fit.CROP, crop=(Crop.LEFT, Crop.TOP))
    plans = [
        *widths(sizes_px=(400,)),
        RenderPlan(resize=square, output=PNG),
        RenderPlan(rect=Rect(Px(101), Px(203), Px(701), Px(601)), resize=Resize(width=Px(70)), output=PNG),
        RenderPlan(rect=Rect(Px(555), Px(333), Px(333), Px(555)), resize=Resize(width=Px(40)), output=PNG),
    ]
    for plan, result in zip(plans, render_all(data, *plans), strict=True):
        alone = render(data, plan)
        assert result.pixels.shape == alone.pixels.shape
        assert images.mean_difference(result.pixels, alone.pixels) < 1.5
        assert images.ssim(result.pixels, alone.pixels) > (0.985 if "JPEG" in kind else 0.995)


def test_a_trimmed_srcset_finds_the_same_edges() -> None:
    """A trim cuts the same edges in variants made together and alone."""
    framed = np.full((700, 900, 3), 255, np.uint8)
    framed[100:600, 150:750] = images.photo(600, 500)
    plans = [replace(plan, trim=Trim("color", colour=WHITE, tolerance=0.1)) for plan in widths(sizes_px=(300, 100, 50))]
    for plan, result in zip(plans, render_all(images.png(framed), *plans), strict=True):
        assert np.array_equal(result.pixels, render(images.png(framed), plan).pixels)


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (3, 901)])
def test_a_strip_is_never_halved_away(size: tuple[int, int]) -> None:
    """A picture that is one pixel wide or high keeps this pixel in every size."""
    data = images.png(images.photo(*size))
    plans = [RenderPlan(resize=Resize(width=Px(1), height=Px(n), fit=Fit.SCALE), output=PNG) for n in (400, 90, 20)]
    for plan, result in zip(plans, render_all(data, *plans), strict=True):
        assert images.mean_difference(result.pixels, render(data, plan).pixels) < 6


def test_halving_keeps_the_mean() -> None:
    """Three halvings of noise, each rounded to 8 bits, change the mean by less than a tenth of a level."""
    noise = np.random.default_rng(5).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    image = pyvips.Image.new_from_array(noise)
    for _ in range(3):
        image = halve(image)
    assert (image.width, image.height) == (64, 64)
    assert abs(image.avg() - noise.mean()) < 0.1


def test_a_srcset_of_24_megapixels_looks_like_renders_apart() -> None:
    """The widths of a page, of a photo of 24 megapixels, look like those made alone: SSIM above 0.99 before encoding."""
    data = HARBOUR.read_bytes()
    plans = widths(PNG, SRCSET_PX)
    for plan, result in zip(plans, render_all(data, *plans), strict=True):
        assert images.ssim(result.pixels, render(data, plan).pixels) > 0.99
