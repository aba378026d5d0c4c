"""Enlarged pictures: nothing moves, the edges keep their colour, and the pixels are those of Catmull-Rom's cubic."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Adjust
from imgproxy.params.plan import Crop, Fit, Focal, Format, Mark, Output, Px, Rect, RenderPlan, Resize
from tests.support import images
from tests.support.rendering import PNG, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support.images import Floats, Pixels


def square(width: int = 64, height: int = 64, side: int = 32) -> Pixels:
    """A white square in the middle of black."""
    found = np.zeros((height, width, 3), np.uint8)
    left, top = (width - side) // 2, (height - side) // 2
    found[top : top + side, left : left + side] = 255
    return found


def shift(pixels: NDArray[Any]) -> tuple[float, float]:
    """How far the centroid of the light is right of the middle and below it, in pixels."""
    light = pixels.astype(np.float64)
    light = light if light.ndim == 2 else light[..., 0]
    y, x = np.mgrid[0 : light.shape[0], 0 : light.shape[1]]
    total = light.sum()
    middle_x, middle_y = (light.shape[1] - 1) / 2, (light.shape[0] - 1) / 2
    return float((x * light).sum() / total - middle_x), float((y * light).sum() / total - middle_y)


def is_centred(pixels: NDArray[Any]) -> bool:
    """Whether the light is in the middle."""
    return all(abs(distance) < 0.05 for distance in shift(pixels))


def cubic(pixels: NDArray[Any], size: tuple[int, int], window: tuple[float, float, float, float]) -> Floats:
    """A window (left, top, right, bottom) at a size by Catmull-Rom's cubic. Outside, edge pixels repeat."""
    left, top, right, bottom = window
    rows = _cubic_rows(pixels.astype(np.float64), size[1], top, bottom)
    columns = _cubic_rows(rows.swapaxes(0, 1), size[0], left, right)
    found: Floats = np.clip(columns.swapaxes(0, 1), 0, 255)
    return found


def _cubic_rows(pixels: Floats, count: int, top: float, bottom: float) -> Floats:
    at = top + (np.arange(count) + 0.5) * (bottom - top) / count - 0.5
    below = np.floor(at)
    found = np.zeros((count, *pixels.shape[1:]))
    first, last = int(np.floor(top)), int(np.ceil(bottom)) - 1
    for step in (-1, 0, 1, 2):
        far = np.abs(at - (below + step))
        near, wide = 1.5 * far**3 - 2.5 * far**2 + 1, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
        weight = np.where(far < 1, near, wide)
        found += pixels[np.clip(below + step, first, last).astype(int)] * weight[:, None, None]
    return found


@pytest.mark.parametrize("width", [80, 90, 100, 110, 127, 128, 129, 150, 173, 200, 300, 640])
def test_nothing_moves(width: int) -> None:
    """A square in the middle stays in the middle."""
    result = render(images.png(square()), RenderPlan(resize=Resize(width=Px(width)), output=PNG))
    assert result.pixels.shape == (width, width, 3)
    assert is_centred(result.pixels), shift(result.pixels)


@pytest.mark.parametrize("width", [8, 16, 20, 31, 32, 40, 50, 63])
def test_nothing_moves_when_reduced(width: int) -> None:
    """A reduced square stays in the middle, too."""
    result = render(images.png(square()), RenderPlan(resize=Resize(width=Px(width)), output=PNG))
    assert is_centred(result.pixels), shift(result.pixels)


FITS = [
    Resize(Px(160), Px(120), fit=Fit.CLIP),
    Resize(Px(171), Px(97), fit=Fit.CROP),
    Resize(Px(97), Px(171), fit=Fit.CROP),
    Resize(Px(64), Px(171), fit=Fit.SCALE),  # one axis is enlarged, one stays
    Resize(Px(40), Px(171), fit=Fit.SCALE),  # one axis is reduced
    Resize(Px(171), Px(40), fit=Fit.SCALE),
    Resize(Px(171), Px(101), fit=Fit.FILL),
    Resize(Px(171), Px(101), fit=Fit.CLAMP),
    Resize(Px(171), Px(101), fit=Fit.FILL, fill_blur=True),
    Resize(Px(150), Px(150), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.5, 0.5, 1.37)),
    Resize(aspect=1.7, width=Px(170), fit=Fit.CROP),
]


