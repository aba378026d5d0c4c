"""
Read and write XML from unknown authors, without XML's dangerous parts. Used for SVG and XMP.

A document type with declarations is refused: entities (billion laughs, external files) need one. The bare
`<!DOCTYPE svg PUBLIC …>` of drawing programs is ignored; the DTD it names is never read. Depth, size and the number of
elements are limited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH: Final = 100
MAX_ELEMENTS: Final = 200_000

_XML: Final = "http://www.w3.org/XML/1998/namespace"


class MarkupError(Exception):
    """The text is not XML, or has a part that is refused."""


@dataclass(slots=True)
class Element:
    """
    An element. Text is in `children`.

    `name` and the names of attributes are "namespace name", or "name" if they have no namespace.
    """

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def local(self) -> str:
        """The name without its namespace."""
        return self.name.rpartition(" ")[2]

    @property
    def namespace(self) -> str:
        """The namespace, or an empty text."""
        return self.name.rpartition(" ")[0]

    def elements(self) -> list[Element]:
        """The children that are elements."""
        return [child for child in self.children if isinstance(child, Element)]

    def text(self) -> str:
        """All text inside, in order."""
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


def parse(data: bytes, *, max_bytes: int) -> Element:
    """Read a document into its root element. Raises MarkupError."""
    if len(data) > max_bytes:
        raise MarkupError("too long")
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = _start_doctype
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as exc:
        raise MarkupError("not well-formed") from exc
    if builder.root is None:
        raise MarkupError("empty")
    return builder.root


def write(root: Element, known_prefixes: Mapping[str, str]) -> bytes:
    """Write a tree as UTF-8. `known_prefixes` maps namespaces to prefixes; other namespaces get new prefixes."""
    prefixes = {_XML: "xml", **known_prefixes}
    body = _write(root, prefixes)
    declared = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for uri, prefix in prefixes.items() if prefix != "xml")
    head, _, rest = body.partition(">")
    return f"{head}{declared}>{rest}".encode()


def _write(element: Element, prefixes: dict[str, str]) -> str:
    name = _add_prefix(element.name, prefixes)
    attributes = "".join(
        f" {_add_prefix(key, prefixes)}={quoteattr(value).replace('>', '&gt;')}"
        for key, value in element.attributes.items()
    )
    inside = "".join(escape(child) if isinstance(child, str) else _write(child, prefixes) for child in element.children)
    return f"<{name}{attributes}>{inside}</{name}>"


def _add_prefix(name: str, prefixes: dict[str, str]) -> str:
    namespace, _, local = name.rpartition(" ")
    if not namespace:
        return local
    return f"{prefixes.setdefault(namespace, f'n{len(prefixes)}')}:{local}"


def _start_doctype(_name: str, _system: str | None, _public: str | None, has_internal_subset: bool) -> None:
    if has_internal_subset:
        raise MarkupError("declarations in a document type are refused")


def _refuse(*_: object) -> int:
    raise MarkupError("entities are refused")


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise MarkupError("too large")
        element = Element(name, attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        if self._open:
            self._open[-1].children.append(text)
