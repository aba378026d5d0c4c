"""
Read and write XML from unknown authors, without XML's dangerous parts. Used for SVG and XMP.

Nothing outside the document is read. Of the declarations in a document type, only entities that are short plain texts
are followed: Illustrator writes namespaces that way. Entities that name other entities (billion laughs), or files, are
refused, and so are default attributes. Depth, size, and the number of elements and attributes are limited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping

# Drawings have up to 120 nested groups. Python's own stack ends at about 900.
MAX_DEPTH: Final = 200
# 50,000 elements take 0.5 s to parse and to sanitise. Maps with a shape for each municipality have 10,000.
MAX_ELEMENTS: Final = 50_000
# Drawing programs write up to 20 for each element.
MAX_ATTRIBUTES: Final = 250_000
# Characters that all entities together may add: the longest entity, for each "&" in the text.
MAX_EXPANDED: Final = 200_000

_XML: Final = "http://www.w3.org/XML/1998/namespace"


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
    references = data.count(b"&")
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.EntityDeclHandler = partial(_check_entity, references)
    parser.AttlistDeclHandler = _check_default
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


def _check_entity(references: int, *declared: Any) -> None:
    """Refuse an entity that is a file or a parameter entity (value None), has markup, or would add too much text."""
    _name, is_parameter, value = declared[:3]
    if is_parameter or value is None or any(mark in value for mark in "&<%"):
        raise MarkupError("entities are refused, except plain texts")
    if len(value) * references > MAX_EXPANDED:
        raise TooMuchMarkupError("characters from entities", MAX_EXPANDED)


def _check_default(_element: str, _name: str, _kind: str, default: str | None, _is_required: int) -> None:
    if default is not None:
        raise MarkupError("default attributes are refused")


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