@pytest.mark.parametrize("resize", FITS, ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_nothing_moves_in_any_fit(resize: Resize, orientation: int) -> None:
    """Crops, frames and distortions keep the middle in the middle, however the picture is stored."""
    plan = RenderPlan(orient=orientation, resize=resize, output=replace(PNG, format=Format.PNG))
    pixels = render(images.png(square()), plan).pixels
    assert is_centred(pixels), shift(pixels)


def test_nothing_moves_in_a_rect() -> None:
    """A rect around the square is enlarged around it."""
    plan = RenderPlan(rect=Rect(Px(11), Px(7), Px(42), Px(50)), resize=Resize(width=Px(131)), output=PNG)
    assert is_centred(render(images.png(square()), plan).pixels)


def test_nothing_moves_in_a_large_blur() -> None:
    """A wide blur is made on a smaller copy, which is enlarged again: the light stays in the middle."""
    plan = RenderPlan(adjust=Adjust(blur=200.0), output=PNG)
    pixels = render(images.png(square(400, 300, 100)), plan).pixels
    assert is_centred(pixels.astype(np.float64) - pixels[0, 0]), shift(pixels)


@pytest.mark.parametrize("alpha", [False, True])
def test_nothing_moves_in_a_watermark(alpha: bool) -> None:
    """An enlarged watermark is in the middle of its place."""
    mark = square(32, 32, 16)
    if alpha:
        mark = np.dstack([np.full_like(mark, 255), mark[..., 0]])
    wanted = Mark("logo", horizontal="center", vertical="middle", width=Px(171))
    plan = RenderPlan(mark=wanted, output=PNG)
    base = np.zeros((201, 201, 3), np.uint8)
    pixels = render(images.png(base), plan, marks={"logo": images.png(mark)}).pixels
    assert is_centred(pixels), shift(pixels)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_nothing_moves_in_an_animation(kind: str) -> None:
    """Every enlarged frame keeps its middle."""
    source = images.animation(kind, [square(), square(side=20)], [100, 100])
    plan = RenderPlan(resize=Resize(width=Px(171)), output=Output(format=Format.WEBP, is_lossless=True))
    with Image.open(io.BytesIO(render(source, plan).data)) as image:
        for n in range(2):
            image.seek(n)
            assert is_centred(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("rect", "resize", "size", "window"),
    [
        (None, Resize(width=Px(80)), (80, 60), (0, 0, 64, 48)),
        (None, Resize(Px(300), Px(49), fit=Fit.SCALE), (300, 49), (0, 0, 64, 48)),
        (None, Resize(Px(1000), Px(750), fit=Fit.CROP), (1000, 750), (0, 0, 64, 48)),
        (None, Resize(Px(97), Px(97), fit=Fit.CROP), (97, 97), (8, 0, 56, 48)),
        (
            None,
            Resize(Px(128), Px(96), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.4, 0.7, 3.7)),
            (128, 96),
            (25.6 - 32 / 3.7, 33.6 - 24 / 3.7, 25.6 + 32 / 3.7, 33.6 + 24 / 3.7),
        ),
        (Rect(Px(3), Px(5), Px(7), Px(9)), Resize(width=Px(70)), (70, 90), (3, 5, 10, 14)),
        (Rect(Px(0), Px(0), Px(1), Px(1)), Resize(width=Px(70)), (70, 70), (0, 0, 1, 1)),
    ],
    ids=str,
)
def test_pixels_are_those_of_the_cubic(
    rect: Rect | None, resize: Resize, size: tuple[int, int], window: tuple[float, float, float, float]
) -> None:
    """Inside and at all four edges, every pixel is that of Catmull-Rom's cubic, at the exact size."""
    photo = images.photo(64, 48)
    result = render(images.png(photo), RenderPlan(rect=rect, resize=resize, output=PNG))
    want = cubic(photo, size, window)
    assert result.pixels.shape == want.shape
    for part in (np.s_[:, :], np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert images.largest_difference(result.pixels[part], want[part]) <= 4


def test_edges_stay_opaque() -> None:
    """A picture with an opaque alpha stays opaque up to its edges, and its colour does not darken there."""
    flat = np.full((30, 40, 4), (200, 100, 50, 255), np.uint8)
    flat[15, 20, 3] = 254  # so that alpha is kept
    pixels = render(images.png(flat), RenderPlan(resize=Resize(width=Px(333)), output=PNG)).pixels
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert np.array_equal(edge, np.broadcast_to((200, 100, 50, 255), edge.shape))


def test_large_pictures_are_enlarged_while_they_are_read() -> None:
    """A picture of many rows, read from top to bottom, has no row at a wrong place."""
    ramp = np.repeat(np.linspace(0, 255, 2000).round().astype(np.uint8)[:, None], 300, axis=1)
    source = images.png(np.dstack([ramp] * 3))
    plan = RenderPlan(resize=Resize(Px(1501), Px(2011), fit=Fit.SCALE), output=PNG)
    pixels = render(source, plan).pixels.astype(np.float64)
    want = 255 * (np.arange(2011) * 2000 / 2011) / 2000
    assert np.abs(pixels[..., 1] - want[:, None]).max() < 2
