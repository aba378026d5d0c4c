"""
Read and write XML from unknown authors, without XML's dangerous parts. Used for SVG and XMP.

Nothing outside the document is read. Of the declarations in a document type, entities that are short plain texts are
followed, as Illustrator writes them for namespaces, and short default attributes. Entities that name other entities
(billion laughs), or files, are refused. Depth, size, and the number of elements and attributes are limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from imgproxy.render.escaping import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping

# Drawings have up to 120 nested groups. Python's own stack ends at about 900.
MAX_DEPTH: Final = 200
# 50,000 elements take 0.5 s to parse and to sanitise. Maps with a shape for each municipality have 10,000.
MAX_ELEMENTS: Final = 50_000
# Drawing programs write up to 20 for each element.
MAX_ATTRIBUTES: Final = 250_000
# Entities and attributes that the document type declares. Illustrator has up to 20. expat compares each attribute with
# all before it: 300,000 take 13 s.
MAX_DECLARATIONS: Final = 1000
# Characters that all entities together may add: the longest entity, for each reference in the text. And those that all
# default attributes together may add: all of them, for each "<" in the text. Old Illustrator writes an entity as the
# style of each shape: a map with 10,000 shapes adds 800,000.
MAX_EXPANDED: Final = 1_000_000

_XML: Final = "http://www.w3.org/XML/1998/namespace"

# A reference to a declared entity. In UTF-16 also those that XML knows by itself count: too many, never too few.
_REFERENCE: Final = re.compile(rb"&(?!#|(?:amp|lt|gt|quot|apos);)")


class MarkupError(Exception):
    """The text is not XML, or has a part that is refused."""


class TooMuchMarkupError(MarkupError):
    """The text is longer than may be read: it has more than `limit` of `what`."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"more than {limit} {what}")
        self.what = what
        self.limit = limit


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
        raise TooMuchMarkupError("bytes", max_bytes)
    builder = _Builder()
    declarations = _Declarations(data)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.EntityDeclHandler = declarations.check_entity
    parser.AttlistDeclHandler = declarations.check_default
    parser.ExternalEntityRefHandler = _refuse
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as exc:  # LookupError: an unknown encoding
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


class _Declarations:
    """What the document type declares, and how much text it can add to the document."""

    def __init__(self, data: bytes) -> None:
        self._references = len(_REFERENCE.findall(data))
        self._tags = data.count(b"<")
        self._declared = 0
        self._default_chars = 0

    def check_entity(self, *declared: Any) -> None:
        """Refuse an entity that is a file or a parameter entity (value None), has markup, or may add too much text."""
        _name, is_parameter, value = declared[:3]
        if is_parameter or value is None or any(mark in value for mark in "&<%"):
            raise MarkupError("entities are refused, except plain texts")
        self._count()
        if len(value) * self._references > MAX_EXPANDED:
            raise TooMuchMarkupError("characters from entities", MAX_EXPANDED)

    def check_default(self, *declared: Any) -> None:
        """Refuse default attributes that may add too much text. Their entities are expanded here already."""
        _element, _name, _kind, default, _is_required = declared
        self._count()
        self._default_chars += len(default or "")
        if self._default_chars * self._tags > MAX_EXPANDED:
            raise TooMuchMarkupError("characters from default attributes", MAX_EXPANDED)

    def _count(self) -> None:
        self._declared += 1
        if self._declared > MAX_DECLARATIONS:
            raise TooMuchMarkupError("declarations", MAX_DECLARATIONS)


def _refuse(*_: object) -> int:
    raise MarkupError("entities are refused")


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._elements = 0
        self._attributes = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._attributes += len(attributes)
        for what, found, limit in (
            ("elements", self._elements, MAX_ELEMENTS),
            ("attributes", self._attributes, MAX_ATTRIBUTES),
            ("nested elements", len(self._open) + 1, MAX_DEPTH),
        ):
            if found > limit:
                raise TooMuchMarkupError(what, limit)
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
