"""Orientation: the eight EXIF values, their override, and cuts in upright coordinates."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgproxy.params.plan import Crop, Fit, Format, Metadata, Output, Px, Rect, RenderPlan, Resize
from tests.support import images
from tests.support.rendering import PNG, render

PIXELS = images.photo(96, 64)
EVERY = range(1, 9)


def upright(data: bytes) -> np.ndarray:
    """The picture as people see it, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def stored(orientation: int, kind: str = "PNG") -> bytes:
    """The photo with an orientation tag."""
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return images.encode(PIXELS, kind, exif=images.exif(orientation), **options)


@pytest.mark.parametrize("orientation", EVERY)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_come_out_upright(orientation: int, kind: str) -> None:
    """For each of the eight values, in every format that has it, the result is upright, pixel by pixel."""
    data = stored(orientation, kind)
    result = render(data, RenderPlan(output=PNG))
    assert images.mean_difference(result.pixels, upright(data)) < (1.0 if kind == "JPEG" else 0.01)


@pytest.mark.parametrize("orientation", EVERY)
def test_a_rect_is_in_upright_coordinates(orientation: int) -> None:
    """A rect is in pixels of the upright picture, not of the stored one."""
    data = stored(orientation)
    result = render(data, RenderPlan(rect=Rect(Px(5), Px(9), Px(40), Px(30)), output=PNG))
    assert np.array_equal(result.pixels, upright(data)[9:39, 5:45])


@pytest.mark.parametrize("orientation", EVERY)
def test_crops_are_in_upright_coordinates(orientation: int) -> None:
    """crop=top keeps the top of the upright picture."""
    data = stored(orientation)
    seen = upright(data)
    height, width = seen.shape[:2]
    plan = RenderPlan(
        resize=Resize(width=Px(width), height=Px(height // 2), fit=Fit.CROP, crop=(Crop.TOP,)), output=PNG
    )
    assert np.array_equal(render(data, plan).pixels, seen[: height // 2])


@pytest.mark.parametrize("orientation", EVERY)
def test_orient_overrides_the_tag(orientation: int) -> None:
    """`orient` is applied to the stored pixels instead of the tag."""
    result = render(stored(6), RenderPlan(orient=orientation, output=PNG))
    assert np.array_equal(result.pixels, upright(stored(orientation)))


@pytest.mark.parametrize("wanted", [Format.JPEG, Format.PNG, Format.WEBP, Format.AVIF])
@pytest.mark.parametrize("policy", list(Metadata))
def test_a_variant_has_no_orientation_tag(wanted: Format, policy: Metadata) -> None:
    """A variant is upright, and so has no orientation tag."""
    result = render(stored(6, "JPEG"), RenderPlan(output=Output(format=wanted, metadata=policy)))
    with Image.open(io.BytesIO(result.data)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.size == (64, 96)


def test_broken_orientations_are_ignored() -> None:
    """A value that EXIF does not define is ignored."""
    result = render(stored(77), RenderPlan(output=PNG))
    assert np.array_equal(result.pixels, PIXELS)
