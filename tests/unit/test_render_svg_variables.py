"""CSS variables in drawings: which value holds for which element, and what is refused because it grows."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.errors import DrawingTooComplex
from imgproxy.render import svg, svg_selectors
from imgproxy.render.markup import Element

NS = 'xmlns="http://www.w3.org/2000/svg"'


def sanitise(inside: str, attributes: str = "") -> svg.Drawing:
    """An SVG with this content, sanitised."""
    return svg.sanitise(f"<svg {NS} {attributes}>{inside}</svg>".encode())


def drawn(style: str, inside: str, attributes: str = "") -> ET.Element:
    """The element with the id "x", as librsvg gets it."""
    text = sanitise(f"<style>{style}</style>{inside}", attributes).drawn
    (found,) = [element for element in ET.fromstring(text).iter() if element.get("id") == "x"]
    return found


X = '<rect id="x" class="a b"/>'


@pytest.mark.parametrize(
    ("style", "inside", "expected"),
    [
        (":root{--c:red}rect{fill:var(--c)}", X, "red"),
        (":root{--c:red}RECT{fill:VAR( --c )}.a{FILL:var(--c)}", X, "red"),
        (":root{--c:red;--d:var(--c)}.a{fill:var(--d)}", X, "red"),
        (":root{--c:red}.a{fill:var(--c)}.b{fill:blue}", X, None),  # librsvg reads the second rule by itself
        (":root{--c:red}#x{fill:var(--c)}.b{fill:blue}", X, "red"),
        (":root{--c:red}#x{fill:var(--c)}.b{fill:blue!important}", X, None),
        (":root{--c:red}.a{fill:var(--c)!important}#x{fill:blue}", X, "red!important"),
        ("rect{fill:var(--c,red)}", X, "red"),
        ("rect{fill:var(--c,var(--d,red))}", X, "red"),
        ("rect{fill:var(--c)}", X, None),
        ("g{--c:red}g g{--c:blue}rect{fill:var(--c)}", f"<g><g>{X}</g></g>", "blue"),
        ("g{--c:red}g>g>rect{--c:blue}rect{fill:var(--c)}", f"<g><a><g>{X}</g></a></g>", "red"),
        ("svg g rect{--c:red}rect{--c:blue;fill:var(--c)}", f"<g>{X}</g>", "red"),
        (":root{--c:red}g{--c:initial}rect{fill:var(--c,blue)}", f"<g>{X}</g>", "blue"),
        (":root{--c:red}g{--c:inherit}rect{fill:var(--c,blue)}", f"<g>{X}</g>", "red"),
        ("svg{--c:red}g{--c:var(--c)}rect{fill:var(--c,blue)}", f"<g>{X}</g>", "blue"),  # it names itself
        ("svg{--c:red!important}svg{--c:blue}rect{fill:var(--c)}", X, "red"),
        ("svg{--r:1, 2;--b:3}rect{fill:rgb(var(--r),var(--b))}", X, "rgb(1, 2,3)"),
        ("@media print{:root{--c:red}}rect{fill:var(--c,blue)}", X, "blue"),
        (":root{--c:red}rect:hover,rect::before,rect[id],q>rect{fill:var(--c)}", X, None),
        (":root{--é:red}rect{fill:var(--é)}", X, "red"),
    ],
)
def test_the_value_of_a_rule_is_written_into_its_elements(style: str, inside: str, expected: str | None) -> None:
    """The winner among the rules gives the value, the nearest element that sets it the variable."""
    found = drawn(style, inside).get("style", "").replace(" ", "")
    assert found == (f"fill:{expected}".replace(" ", "") if expected else "")


@pytest.mark.parametrize(
    ("inside", "name", "expected"),
    [
        ('<g fill="var(--c, red)" id="x"/>', "fill", "red"),
        ('<g style="--c:red" fill="var(--c)" id="x"/>', "fill", "red"),
        ('<g style="--c:red"><g style="fill:var(--c);opacity:.5" id="x"/></g>', "style", "fill:red;opacity:.5"),
        ('<g style="--c:9"><g transform="translate(var(--c) 5)" id="x"/></g>', "transform", "translate( 9 5)"),
        ('<g fill="var(--c)" id="x"/>', "fill", ""),
        ('<g style="fill:red;fill:var(--c)" id="x"/>', "style", "fill:red"),
        ('<g style="--p:url(#p);fill:var(--p)" id="x"/>', "style", "fill:url(#p)"),
    ],
)
def test_values_in_attributes_are_replaced(inside: str, name: str, expected: str) -> None:
    """A variable in an attribute, or in a style, has the value of its element."""
    assert re.sub(r"\s+", " ", drawn("", inside).attrib[name]).replace(": ", ":").replace(" ;", ";").strip() == expected


def test_a_style_wins_over_the_value_of_a_rule() -> None:
    """The `style` of an element stays behind what the rules give, where it wins."""
    found = drawn("svg{--c:red}#x{fill:var(--c);stroke:var(--c)}", '<g id="x" style="fill:blue;opacity:.5"/>')
    assert found.attrib["style"].replace(" ", "") == "fill:red;stroke:red;fill:blue;opacity:.5"


def test_browsers_get_the_variables_themselves() -> None:
    """A drawing that stays an SVG keeps its variables: a browser may give them other values, as in a dark theme."""
    found = sanitise(
        "<style>:root{--c:red}@media (prefers-color-scheme:dark){:root{--c:#fff}}</style><g fill='var(--c)'/>"
    )
    assert b'fill="var(--c)"' in found.text
    assert b'fill=" red "' in found.drawn or b'fill="red"' in found.drawn
    plain = sanitise("<style>g{fill:red}</style>")
    assert plain.text == plain.drawn


def test_references_in_values_are_counted() -> None:
    """A mask that a variable names costs as much as one that an attribute names."""
    rules = "<style>:root{--m:url(#m)}rect{mask:var(--m)}</style><mask id='m'><rect/></mask>"
    with pytest.raises(DrawingTooComplex):
        sanitise(rules + "<g><rect/></g>")  # the mask's own rectangle uses the mask
    rules = rules.replace("rect{", "circle{")
    with pytest.raises(DrawingTooComplex, match="masks and blends"):
        sanitise(rules + "<circle/>" * 400)


DOUBLING = "--a0:red;" + "".join(f"--a{n}:var(--a{n - 1}) var(--a{n - 1});" for n in range(1, 31))
EMPTY = "".join(f"--a{n}:var(--a{n - 1},) var(--a{n - 1},) var(--no);" for n in range(1, 31))


@pytest.mark.parametrize(
    ("inside", "what"),
    [
        (f"<style>:root{{{DOUBLING}}}g{{fill:var(--a30)}}</style><g/>", "characters from CSS variables"),
        (
            "<style>:root{" + "".join(f"--a{n}:var(--a{n + 1});" for n in range(99)) + "}g{fill:var(--a0)}</style><g/>",
            "CSS variables in one another",
        ),
        ("<style>" + "g{--c:red;fill:var(--c)}" * 200 + "</style>" + "<g/>" * 9000, "selectors of CSS"),
        (
            "<style>g{" + "".join(f"--c{n}:red;" for n in range(999)) + "fill:var(--c)}</style>" + "<g/>" * 900,
            "characters",
        ),
        (f"<g style='--c:{'x' * 900}'>" + "<g fill='var(--c)'/>" * 900 + "</g>", "characters from CSS variables"),
    ],
)
def test_variables_that_grow_are_refused(inside: str, what: str) -> None:
    """Values that double, long chains, and many rules on many elements are refused."""
    with pytest.raises(DrawingTooComplex, match=what):
        sanitise(inside)


def test_variables_without_values_are_found_once() -> None:
    """Thirty variables that name each other twice and have no value take no time."""
    assert drawn(f":root{{{EMPTY}}}rect{{fill:var(--a30,blue)}}", X).attrib["style"].replace(" ", "") == "fill:blue"


@given(
    st.lists(
        st.sampled_from(
            [
                "--a:",
                "--b:",
                "var(--a)",
                "var(--b",
                ",",
                ")",
                "(",
                ";",
                "{",
                "}",
                "red",
                " ",
                "!important",
                ":root{",
                "g{",
                "fill:",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_variables_are_replaced_or_left_out(text: str) -> None:
    """What librsvg gets has no function of a variable any more, except in rules and strings."""
    root = ET.Element("svg", {"fill": text, "style": text})
    ET.SubElement(root, "style").text = text
    ET.SubElement(root, "g", {"fill": text, "style": text})
    for element in ET.fromstring(svg.sanitise(ET.tostring(root)).drawn).iter():
        assert "var(" not in element.get("fill", "")


# --- selectors --------------------------------------------------------------------------------------------------


def tree() -> dict[str, list[Element]]:
    """Elements by their ids, each with those that it is in, from the outer one."""
    a = Element("svg", {"id": "a"})
    b = Element("g", {"id": "b", "class": "one two"})
    c = Element("g", {"id": "c", "class": "two"})
    d = Element("rect", {"id": "d", "class": "three"})
    return {"a": [a], "b": [a, b], "c": [a, b, c], "d": [a, b, c, d]}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("*", "abcd"),
        ("g", "bc"),
        ("g.two", "bc"),
        (".one.two", "b"),
        ("#d", "d"),
        ("rect#d.three", "d"),
        (":root", "a"),
        ("g:root", ""),
        ("svg rect", "d"),
        ("svg > rect", ""),
        ("g>rect", "d"),
        (".one>.two>rect", "d"),
        (".one > rect", ""),
        ("g g", "c"),
        ("g g g", ""),
        ("* * *", "cd"),
        (":root > g *", "cd"),
        ("svg, .three", "ad"),
    ],
)
def test_selectors_select(text: str, selected: str) -> None:
    """A selector selects the elements whose names, classes, ids and ancestors are those that it says."""
    found = ""
    selectors = svg_selectors.read(text)
    for name, path in tree().items():
        match = None
        for element in path:
            match = svg_selectors.match(selectors, element, match)
        assert match is not None
        if any(each.selects(bits) for each, bits in zip(selectors, match.here, strict=True)):
            found += name
    assert found == selected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:hover",
        "a::before",
        "[x]",
        "a[x], b",
        ":is(a,b,c)",
        "a + b",
        "a ~ b",
        "> a",
        "a >",
        "a >> b",
        "a..b",
        "a*",
        "5",
    ],
)
def test_other_selectors_are_left_out(text: str) -> None:
    """A selector that is not known selects nothing, and no part of it is taken for another selector."""
    assert svg_selectors.read(text) == []


def test_the_specificity_of_selectors() -> None:
    """Ids count first, then classes, then names."""
    (found,) = svg_selectors.read("svg:root > #a.b.c rect *")
    assert found.specificity == (1, 3, 2)


@given(st.text(alphabet="ab.#:>*, root-\\[]()", max_size=30))
def test_any_text_is_selectors_or_none(text: str) -> None:
    """No text makes the reader of selectors fail."""
    svg_selectors.match(svg_selectors.read(text), Element("a", {}), None)
