"""
What a drawing costs, before librsvg sees it: everything is counted as often as it is drawn.

A `<use>` draws its target again, and so does each reference to a pattern, mask, clip path or marker. So a few kilobytes
can ask for billions of elements. Drawings over a limit are refused. What passes and is still slow is ended by
`render.drawing_cpu_s`. References in style sheets are not counted, only those in attributes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from imgproxy.errors import DrawingTooComplex
from imgproxy.render.markup import MAX_DEPTH, MAX_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproxy.render.markup import Element

# What a drawing may have at most. The times are CPU seconds, drawn at 1600 x 1600 px.
LIMITS: Final = {
    # 10 full blurs take 8 s. 40 cards, each with a shadow of four steps, have 160. Noise and light count more.
    "steps of filters": 200,
    # A mask is a picture of its own: 300 full ones take 15 s. Sets of icons have up to 100.
    "masks and blends": 300,
    # 100,000 rectangles in a pattern take 1.8 s. A map has 10,000 shapes.
    "drawn elements": 100_000,
    # 20,000 characters in 200 lines take 0.8 s, 5 MB took 12 s and 2.1 GB. A full newspaper page has 15,000.
    "drawn characters": 20_000,
    # One line of 20,000 characters takes 7 s: pango lays out a line in more than linear time.
    "characters in one text": 4_000,
    # 1 MB of lines across the picture takes 2.7 s, of short lines 0.2 s. Detailed maps have 4 MB.
    "bytes of drawn paths": 8_000_000,
    # tinycss2 reads 1 MB in a second. Style sheets of drawing programs have 10 kB.
    "characters of CSS": 250_000,
    # librsvg decodes each embedded picture in full: 500 MP take 6 s.
    "drawn pixels of embedded pictures": 32_000_000,
    # They are written as PNG for librsvg: 4 MP take 0.2 s.
    "pixels of embedded GIF and WebP pictures": 4_000_000,
    # librsvg tries each rule on each element: 20,000 rules on 5,000 elements take more than 25 s.
    "rules of CSS, times elements": 4_000_000,
    # The parser's limits hold for one document, these for a drawing with all that are embedded.
    "elements": MAX_ELEMENTS,
    "nested elements": MAX_DEPTH,
    # 100 small ones over the whole picture take 0.07 s.
    "embedded drawings": 200,
    # A drawing in a drawing in a drawing. Each level is a third longer than the one inside, by base64.
    "levels of embedded drawings": 3,
    # Python looks for the values of variables: 1 µs for each part of a selector and element, and for each character.
    "selectors of CSS with variables, times elements": 300_000,
    "characters from CSS variables": 400_000,
    "CSS variables in one another": 32,
    # References from element to element: symbols that use symbols. Nobody nests more than five.
    "levels of references": 32,
    # feConvolveMatrix of 9 x 9 takes 4 s, of 5 x 5 1.3 s.
    "values in a convolution": 25,
    # Each octave is a whole picture of noise: 0.4 s.
    "octaves of noise": 5,
    # feMorphology looks at (2r + 1)^2 pixels for each: r = 3 takes 5 s.
    "pixels of erosion or dilation": 2,
    # A blur wider than the drawing leaves nothing to see.
    "blur in per cent of the drawing": 100,
}

_NEVER_DRAWN: Final = frozenset(
    {"defs", "symbol", "pattern", "mask", "marker", "clipPath", "linearGradient", "radialGradient", "filter", "style"}
)
# A group hands these to every element inside it. The other references are for the element alone.
_INHERITED: Final = frozenset({"fill", "stroke"})
_REFERENCE: Final = re.compile(r"url\(\s*[\"']?\s*#([^\"')\s]+)", re.IGNORECASE)
_CSS_FILTER: Final = re.compile(r"\b(?:blur|drop-shadow)\(", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_BYTES_PER_VERTEX: Final = 4  # "1 2 "


class Cost(NamedTuple):
    """How often each kind of thing is drawn. `shapes`: elements, without those of patterns and gradients in them."""

    elements: int = 0
    shapes: int = 0
    filters: int = 0
    layers: int = 0
    characters: int = 0
    path_bytes: int = 0
    image_px: int = 0

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """Return the sum; `other` counts `times`."""
        return Cost(*(mine + theirs * times for mine, theirs in zip(self, other, strict=True)))


# An embedded drawing is painted as a layer of its own. That takes 0.5 ms, as long as 30 shapes.
EMBEDDED_DRAWING: Final = Cost(elements=30)


def check(what: str, found: float) -> None:
    """Raise DrawingTooComplex if there is more of it than LIMITS says."""
    if found > LIMITS[what]:
        raise DrawingTooComplex(what, LIMITS[what])


def measure(root: Element, embedded: Mapping[int, Cost]) -> Cost:
    """
    Return what the drawing costs. `embedded`: what embedded pictures cost, by the id() of their elements.

    Raises DrawingTooComplex if a limit is passed, or if an element uses itself.
    """
    try:
        return _Counter(root, embedded).count(root, 0)
    except RecursionError as exc:  # few levels, and many nested elements in each
        raise DrawingTooComplex("levels of references", LIMITS["levels of references"]) from exc


class _Counter:
    def __init__(self, root: Element, embedded: Mapping[int, Cost]) -> None:
        self._embedded = embedded
        self._by_id: dict[str, Element] = {}
        self._known: dict[int, Cost | None] = {}  # None: being counted
        self._side = _side(root)
        pending, elements, rules = [root], 0, 0
        while pending:
            element = pending.pop()
            pending += element.elements()
            elements += 1
            self._check_primitive(element)
            rules += element.text().count("{") if element.local == "style" else 0
            if "id" in element.attributes:
                self._by_id[element.attributes["id"]] = element
        check("rules of CSS, times elements", rules * elements)

    def count(self, element: Element, level: int) -> Cost:
        """Count an element with all inside, and all that it refers to. `level`: references that led here."""
        key = id(element)
        if key in self._known:
            known = self._known[key]
            if known is None:
                raise DrawingTooComplex("elements that use themselves", 0)
            return known
        check("levels of references", level)
        self._known[key] = None
        cost = self._own(element)
        for child in element.elements():
            if child.local not in _NEVER_DRAWN or element.local == "filter":
                cost = cost.plus(self.count(child, level))
        inside = cost
        for name, target in _references(element):
            used = self._by_id.get(unquote(target))
            if used is None:
                continue
            found = self.count(used, level + 1)
            times = inside.shapes if name in _INHERITED else 1
            if name.startswith("marker"):
                times = inside.path_bytes // _BYTES_PER_VERTEX + 1
            cost = cost.plus(found if name == "href" else found._replace(shapes=0), times)
        _check_all(cost)
        self._known[key] = cost
        return cost

    def _own(self, element: Element) -> Cost:
        attributes, local = element.attributes, element.local
        style = attributes.get("style", "")
        characters = 0
        if local not in {"style", "title", "desc"}:
            characters = len(" ".join("".join(c for c in element.children if isinstance(c, str)).split()))
            check("characters in one text", characters)
        filters = len(_CSS_FILTER.findall(style)) + len(_CSS_FILTER.findall(attributes.get("filter", "")))
        if local.startswith("fe") and local not in {"feMergeNode", "feFuncA", "feFuncR", "feFuncG", "feFuncB"}:
            filters += _count_steps(local, attributes)
        own = Cost(
            elements=1,
            shapes=1,
            filters=filters,
            layers=int(any("mask" in text or "mix-blend-mode" in text for text in (attributes, style))),
            characters=characters,
            path_bytes=len(attributes.get("d", "")) + len(attributes.get("points", "")),
        )
        embedded = self._embedded.get(id(element))
        return own.plus(embedded) if embedded else own

    def _check_primitive(self, element: Element) -> None:
        """Check the numbers that make one step of a filter slow."""
        local, attributes = element.local, element.attributes
        if local in {"feGaussianBlur", "feDropShadow"}:
            found = max(_numbers(attributes.get("stdDeviation", "")), default=0)
            check("blur in per cent of the drawing", 100 * found / self._side if self._side else 0)
        elif local == "feMorphology":
            check("pixels of erosion or dilation", max(_numbers(attributes.get("radius", "")), default=0))
        elif local == "feConvolveMatrix":
            across, *down = _numbers(attributes.get("order", "3")) or [3]
            check("values in a convolution", across * (down[0] if down else across))
        elif local == "feTurbulence":
            check("octaves of noise", max(_numbers(attributes.get("numOctaves", "")), default=1))


def _count_steps(local: str, attributes: dict[str, str]) -> int:
    """Return how many simple steps of filters, at 25 ns for each pixel, take as long as this one."""
    if local == "feTurbulence":
        return 6 * int(max(_numbers(attributes.get("numOctaves", "")), default=1))
    if local == "feConvolveMatrix":
        across, *down = _numbers(attributes.get("order", "3")) or [3]
        return int(across * (down[0] if down else across))
    return {"feMorphology": 20, "feDiffuseLighting": 15, "feSpecularLighting": 15}.get(local, 1)


def _side(root: Element) -> float:
    """Return the longer side of the view box, else of the size, in the drawing's units; 0 if it has neither."""
    box = _numbers(root.attributes.get("viewBox", ""))
    if len(box) == 4:
        return max(box[2:])
    return max((n for name in ("width", "height") for n in _numbers(root.attributes.get(name, ""))[:1]), default=0)


def _numbers(text: str) -> list[float]:
    return [float(found) for found in _NUMBER.findall(text[:1000])]


def _references(element: Element) -> Iterator[tuple[str, str]]:
    """Yield the property and the id of each reference of an element; the property of links is `href`."""
    for name, value in element.attributes.items():
        if name in {"href", "xlink:href"}:
            if value.strip().startswith("#"):
                yield "href", value.strip()[1:]
        elif "(" not in value:
            continue
        elif name == "style":
            for declaration in value.split(";"):
                wanted, _, text = declaration.partition(":")
                yield from ((wanted.strip().lower(), target) for target in _REFERENCE.findall(text))
        else:
            yield from ((name, target) for target in _REFERENCE.findall(value))


def _check_all(cost: Cost) -> None:
    check("drawn elements", cost.elements)
    check("steps of filters", cost.filters)
    check("masks and blends", cost.layers)
    check("drawn characters", cost.characters)
    check("bytes of drawn paths", cost.path_bytes)
    check("drawn pixels of embedded pictures", cost.image_px)
