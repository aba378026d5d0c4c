"""
Sanitise SVG: parse it, keep what is on the allow-lists, and write a new text.

Everything else is dropped: scripts, event handlers, foreignObject, animation, every reference that leaves the document.
The result is safe to rasterise and to serve. Embedded pictures stay if they are data: URLs of raster formats, or of
drawings, which are sanitised, too.
Source of the element names: SVG 2, appendix G (element index); Filter Effects Module Level 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import pyvips

from imgproxy.errors import DrawingTooComplex
from imgproxy.render import data_urls, svg_cost, svg_css, svg_encoding, svg_variables
from imgproxy.render.escaping import escape, quoteattr
from imgproxy.render.markup import Element, MarkupError, TooMuchMarkupError, parse
from imgproxy.render.svg_cost import Cost
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff

# A newsroom's drawings have kilobytes, its maps a few megabytes.
MAX_BYTES: Final = 10_000_000

# libvips draws in tiles of 2000 x 2000 px, and draws everything for each of them.
MAX_PX: Final = 16_000_000
# Each mask, blend and step of a filter takes about 25 ns for each pixel of the whole drawing. A drawing with many is
# drawn with fewer pixels, then enlarged: MAX_LAYERED_PX for all of them together, but at least LEAST_PX.
MAX_LAYERED_PX: Final = 16_000_000
LEAST_PX: Final = 800_000
# One blur of the whole drawing takes 0.25 µs for each pixel.
MAX_FILTERED_PX: Final = 3_000_000

_SVG: Final = "http://www.w3.org/2000/svg"
_XLINK: Final = "http://www.w3.org/1999/xlink"
_XML: Final = "http://www.w3.org/XML/1998/namespace"

# fmt: off
_ELEMENTS: Final = frozenset({
    "svg", "g", "defs", "symbol", "use", "switch", "title", "desc", "style", "a", "path", "rect",
    "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "textPath", "image",
    "linearGradient", "radialGradient", "stop", "pattern", "clipPath", "mask", "marker", "filter",
    "feBlend", "feColorMatrix", "feComponentTransfer", "feComposite", "feConvolveMatrix",
    "feDiffuseLighting", "feDisplacementMap", "feDistantLight", "feDropShadow", "feFlood", "feFuncA",
    "feFuncB", "feFuncG", "feFuncR", "feGaussianBlur", "feMerge", "feMergeNode", "feMorphology",
    "feOffset", "fePointLight", "feSpecularLighting", "feSpotLight", "feTile", "feTurbulence",
})
# fmt: on

# Illustrator and Figma name groups "Group (1)".
_FRAGMENT: Final = re.compile(r"\A\s*#[^\x00-\x1f\"'<>\\]{1,256}\s*\Z")
_NAME: Final = re.compile(r"\A[A-Za-z_][\w.-]*\Z")
_ZERO: Final = re.compile(r"[+-]?(?:0+\.?0*|\.0+)(?:[a-zA-Z]+|%)?")
_RASTERS: Final = (SourceKind.PNG, SourceKind.JPEG, SourceKind.GIF, SourceKind.WEBP)
# The librsvg of libvips' packages draws nothing for these. It gets them as PNG.
_NOT_DRAWN: Final = frozenset({SourceKind.GIF, SourceKind.WEBP})

# No browser reads these as CSS, and they are free text: `id="Group (1)"`.
_NOT_CSS: Final = frozenset({"id", "class", "d", "points", "aria-label"})


@dataclass(frozen=True, slots=True)
class Drawing:
    """
    A sanitised SVG, in UTF-8, and what it costs to draw.

    `text` is for browsers, `drawn` for librsvg: there, CSS variables have been replaced by their values, and embedded
    GIF and WebP pictures by PNG.
    """

    text: bytes
    drawn: bytes
    cost: Cost

    @property
    def most_px(self) -> int:
        """How many pixels it is drawn with at most. A larger variant is enlarged from that."""
        layers = self.cost.filters + self.cost.layers
        most_px = MAX_FILTERED_PX if self.cost.filters else MAX_PX
        return min(most_px, max(LEAST_PX, MAX_LAYERED_PX // max(1, layers)))


def sanitise(data: bytes) -> Drawing:
    """
    Return the drawing with only its harmless parts.

    Raises MarkupError if it is not an SVG or declares what is refused; DrawingTooComplex if a limit of `svg_cost` is
    passed.
    """
    return _sanitise(data, _Place(), _Spent())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a drawing is embedded: in how many drawings, and in how many elements of all of them."""

    drawings: int = 0
    elements: int = 0


