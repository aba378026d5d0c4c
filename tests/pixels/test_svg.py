"""Ordinary drawings, as logos and infographics have them: each part is drawn, and looks as it should."""

from __future__ import annotations

import base64
import gzip

import numpy as np
import pytest
import pyvips

from imgproxy.params.plan import Px, RenderPlan, Resize
from imgproxy.render import svg
from tests.support import images
from tests.support.rendering import PNG, render

NS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
SHOP = '<rect width="40" height="40" fill="#fff"/>'
RED_PNG = base64.b64encode(images.png(np.full((4, 4, 3), RED, dtype=np.uint8))).decode()

# Drawings of 40 x 40, and the colours at some places (x, y): by what the elements say, not by a renderer.
ORDINARY = {
    "shapes": (
        '<rect width="20" height="40" fill="red"/><path d="M20 0h20v40h-20z" fill="blue"/>',
        {(5, 5): RED, (35, 5): BLUE},
    ),
    "gradient": (
        (
            '<linearGradient id="g"><stop stop-color="red"/><stop offset="1" stop-color="#00f"/></linearGradient>'
            '<rect width="40" height="40" fill="url(#g)"/>'
        ),
        {(0, 20): (252, 0, 3), (39, 20): (3, 0, 252), (20, 20): (124, 0, 131)},
    ),
    "inherited gradient": (
        (
            '<defs><linearGradient id="a"><stop stop-color="red"/><stop offset="1" stop-color="red"/></linearGradient>'
            '<linearGradient id="b" xlink:href="#a"/></defs><g fill="url(#b)"><rect width="40" height="40"/></g>'
        ),
        {(20, 20): RED},
    ),
    "pattern": (
        (
            '<pattern id="p" width="10" height="10" patternUnits="userSpaceOnUse"><rect width="5" height="10" fill="red"/>'
            '<rect x="5" width="5" height="10" fill="blue"/></pattern><rect width="40" height="40" fill="url(#p)"/>'
        ),
        {(2, 2): RED, (7, 2): BLUE, (32, 32): RED, (37, 32): BLUE},
    ),
    "mask": (
        '<mask id="m"><rect width="20" height="40" fill="#fff"/></mask><rect width="40" height="40" fill="red" mask="url(#m)"/>',
        {(5, 20): RED, (35, 20): WHITE},
    ),
    "clip path": (
        (
            '<clipPath id="c"><circle cx="20" cy="20" r="10"/></clipPath>'
            '<rect width="40" height="40" fill="red" style="clip-path:url(#c)"/>'
        ),
        {(20, 20): RED, (2, 2): WHITE, (28, 28): WHITE},
    ),
    "symbols": (
        (
            '<symbol id="s" viewBox="0 0 2 2"><rect width="2" height="2" fill="red"/></symbol>'
            '<use href="#s" width="10" height="10"/><use xlink:href="#s" x="30" width="10" height="10"/>'
        ),
        {(5, 5): RED, (35, 5): RED, (20, 5): WHITE},
    ),
    "marker": (
        (
            '<marker id="m" markerWidth="10" markerHeight="10" markerUnits="userSpaceOnUse" refX="5" refY="5">'
            '<rect width="10" height="10" fill="red"/></marker><path d="M10 10L20 20L30 30" marker-mid="url(#m)" stroke="none"/>'
        ),
        {(20, 20): RED, (10, 10): WHITE, (30, 30): WHITE},
    ),
    "blur": (
        (
            '<filter id="f"><feGaussianBlur stdDeviation="2"/></filter>'
            '<rect x="-40" y="-40" width="60" height="120" fill="red" filter="url(#f)"/>'
        ),
        {(11, 20): RED, (20, 20): (255, 153, 153), (36, 20): WHITE},
    ),
    "shadow": (
        (
            '<filter id="f"><feDropShadow dx="20" dy="0" stdDeviation="0.01" flood-color="blue"/></filter>'
            '<rect y="10" width="10" height="20" fill="red" filter="url(#f)" style="color-interpolation-filters:sRGB"/>'
        ),
        {(5, 20): RED},
    ),
    "opacity": ('<g opacity=".5"><rect width="40" height="40" fill="red"/></g>', {(20, 20): (255, 127, 127)}),
    "blend": (
        '<rect width="40" height="40" fill="red"/><rect width="40" height="40" fill="#00f" style="mix-blend-mode:screen"/>',
        {(20, 20): (255, 0, 255)},
    ),
    "style sheet": (
        (
            "<style>@import url('//fonts/x?a@400;700');/* ( */ .a{fill:red} #b > rect:nth-child(2){fill:rgb(0 0 255)}"
            ".c{font-family:'\\2014'}</style>"
            '<rect class="a" width="20" height="40"/><g id="b"><g/><rect x="20" width="20" height="40"/></g>'
        ),
        {(5, 5): RED, (35, 5): BLUE},
    ),
    "transform": (
        '<g transform="translate(20 0) scale(2)"><rect width="10" height="20" fill="red"/></g>',
        {(5, 5): WHITE, (35, 5): RED},
    ),
    "nested svg": (
        '<svg x="20" width="20" height="40" viewBox="0 0 1 2"><rect width="1" height="2" fill="red"/></svg>',
        {(5, 5): WHITE, (35, 5): RED},
    ),
    "embedded picture": (
        f'<image width="20" height="20" xlink:href="data:image/png;charset=utf-8;base64,{RED_PNG}"/>',
        {(10, 10): RED, (30, 30): WHITE},
    ),
    "embedded drawing": (
        (
            '<image width="20" height="40" href="data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22 '
            "viewBox='0 0 2 4'%3E%3Crect width='1' height='4' fill='red'/%3E%3C/svg%3E\"/>"
        ),
        {(5, 20): RED, (15, 20): WHITE, (30, 20): WHITE},
    ),
    "120 groups": ("<g>" * 120 + '<rect width="40" height="40" fill="green"/>' + "</g>" * 120, {(20, 20): GREEN}),
    "dashes": (
        '<path d="M0 20H40" stroke="red" stroke-width="40" stroke-dasharray="10"/>',
        {(5, 20): RED, (15, 20): WHITE, (25, 20): RED},
    ),
}


