"""Trim with alpha, without a tolerance, and of animations."""

from __future__ import annotations

import numpy as np
import pytest

from imgproxy.params.plan import Format, Output, RenderPlan, Trim
from tests.support import images
from tests.support.params import read_plan
from tests.support.rendering import PNG, render


def on_clear(box: tuple[int, int, int], ground: tuple[int, int, int]) -> images.Pixels:
    """An opaque box of 100 x 70 on a transparent ground of 140 x 120, with a red dot of 10 x 10 in it."""
    found = np.zeros((120, 140, 4), np.uint8)
    found[..., :3] = ground
    found[30:100, 20:120] = (*box, 255)
    found[60:70, 60:70] = (255, 0, 0, 255)
    return found


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("mode", ["color", "auto", "alpha", "colorunlessalpha"])
@pytest.mark.parametrize(("box", "ground"), [(BLACK, BLACK), (WHITE, WHITE), (BLACK, WHITE), (WHITE, BLACK)])
def test_opaque_differs_from_transparent(mode: str, box: tuple[int, int, int], ground: tuple[int, int, int]) -> None:
    """An opaque box is kept whole, whatever the hidden colour of the transparent pixels around it."""
    pixels = on_clear(box, ground)
    result = render(images.png(pixels), RenderPlan(trim=Trim(mode), output=PNG))
    assert np.array_equal(result.pixels, pixels[30:100, 20:120, :3])


@pytest.mark.parametrize("mode", ["color", "auto"])
def test_hidden_colours_do_not_count(mode: str) -> None:
    """Transparent pixels are all alike: their colours are not seen."""
    pixels = on_clear(BLACK, WHITE)
    noise = np.random.default_rng(5).integers(0, 256, (*pixels.shape[:2], 3)).astype(np.uint8)
    pixels[..., :3] = np.where(pixels[..., 3:] == 0, noise, pixels[..., :3])
    result = render(images.png(pixels), RenderPlan(trim=Trim(mode), output=PNG))
    assert result.pixels.shape == (70, 100, 3)


def test_a_half_transparent_edge_is_cut_like_an_opaque_one() -> None:
    """An even ground with alpha is cut up to the first pixel that looks different."""
    pixels = np.full((60, 80, 4), (40, 120, 200, 128), np.uint8)
    pixels[20:40, 30:50, 3] = 160
    result = render(images.png(pixels), RenderPlan(trim=Trim("color"), output=PNG))
    assert result.pixels.shape == (20, 20, 4)


@pytest.mark.parametrize(
    ("query", "kept"),
    [("trim=color", 20), ("trim=color&trim-tol=10", 20), ("trim=color&trim-tol=4", 40), ("trim=color&trim-tol=0", 60)],
)
def test_a_tolerance_of_0_is_0(query: str, kept: int) -> None:
    """Without `trim-tol` the tolerance is 10 levels; 0 cuts only pixels of exactly the colour."""
    pixels = np.full((100, 100, 3), 100, np.uint8)
    pixels[20:80, 20:80] = 101
    pixels[30:70, 30:70] = 105
    pixels[40:60, 40:60] = 200
    result = render(images.png(pixels), read_plan(query + "&fm=png"))
    assert result.pixels.shape == (kept, kept, 3)


@pytest.mark.parametrize("mode", ["color", "auto"])
@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_keeps_what_any_frame_shows(mode: str, kind: str) -> None:
    """The box of an animation holds the picture of every frame, also if the first frame is empty."""
    frames = [np.full((80, 100, 3), 250, np.uint8) for _ in range(4)]
    frames[1][20:30, 10:25] = (200, 0, 0)
    frames[2][40:60, 40:50] = (0, 0, 200)
    frames[3][35:45, 30:70] = (0, 120, 0)
    source = images.animation(kind, frames, [100] * 4)
    plan = RenderPlan(trim=Trim(mode), output=Output(format=Format.WEBP, is_lossless=True))
    rendered = render(source, plan).rendered
    assert (rendered.frames, rendered.width_px, rendered.height_px) == (4, 60, 40)


def test_an_animation_whose_ground_changes_is_not_cut() -> None:
    """`color` cuts what has the colour of the first frame's corner in every frame."""
    frames = [np.full((40, 50, 3), level, np.uint8) for level in (250, 10)]
    frames[0][10:20, 10:20] = frames[1][10:20, 10:20] = (200, 0, 0)
    source = images.animation("WEBP", frames, [100] * 2)
    rendered = render(source, RenderPlan(trim=Trim("color"))).rendered
    assert (rendered.width_px, rendered.height_px) == (50, 40)