@dataclass(slots=True)
class _Spent:
    """What a drawing has used of the limits so far, together with the drawings in it."""

    css_chars: int = 0
    elements: int = 0
    drawings: int = 0
    packed_px: int = 0


def _sanitise(data: bytes, place: _Place, spent: _Spent) -> Drawing:
    try:
        root = parse(svg_encoding.as_utf_8(data), max_bytes=MAX_BYTES)
    except TooMuchMarkupError as exc:
        raise DrawingTooComplex(exc.what, exc.limit) from exc
    if root.local != "svg" or root.namespace not in (_SVG, ""):
        raise MarkupError("not an SVG")
    if place.drawings and _has_no_size(root):
        raise MarkupError("an embedded drawing without a size")  # librsvg would draw nothing at all
    sanitiser = _Sanitiser(place, spent)
    kept = sanitiser.keep(root, place.elements + 1)
    assert kept is not None
    text = b""
    has_variables = svg_variables.has_variables(kept)
    if has_variables or sanitiser.packed:
        text = _as_text(kept)
    if has_variables:
        svg_variables.replace(kept)
    for element, name, url in sanitiser.packed:
        element.attributes[name] = url
    cost = svg_cost.measure(kept, sanitiser.embedded)
    drawn = _as_text(kept)
    return Drawing(text or drawn, drawn, cost)


class _Sanitiser:
    """Keeps what is on the allow-lists, of one document, and notes what its embedded pictures cost."""

    def __init__(self, place: _Place, spent: _Spent) -> None:
        self._place = place
        self._spent = spent
        self._ids: set[str] = set()
        self.embedded: dict[int, Cost] = {}  # by the id() of the element that is kept
        self.packed: list[tuple[Element, str, str]] = []  # element, attribute, its value for librsvg

    def keep(self, element: Element, level: int) -> Element | None:
        """Return a copy with the allowed parts. None: it is dropped, with all inside. `level`: of nested elements."""
        local = element.local
        if element.namespace not in (_SVG, "") or local not in _ELEMENTS:
            return None
        self._spent.elements += 1
        svg_cost.check("elements", self._spent.elements)
        svg_cost.check("nested elements", level)
        kept = Element(local, {})
        for key, value in element.attributes.items():
            if (name := _attribute_name(key)) and (clean := self._clean_value(kept, name, value, level)) is not None:
                kept.attributes[name] = clean
        if local == "style":
            text = "".join(child for child in element.children if isinstance(child, str))
            self._count_css(text)
            kept.children.append(svg_css.clean(text))
            return kept
        for child in element.children:
            found = self.keep(child, level + 1) if isinstance(child, Element) else child
            if found is not None:
                kept.children.append(found)
        return kept

    def _clean_value(self, element: Element, name: str, value: str, level: int) -> str | None:
        if name in {"href", "xlink:href"}:
            if element.name == "image":
                return self._clean_image(element, name, value, level)
            return value if element.name != "a" and _FRAGMENT.match(value) else None
        if name in {"src", "action", "formaction", "base"}:
            return None
        if name == "id":  # the first one counts in browsers; librsvg must not see another
            is_new = value not in self._ids
            self._ids.add(value)
            return value if is_new else None
        if name in _NOT_CSS or svg_css.is_clean(value):
            return value
        self._count_css(value)
        return svg_css.clean(value)

    def _count_css(self, text: str) -> None:
        self._spent.css_chars += len(text)
        svg_cost.check("characters of CSS", self._spent.css_chars)

    def _clean_image(self, element: Element, name: str, value: str, level: int) -> str | None:
        """Keep an embedded picture if its bytes are one, under the type that they have, and note what it costs."""
        found = data_urls.decode(value)
        if found is None:
            return None
        media_type, data = found
        try:
            if media_type == SourceKind.SVG:
                data, cost = self._clean_drawing(data, level)
            else:
                media_type, cost = _measure_raster(data)
                if media_type in _NOT_DRAWN:
                    self._spent.packed_px += cost.image_px
                    svg_cost.check("pixels of embedded GIF and WebP pictures", self._spent.packed_px)
                    self.packed.append((element, name, data_urls.encode(SourceKind.PNG, _as_png(data))))
        except (MarkupError, pyvips.Error):
            return None
        self.embedded[id(element)] = self.embedded.get(id(element), Cost()).plus(cost)
        return data_urls.encode(media_type, data)

    def _clean_drawing(self, data: bytes, level: int) -> tuple[bytes, Cost]:
        """Sanitise an embedded drawing. It inherits nothing: so its shapes are not counted as this drawing's."""
        self._spent.drawings += 1
        svg_cost.check("embedded drawings", self._spent.drawings)
        place = _Place(self._place.drawings + 1, level)
        svg_cost.check("levels of embedded drawings", place.drawings)
        drawing = _sanitise(data, place, self._spent)
        return drawing.drawn, drawing.cost._replace(shapes=0).plus(svg_cost.EMBEDDED_DRAWING)


