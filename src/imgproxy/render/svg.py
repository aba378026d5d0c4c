"""
Sanitise SVG: parse it, keep what is on the allow-lists, and write a new text.

Everything else is dropped: scripts, event handlers, foreignObject, animation, every reference that leaves the document.
The result is safe to rasterise and to serve. Embedded pictures stay if they are data: URLs of raster formats.
Source of the element names: SVG 2, appendix G (element index); Filter Effects Module Level 1.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape, quoteattr

import pyvips

from imgproxy.errors import DrawingTooComplex
from imgproxy.render import svg_cost, svg_css
from imgproxy.render.markup import Element, MarkupError, TooMuchMarkupError, parse
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff

if TYPE_CHECKING:
    from imgproxy.render.svg_cost import Cost

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

_DATA_URL: Final = re.compile(r"data:image/[a-z+]+(?:;[\w=.-]+){0,3}?;base64,([A-Za-z0-9+/=\s]*)")
_FRAGMENT: Final = re.compile(r"\A\s*#[^\s\"'()<>\\]{1,256}\s*\Z")
_NAME: Final = re.compile(r"\A[A-Za-z_][\w.-]*\Z")
_RASTERS: Final = (SourceKind.PNG, SourceKind.JPEG, SourceKind.GIF, SourceKind.WEBP)

# No browser reads these as CSS, and they are free text: `id="Group (1)"`.
_NOT_CSS: Final = frozenset({"id", "class", "d", "points", "aria-label"})


@dataclass(frozen=True, slots=True)
class Drawing:
    """A sanitised SVG: its text in UTF-8, and what it costs to draw."""

    text: bytes
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
    try:
        root = parse(data, max_bytes=MAX_BYTES)
    except TooMuchMarkupError as exc:
        raise DrawingTooComplex(exc.what, exc.limit) from exc
    if root.local != "svg" or root.namespace not in (_SVG, ""):
        raise MarkupError("not an SVG")
    sanitiser = _Sanitiser()
    kept = sanitiser.keep(root)
    assert kept is not None
    cost = svg_cost.measure(kept, sanitiser.image_px)
    parts: list[str] = []
    _write(kept, parts, is_root=True)
    return Drawing("".join(parts).encode(), cost)


class _Sanitiser:
    """Keeps what is on the allow-lists, of one document, and notes the sizes of embedded pictures."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._css_chars = 0
        self.image_px: dict[int, int] = {}  # by the id() of the element that is kept

    def keep(self, element: Element) -> Element | None:
        """Return a copy with the allowed parts. None: it is dropped, with all inside."""
        local = element.local
        if element.namespace not in (_SVG, "") or local not in _ELEMENTS:
            return None
        kept = Element(local, {})
        for key, value in element.attributes.items():
            if (name := _attribute_name(key)) and (clean := self._clean_value(kept, name, value)) is not None:
                kept.attributes[name] = clean
        if local == "style":
            text = "".join(child for child in element.children if isinstance(child, str))
            self._count_css(text)
            kept.children.append(svg_css.clean(text))
            return kept
        for child in element.children:
            found = self.keep(child) if isinstance(child, Element) else child
            if found is not None:
                kept.children.append(found)
        return kept

    def _clean_value(self, element: Element, name: str, value: str) -> str | None:
        if name in {"href", "xlink:href"}:
            if element.name == "image":
                return self._clean_image(element, value)
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
        self._css_chars += len(text)
        svg_cost.check("characters of CSS", self._css_chars)

    def _clean_image(self, element: Element, value: str) -> str | None:
        """Keep an embedded picture if its bytes are one, under the type that they have, and note its pixels."""
        found = _DATA_URL.fullmatch(value.strip())
        if found is None:
            return None
        try:
            data = base64.b64decode(found[1])
            kind = sniff(data[:HEAD_BYTES])
            if kind not in _RASTERS:
                return None
            header = pyvips.Image.new_from_buffer(data, "")
        except (binascii.Error, pyvips.Error):
            return None
        self.image_px[id(element)] = self.image_px.get(id(element), 0) + header.width * header.height
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
