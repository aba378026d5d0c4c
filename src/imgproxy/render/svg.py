"""
Sanitise SVG: parse it, keep what is on the allow-lists, and write a new text.

Everything else is dropped: scripts, event handlers, foreignObject, animation, every reference that leaves the document.
The result is safe to rasterise and to serve. Embedded pictures stay if they are data: URLs of raster formats.
Source of the element names: SVG 2, appendix G (element index); Filter Effects Module Level 1.
"""

from __future__ import annotations

import re
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from imgproxy.render.markup import Element, MarkupError, parse

# A newsroom's drawings have kilobytes, its maps a few megabytes.
MAX_BYTES: Final = 10_000_000

# Elements that are drawn when every <use> is followed. Ten elements that use one another ten times each draw 10^10
# elements (a "billion laughs" without entities), which would keep a process busy until its timeout.
MAX_DRAWN: Final = 500_000

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

_DATA_IMAGE: Final = re.compile(r"\Adata:image/(?:png|jpe?g|gif|webp);base64,[A-Za-z0-9+/=\s]*\Z")
_FRAGMENT: Final = re.compile(r"\A\s*#[^\s\"'()<>\\]{1,256}\s*\Z")
_NAME: Final = re.compile(r"\A[A-Za-z_][\w.-]*\Z")

# A url(…) that is not a plain reference into this document.
_OUTSIDE_URL: Final = re.compile(r"url\(\s*(?![\"']?\s*#)[^)]*\)?", re.IGNORECASE)
_AT_RULE: Final = re.compile(r"@(?:import|charset|namespace|font-face)\b[^;{]*(?:;|\{[^}]*\}|\Z)", re.IGNORECASE)


def sanitise(data: bytes) -> bytes:
    """
    Return the drawing with only its harmless parts, as UTF-8.

    Raises MarkupError if it is not an SVG, is too large, declares entities, or draws more than MAX_DRAWN elements.
    """
    root = parse(data, max_bytes=MAX_BYTES)
    if root.local != "svg" or root.namespace not in (_SVG, ""):
        raise MarkupError("not an SVG")
    try:
        drawn = _count_drawn(root, _index_ids(root), {})
    except RecursionError as exc:
        raise MarkupError("elements use one another too deeply") from exc
    if drawn > MAX_DRAWN:
        raise MarkupError("too much to draw")
    parts: list[str] = []
    _write(root, parts, is_root=True)
    return "".join(parts).encode()


def _index_ids(element: Element) -> dict[str, Element]:
    found = {element.attributes["id"]: element} if "id" in element.attributes else {}
    for child in element.elements():
        found |= _index_ids(child)
    return found


def _count_drawn(element: Element, by_id: dict[str, Element], known: dict[int, int]) -> int:
    """Count the elements that are drawn for this one. An element that uses itself is drawn once, as in renderers."""
    if id(element) in known:
        return known[id(element)]
    known[id(element)] = 0
    count = 1 + sum(_count_drawn(child, by_id, known) for child in element.elements())
    target = element.attributes.get("href") or element.attributes.get(f"{_XLINK} href") or ""
    if element.local == "use" and target.strip().startswith("#"):
        used = by_id.get(target.strip()[1:])
        count += _count_drawn(used, by_id, known) if used is not None else 0
    known[id(element)] = count
    return count


def _write(element: Element, parts: list[str], *, is_root: bool = False) -> None:
    if element.namespace not in (_SVG, "") or element.local not in _ELEMENTS:
        return
    parts.append(f"<{element.local}")
    if is_root:
        parts.append(f' xmlns="{_SVG}" xmlns:xlink="{_XLINK}"')
    parts += [
        f" {name}={quoteattr(clean)}"
        for key, value in element.attributes.items()
        if (name := _attribute_name(key)) and (clean := _clean_value(element.local, name, value)) is not None
    ]
    parts.append(">")
    for child in element.children:
        if isinstance(child, Element):
            _write(child, parts)
        else:
            parts.append(escape(_clean_css(child) if element.local == "style" else child))
    parts.append(f"</{element.local}>")


def _attribute_name(key: str) -> str | None:
    """Return the name to write. None drops the attribute: event handlers, foreign namespaces."""
    namespace, _, local = key.rpartition(" ")
    if not _NAME.match(local) or local.lower().startswith("on"):
        return None
    if namespace == "":
        return local
    if namespace == _XLINK and local == "href":
        return "xlink:href"
    return f"xml:{local}" if namespace == _XML and local in ("space", "lang") else None


def _clean_value(element: str, name: str, value: str) -> str | None:
    if name in ("href", "xlink:href"):
        is_inner = bool(_FRAGMENT.match(value)) and element != "a"
        return value if is_inner or (element == "image" and _DATA_IMAGE.match(value)) else None
    if name in ("src", "action", "formaction", "base"):
        return None
    return _clean_css(value) if name == "style" or "url" in value.lower() or "\\" in value else value


def _clean_css(text: str) -> str:
    """Drop references that leave the document. A backslash could hide one, so a text with a backslash is dropped."""
    if "\\" in text:
        return ""
    return _OUTSIDE_URL.sub("none", _AT_RULE.sub("", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)))