def _has_no_size(root: Element) -> bool:
    lengths = [root.attributes.get("width", ""), root.attributes.get("height", "")]
    lengths += re.split(r"[\s,]+", root.attributes.get("viewBox", "").strip()[:200])[2:4]
    return any(_ZERO.fullmatch(length[:200].strip()) for length in lengths)


def _measure_raster(data: bytes) -> tuple[SourceKind, Cost]:
    """Return the format and the pixels of an embedded raster picture. Raises MarkupError, pyvips.Error."""
    kind = sniff(data[:HEAD_BYTES])
    if kind not in _RASTERS:
        raise MarkupError("not a picture that may be embedded")
    header = pyvips.Image.new_from_buffer(data, "")
    return kind, Cost(image_px=header.width * header.height)


def _as_png(data: bytes) -> bytes:
    return bytes(pyvips.Image.new_from_buffer(data, "").pngsave_buffer(compression=1, keep="none"))


def _as_text(root: Element) -> bytes:
    parts: list[str] = []
    _write(root, parts, is_root=True)
    return "".join(parts).encode()


def _write(element: Element, parts: list[str], *, is_root: bool = False) -> None:
    parts.append(f"<{element.name}")
    if is_root:
        parts.append(f' xmlns="{_SVG}" xmlns:xlink="{_XLINK}"')
    parts += [f" {name}={quoteattr(value)}" for name, value in element.attributes.items()]
    parts.append(">")
    for child in element.children:
        if isinstance(child, Element):
            _write(child, parts)
        else:
            parts.append(escape(child))
    parts.append(f"</{element.name}>")


@lru_cache(maxsize=1000)
def _attribute_name(key: str) -> str | None:
    """Return the name to write. None drops the attribute: event handlers, foreign namespaces."""
    namespace, _, local = key.rpartition(" ")
    if not _NAME.match(local) or local.lower().startswith("on"):
        return None
    if not namespace:
        return local
    if namespace == _XLINK and local == "href":
        return "xlink:href"
    return f"xml:{local}" if namespace == _XML and local in {"space", "lang"} else None
