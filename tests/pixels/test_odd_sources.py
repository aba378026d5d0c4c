"""Unusual sources: odd depths, bands, sizes and pages go through every step of a render."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips

from imgproxy.params.appearance import Adjust, Blend, Border, Colour, Mask, Sides
from imgproxy.params.faces import plan_of_faces
from imgproxy.params.plan import ColourSpace, Crop, Fit, Format, Frames, Output, Px, RenderPlan, Resize, Trim
from imgproxy.workers.extras import find_detector
from imgproxy.workers.faces import read_record
from tests.support import images
from tests.support.rendering import LIMITS, PNG, render

DETECTOR = find_detector()

if TYPE_CHECKING:
    from numpy.typing import NDArray


def raw(pixels: NDArray[Any], interpretation: str, saver: str = "tiffsave_buffer", **options: Any) -> bytes:
    """A file of exactly these numbers, by libvips: Pillow writes hardly any of these kinds."""
    image = pyvips.Image.new_from_array(pixels).copy(interpretation=interpretation)
    return bytes(getattr(image, saver)(**options))


def plain(*values: int, dtype: Any = np.uint8, side: int = 16) -> NDArray[Any]:
    """A picture of one value."""
    return np.broadcast_to(np.array(values, dtype), (side, side, len(values))).copy()


DEEP = 257
# Name: file, and the value that its first pixel has as an 8-bit PNG.
ODD: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "16-bit RGB and alpha": (
        raw(plain(100 * DEEP, 0, 50 * DEEP, 200 * DEEP, dtype=np.uint16), "rgb16", "pngsave_buffer"),
        (100, 0, 50, 200),
    ),
    "16-bit grey and alpha": (
        raw(plain(90 * DEEP, 60 * DEEP, dtype=np.uint16), "grey16", "pngsave_buffer"),
        (90, 60),
    ),
    "grey and alpha": (images.png(plain(100, 50)), (100, 50)),
    "one pixel": (images.png(plain(9, 8, 7, side=1)), (9, 8, 7)),
    "one bit": (images.png(np.ones((16, 16), bool)), (255,)),
    "transparent GIF": (images.encode(np.zeros((16, 16), np.uint8), "GIF", transparency=0), (0, 0, 0, 0)),
    "float RGB in linear light": (raw(plain(1, 0, 1, dtype=np.float32), "scrgb"), (255, 0, 255)),
    "spot colours": (raw(plain(10, 20, 30, 255, 99), "srgb"), (10, 20, 30)),
    "32-bit grey": (raw(plain(7 << 24, dtype=np.uint32), "b-w"), (7,)),
    "10-bit AVIF": (
        raw(plain(0, 0, 0, dtype=np.uint16), "rgb16", "heifsave_buffer", bitdepth=10, compression="av1"),
        (0, 0, 0),
    ),
    "pages": (raw(np.concatenate([plain(50 * n) for n in range(3)]), "b-w", page_height=16), (0,)),
    "a line": (images.png(np.full((1, 20_000, 3), 9, np.uint8)), (9, 9, 9)),
}

EVERYTHING = RenderPlan(
    resize=Resize(width=Px(5)),
    rotation=30.0,
    is_pivot=True,
    adjust=Adjust(hue=20, sharpen=5, blur=5, contrast=5, enhance=True, monochrome=Colour(1, 2, 3, 100)),
    blend=Blend(Colour(1, 2, 3), "hue"),
    border=Border(Sides(1, 1, 1, 1), Colour(0, 0, 0), (3,)),
    mask=Mask("ellipse"),
    pad=Sides(1, 1, 1, 1),
    output=PNG,
)
PLANS = [
    *(RenderPlan(output=Output(format=wanted)) for wanted in Format if wanted is not Format.FACES),
    *(RenderPlan(output=Output(format=Format.PNG, colour_space=space)) for space in ColourSpace),
    EVERYTHING,
    RenderPlan(trim=Trim("auto"), resize=Resize(width=Px(5)), output=PNG),
    RenderPlan(resize=Resize(width=Px(5), height=Px(3), fit=Fit.CROP, crop=(Crop.ENTROPY,)), output=PNG),
    RenderPlan(resize=Resize(width=Px(50), height=Px(30), fit=Fit.FILL, fill_blur=True), output=PNG),
    RenderPlan(resize=Resize(width=Px(50), height=Px(30), fit=Fit.CLAMP), output=PNG),
    RenderPlan(orient=6, output=PNG),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_show_their_colours(name: str) -> None:
    """A picture of any depth and number of bands has the right 8-bit values."""
    data, want = ODD[name]
    pixels = render(data, RenderPlan(output=PNG)).pixels
    found = np.atleast_1d(pixels[0, 0]).astype(int)
    assert found.shape == (len(want),)
    assert np.abs(found - want).max() <= 1


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_go_through_every_step(name: str) -> None:
    """No step and no format fails for a picture that can be decoded."""
    for plan in PLANS:
        assert render(ODD[name][0], plan).rendered.size_bytes > 0, plan.canonical()


@pytest.mark.skipif(DETECTOR is None, reason="the extra `faces` is not installed")
@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_have_a_face_record(name: str) -> None:
    """The detector takes every picture that can be decoded. None of these has a face."""
    assert DETECTOR is not None
    limits = replace(LIMITS, face_model=DETECTOR.model)
    assert read_record(render(ODD[name][0], plan_of_faces(RenderPlan()), limits=limits).data) == ()


def test_pages_are_chosen_by_number() -> None:
    """page=2 is the second page. A page beyond the end is the last one."""
    for page, want in ((1, 0), (2, 50), (3, 100), (9, 100)):
        pixels = render(ODD["pages"][0], RenderPlan(frames=Frames(page=page), output=PNG)).pixels
        assert pixels.shape[:2] == (16, 16)
        assert int(pixels.ravel()[0]) == want
