"""A background with alpha is painted once, wherever there is space around the picture or in it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import images
from tests.support.params import read_plan
from tests.support.rendering import render

GREY = np.full((40, 60, 3), 90, np.uint8)
HALF_RED = (255, 0, 0, 128)


@pytest.mark.parametrize(
    "query",
    [
        "pad=10&bg=80ff0000",
        "w=60&h=60&fit=fill&bg=80ff0000",
        "w=80&h=80&fit=fillmax&bg=80ff0000",
        "w=60&h=60&fit=fill&pad=5&bg=80ff0000",
        "w=60&h=60&fit=fill&fill-color=80ff0000&bg=80ff0000",
        "rot=45&rot-type=pivot&bg=80ff0000",
        "rot=45&rot-type=pivot&pad=3&bg=80ff0000",
        "mask=ellipse&bg=80ff0000",
    ],
)
def test_a_half_transparent_background_is_painted_once(query: str) -> None:
    """The corner has the background's colour and alpha; in a JPEG it is that colour on white."""
    source = images.png(GREY)
    corner = render(source, read_plan(query + "&fm=png")).pixels[0, 0]
    assert tuple(corner) == HALF_RED
    flat = render(source, read_plan(query + "&fm=jpg&q=100&chromasub=444")).pixels[:2, :2]
    want = np.array([255, 255 * (1 - 128 / 255), 255 * (1 - 128 / 255)])
    assert images.largest_difference(flat.mean(axis=(0, 1)), want) <= 3
    middle = render(source, read_plan(query + "&fm=png")).pixels
    assert tuple(middle[middle.shape[0] // 2, middle.shape[1] // 2]) == (90, 90, 90, 255)


@pytest.mark.parametrize("query", ["pad=10&bg=ff0000", "w=60&h=60&fit=fill&bg=ff0000"])
def test_an_opaque_background_leaves_no_alpha(query: str) -> None:
    """With an opaque background the variant is opaque."""
    pixels = render(images.png(GREY), read_plan(query + "&fm=png")).pixels
    assert pixels.shape[2] == 3
    assert tuple(pixels[0, 0]) == (255, 0, 0)


def test_two_colours_are_two_layers() -> None:
    """A fill colour with alpha lies on a background with another colour: both are seen, each once."""
    query = "w=60&h=60&fit=fill&fill-color=80ff0000&bg=0000ff&fm=png"
    pixels = render(images.png(GREY), read_plan(query)).pixels
    share = 128 / 255
    assert images.largest_difference(pixels[0, 0], np.array([255 * share, 0, 255 * (1 - share)])) <= 1