SQUARE = '<rect x="{}" width="20" height="40" {}/>'

# What librsvg cannot draw by itself.
VARIABLES = {
    "root": (
        "<style>:root{--a:red;--b:var(--a)}.b{fill:var(--b)}</style>"
        + SQUARE.format(0, 'style="fill:var(--a)"')
        + SQUARE.format(20, 'class="b"'),
        {(5, 5): RED, (35, 5): RED},
    ),
    "fallback": (SQUARE.format(0, 'fill="var(--none, #00f)"'), {(5, 5): BLUE, (35, 5): WHITE}),
    "themes": (
        "<style>.red{--c:red}.blue{--c:#00f}rect.c{fill:var(--c)}</style><g class='red'>"
        + SQUARE.format(0, 'class="c"')
        + "<g class='blue'>"
        + SQUARE.format(20, 'class="c"')
        + "</g></g>",
        {(5, 5): RED, (35, 5): BLUE},
    ),
    "reference": (
        "<style>svg{--p:url(#g)}</style><linearGradient id='g'><stop stop-color='red'/></linearGradient>"
        + SQUARE.format(20, 'fill="var(--p)"'),
        {(5, 5): WHITE, (35, 5): RED},
    ),
}


def drawing(inside: str) -> bytes:
    """A drawing of 40 x 40 on white."""
    return f'<svg {NS} width="40" height="40">{SHOP}{inside}</svg>'.encode()


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_drawings_look_as_they_should(name: str) -> None:
    """Each part of an ordinary drawing has the colours that its elements say."""
    inside, colours = ORDINARY[name]
    pixels = render(drawing(inside), RenderPlan(output=PNG)).pixels
    for (x, y), colour in colours.items():
        assert np.abs(pixels[y, x, :3].astype(int) - colour).max() <= 4, (x, y, pixels[y, x])


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_have_their_values(name: str) -> None:
    """Shapes whose colours are CSS variables have those colours."""
    inside, colours = VARIABLES[name]
    pixels = render(drawing(inside), RenderPlan(output=PNG)).pixels
    for (x, y), colour in colours.items():
        assert tuple(pixels[y, x, :3]) == colour, (x, y)


@pytest.mark.parametrize("name", ORDINARY)
def test_sanitising_changes_no_pixel(name: str) -> None:
    """librsvg draws the sanitised text exactly as it draws the original, at twice the size."""
    data = drawing(ORDINARY[name][0])
    plain = np.asarray(pyvips.Image.svgload_buffer(data, scale=2))
    assert np.array_equal(plain, np.asarray(pyvips.Image.svgload_buffer(svg.sanitise(data).text, scale=2)))


def test_text_is_drawn() -> None:
    """A line of text leaves dark pixels, in any font."""
    pixels = render(drawing('<text x="2" y="30" font-size="30">Ab</text>'), RenderPlan(output=PNG)).pixels
    assert pixels.min() < 100
    assert pixels.max() == 255


@pytest.mark.parametrize(
    "encode",
    [
        gzip.compress,
        lambda data: ("\ufeff" + data.decode()).encode("utf-16-le"),
        lambda data: data.decode().encode("utf-16-be"),
        lambda data: b"<!-- " + b"licence " * 900 + b"-->" + data,
        lambda data: b"<!-- " + b"a" * 3990 + b"--><!DOCTYPE svg [<!ENTITY a '" + b"a" * 500 + b"'>]>" + data,
    ],
    ids=["svgz", "utf-16", "utf-16 without a mark", "long comment", "long comment, document type"],
)
def test_drawings_that_begin_in_another_way_are_drawn(encode: object) -> None:
    """A compressed drawing, one in UTF-16, and one whose root comes late are drawn like any other."""
    assert callable(encode)
    pixels = render(encode(drawing(ORDINARY["shapes"][0])), RenderPlan(output=PNG)).pixels
    assert tuple(pixels[5, 5]) == RED


def test_physical_units_are_those_of_browsers() -> None:
    """An inch is 96 px, and 72 points are an inch."""
    data = f'<svg {NS} width="1in" height="36pt"><rect width="100%" height="100%" fill="red"/></svg>'.encode()
    assert render(data, RenderPlan(output=PNG)).pixels.shape[:2] == (48, 96)


def test_physical_units_in_embedded_drawings_are_those_of_browsers() -> None:
    """An inch in an embedded drawing is 96 px of the outer one, at every size of the variant."""
    inner = f'<svg {NS} width="1in" height="72pt"><rect width="100%" height="100%" fill="red"/></svg>'
    image = f'<image href="data:image/svg+xml;base64,{base64.b64encode(inner.encode()).decode()}"/>'
    data = f'<svg {NS} width="200" height="200"><rect width="200" height="200" fill="#fff"/>{image}</svg>'.encode()
    for scale in (1, 2):
        plan = RenderPlan(resize=Resize(width=Px(200 * scale)), output=PNG)
        is_red = (render(data, plan).pixels[..., :3] == RED).all(axis=2)
        assert is_red.sum() == (96 * scale) ** 2
        assert is_red[: 96 * scale, : 96 * scale].all()


def test_a_drawing_inside_three_drawings_is_drawn() -> None:
    """Drawings in drawings are drawn, down to the third."""
    inside = '<rect width="40" height="40" fill="green"/>'
    for _ in range(3):
        data = base64.b64encode(f'<svg {NS} width="40" height="40">{inside}</svg>'.encode()).decode()
        inside = f'<image href="data:image/svg+xml;charset=utf-8;base64,{data}"/>'
    assert (render(drawing(inside), RenderPlan(output=PNG)).pixels[..., :3] == GREEN).all()


def test_noise_and_light_are_drawn_with_fewer_pixels() -> None:
    """The dearer a filter, the fewer pixels; a drawing without one has the most."""
    filters = ("feOffset", "feConvolveMatrix", "feSpecularLighting", "feTurbulence numOctaves='5'")
    found = [
        svg.sanitise(drawing(f"<filter id='f'><{each}/></filter><g filter='url(#f)'/>")).most_px for each in filters
    ]
    assert found == [3_000_000, 1_777_777, 1_066_666, 800_000]
    assert svg.sanitise(drawing("<g/>")).most_px == 16_000_000


def test_a_drawing_with_many_filters_is_drawn_with_fewer_pixels() -> None:
    """The size of the result is the one that was asked for."""
    cards = '<filter id="f"><feOffset dx="1"/></filter>' + '<rect width="9" height="9" filter="url(#f)"/>' * 30
    assert svg.sanitise(drawing(cards)).most_px == 800_000
    result = render(drawing(cards), RenderPlan(resize=Resize(width=Px(1200)), output=PNG))
    assert (result.rendered.width_px, result.rendered.height_px) == (1200, 1200)
