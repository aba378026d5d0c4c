"""
The credit of a picture: who made it and under what terms.

Each field is read from XMP, else from IPTC-IIM, else from EXIF (or the same tags of a TIFF), else from the texts of a
PNG. It is written as a new XMP packet and, for JPEG, as IPTC-IIM: agencies read these two. No other metadata of the
source is copied, so no position, serial number or thumbnail gets into a variant. The input is untrusted: lengths are
limited, and a block that cannot be read counts as missing.
Sources: IPTC Photo Metadata Standard 2023.1; IIM 4.2; Google "Image license metadata" (the fields it reads);
Photoshop File Formats Specification (8BIM resources).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from imgproxy.render.escaping import escape
from imgproxy.render.text import decode_text, one_line
from imgproxy.render.xmp import RDF, find_rdf, is_position, read_packet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgproxy.render.markup import Element

# Of a list. All of a credit together fits into one segment of a JPEG, which holds 64 kB.
_ITEMS_MAX: Final = 20
_LIST_MAX_CHARS: Final = 3_000

_DC: Final = "http://purl.org/dc/elements/1.1/"
_PHOTOSHOP: Final = "http://ns.adobe.com/photoshop/1.0/"
_RIGHTS: Final = "http://ns.adobe.com/xap/1.0/rights/"
_PLUS: Final = "http://ns.useplus.org/ldf/xmp/1.0/"
_EXT: Final = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"

_LICENSOR: Final = f"{_PLUS} Licensor"
_LANGUAGE: Final = "http://www.w3.org/XML/1998/namespace lang"

# The usual prefixes. Some readers do not parse XML, and search for them as text.
PREFIXES: Final = {
    "adobe:ns:meta/": "x",
    RDF: "rdf",
    _DC: "dc",
    _PHOTOSHOP: "photoshop",
    _RIGHTS: "xmpRights",
    _PLUS: "plus",
    _EXT: "Iptc4xmpExt",
}

PHOTOSHOP_HEAD: Final = b"Photoshop 3.0\0"
_IIM_RESOURCE: Final = 0x0404
# What a resource begins with: "8BIM", and the marks that other programs of Adobe write.
_RESOURCE_MARKS: Final = frozenset({b"8BIM", b"AgHg", b"DCSR", b"MeSa", b"PHUT"})


@dataclass(frozen=True, slots=True)
class Credit:
    """The fields that agencies and search engines want kept. A field is empty if the source does not have it."""

    creators: tuple[str, ...] = ()
    credit_line: str = ""
    copyright_notice: str = ""
    web_statement: str = ""
    licensor_urls: tuple[str, ...] = ()
    digital_source_type: str = ""

    def __bool__(self) -> bool:
        return self != Credit()

    def beyond(self, other: Credit) -> Credit:
        """Return the fields that the other credit does not have."""
        return Credit(**{name: getattr(self, name) for name in _NAMES if not getattr(other, name)})


def merge(*found: Credit) -> Credit:
    """Return each field from the first credit that has it."""
    merged, *others = [each for each in found if each] or [Credit()]
    for each in others:
        merged = replace(merged, **{name: getattr(each, name) for name in _NAMES if not getattr(merged, name)})
    return merged


_NAMES: Final = tuple(field.name for field in fields(Credit))


# --- EXIF and PNG -------------------------------------------------------------------------------------------


def read_exif(artist: bytes, copyright_notice: bytes) -> Credit:
    """
    Read the credit from the bytes of two EXIF tags.

    The copyright has one or two parts that end with NUL: the photographer's, then the editor's. A blank stands for a
    photographer who is not named. A blank tag says nothing. Source: EXIF 2.3, 4.6.5, Copyright.
    """
    creator = one_line(decode_text(artist.partition(b"\0")[0]))
    photographer, editor, *_ = (*(decode_text(part).strip() for part in copyright_notice.split(b"\0")), "", "")
    if not editor.isprintable():
        editor = ""  # remains of an older text, in a tag of fixed length
    photographer, editor = one_line(photographer), one_line(editor)
    if editor and editor != photographer:
        photographer = f"Photographer {photographer}, Editor {editor}" if photographer else f"Editor {editor}"
    return Credit(creators=(creator,) if creator else (), copyright_notice=one_line(photographer))


def read_png(texts: Iterable[tuple[str, bytes]]) -> Credit:
    """Read the credit from the texts of a PNG. Source of the keywords: PNG (Third Edition), 11.3.3.1."""
    found = [(keyword.lower(), decode_text(text)) for keyword, text in texts]
    authors = _lines(text for keyword, text in found if keyword == "author")
    notices = _lines(text for keyword, text in found if keyword == "copyright")
    return Credit(creators=authors, copyright_notice=_first(notices))


# --- XMP ----------------------------------------------------------------------------------------------------


def read_xmp(packet: bytes) -> Credit:
    """Read the credit from an XMP packet. It is empty if the packet cannot be read."""
    properties = find_rdf(read_packet(packet))
    if properties is None:
        return Credit()
    nodes = properties.elements()
    licensors = [
        *nodes,
        *(each for node in nodes for found in node.elements() if found.name == _LICENSOR for each in _descend(found)),
    ]
    return Credit(
        creators=_values(nodes, f"{_DC} creator"),
        credit_line=_first(_values(nodes, f"{_PHOTOSHOP} Credit")),
        copyright_notice=_first(_values(nodes, f"{_DC} rights")),
        web_statement=_first(_values(nodes, f"{_RIGHTS} WebStatement")),
        licensor_urls=_values(licensors, f"{_PLUS} LicensorURL") or _values(licensors, f"{_PLUS} licensorURL"),
        digital_source_type=_first(_values(nodes, f"{_EXT} DigitalSourceType")),
    )


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else ""


def _values(nodes: Iterable[Element], name: str) -> tuple[str, ...]:
    """
    Return the values of a property, in order: attributes, plain text, rdf:resource, the items of a list.

    Only properties of the nodes themselves count: what is nested in others describes other pictures, which were placed
    in this one (xmpMM:Pantry). Of a text in several languages, the one for all comes first.
    """
    return _lines(_each_value(nodes, name))


def _each_value(nodes: Iterable[Element], name: str) -> Iterator[str]:
    for node in nodes:
        if name in node.attributes:
            yield node.attributes[name]
        for element in node.elements():
            if element.name == name:
                holders = [item for item in _descend(element) if item.name == f"{RDF} li"] or [element]
                holders.sort(key=lambda holder: holder.attributes.get(_LANGUAGE) != "x-default")
                yield from map(_text_of, holders)


def _text_of(holder: Element) -> str:
    """Return a value: a reference, the rdf:value of one with qualifiers, else its text."""
    value = next((each for each in _descend(holder) if each.name == f"{RDF} value"), holder)
    return holder.attributes.get(f"{RDF} resource") or value.text()


def _lines(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts as clean lines, without blank ones, as many as a credit may have."""
    lines: list[str] = []
    left = _LIST_MAX_CHARS
    for line in filter(None, map(one_line, islice(texts, _ITEMS_MAX))):
        left -= len(line)
        if left < 0:
            break
        lines.append(line)
    return tuple(lines)


def _descend(root: Element) -> Iterator[Element]:
    """Yield an element and all below it, in the order of the text."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        yield element
        waiting += reversed(element.elements())


def as_xmp(credit: Credit) -> bytes:
    """Write a credit as an XMP packet, in RDF/XML, without padding."""
    parts = []
    if credit.creators:
        items = "".join(f"<rdf:li>{escape(name)}</rdf:li>" for name in credit.creators)
        parts.append(f"<dc:creator><rdf:Seq>{items}</rdf:Seq></dc:creator>")
    if credit.copyright_notice:
        text = escape(credit.copyright_notice)
        parts.append(f'<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:rights>')
        parts.append("<xmpRights:Marked>True</xmpRights:Marked>")
    if credit.credit_line:
        parts.append(f"<photoshop:Credit>{escape(credit.credit_line)}</photoshop:Credit>")
    if credit.web_statement:
        parts.append(f"<xmpRights:WebStatement>{escape(credit.web_statement)}</xmpRights:WebStatement>")
    if credit.licensor_urls:
        items = "".join(
            f'<rdf:li rdf:parseType="Resource"><plus:LicensorURL>{escape(url)}</plus:LicensorURL></rdf:li>'
            for url in credit.licensor_urls
        )
        parts.append(f"<plus:Licensor><rdf:Seq>{items}</rdf:Seq></plus:Licensor>")
    if credit.digital_source_type:
        text = escape(credit.digital_source_type)
        parts.append(f"<Iptc4xmpExt:DigitalSourceType>{text}</Iptc4xmpExt:DigitalSourceType>")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" xmlns:dc="{_DC}" xmlns:photoshop="{_PHOTOSHOP}"'
        f' xmlns:xmpRights="{_RIGHTS}" xmlns:plus="{_PLUS}" xmlns:Iptc4xmpExt="{_EXT}">'
        f'{"".join(parts)}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


# --- IPTC-IIM -----------------------------------------------------------------------------------------------

_KEYWORD: Final = (2, 25)
_BY_LINE: Final = (2, 80)
_CREDIT: Final = (2, 110)
_COPYRIGHT: Final = (2, 116)
_CHARSET: Final = (1, 90)
_UTF8: Final = b"\x1b%G"
IIM_MARK: Final = b"\x1c"
_EXTENDED: Final = 0x8000
# Of these records are texts. 2:200 to 2:202 are a small preview, which may show what was cropped away.
_TEXT_RECORDS: Final = frozenset({1, 2})
_PREVIEWS: Final = frozenset({(2, 200), (2, 201), (2, 202)})


def find_iim(block: bytes) -> bytes:
    """
    Return the IIM records in a block: they are the block, or one of its Photoshop resources.

    Resources have a head in an APP13 segment, and none in a TIFF.
    """
    block = block.removeprefix(PHOTOSHOP_HEAD)
    if block[:4] not in _RESOURCE_MARKS:
        return block if block[:1] == IIM_MARK else b""
    at = 0
    while block[at : at + 4] in _RESOURCE_MARKS and at + 7 <= len(block):
        resource = int.from_bytes(block[at + 4 : at + 6], "big")
        name_bytes = 1 + block[at + 6]
        at += 6 + name_bytes + name_bytes % 2
        size = int.from_bytes(block[at : at + 4], "big")
        at += 4
        if resource == _IIM_RESOURCE and size:
            return block[at : at + size]
        at += size + size % 2
    return b""


def _records(iim: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """
    Yield record, dataset and content. A content above 32 kB is a picture, not a text: it is left out.

    Some programs fill up each record to an even length, with NUL.
    """
    at = 0
    while at + 5 <= len(iim) and iim[at : at + 1] == IIM_MARK:
        name = iim[at + 1], iim[at + 2]
        size = int.from_bytes(iim[at + 3 : at + 5], "big")
        at += 5
        if size & _EXTENDED:  # the size is that of the number that follows, which is the true size
            at += (size - _EXTENDED) + int.from_bytes(iim[at : at + size - _EXTENDED][:8], "big")
            continue
        yield name, iim[at : at + size]
        at += size
        at += iim[at : at + 1] == b"\0"


def read_iptc(block: bytes) -> Credit:
    """
    Read the credit from IPTC-IIM, alone or in Photoshop's resources.

    Many programs write UTF-8 without saying so, and some say so and write another encoding: the bytes decide.
    """
    records = list(_records(find_iim(block)))[:1000]

    def texts(dataset: tuple[int, int]) -> tuple[str, ...]:
        return _lines(decode_text(data) for name, data in records if name == dataset)

    return Credit(
        creators=texts(_BY_LINE), credit_line=_first(texts(_CREDIT)), copyright_notice=_first(texts(_COPYRIGHT))
    )


def drop_private(iim: bytes) -> bytes:
    """Return IIM records without previews, and without keywords that are positions."""
    kept = [
        _record(name, data)
        for name, data in _records(iim)
        if name[0] in _TEXT_RECORDS
        and name not in _PREVIEWS
        and not (name == _KEYWORD and is_position(decode_text(data)))
    ]
    return b"".join(kept)


def as_iptc(credit: Credit) -> bytes:
    """Write a credit as the content of a JPEG's APP13 segment. It is empty if IIM has no field for the credit."""
    records = [(_BY_LINE, name) for name in credit.creators]
    records += [(_CREDIT, credit.credit_line)] if credit.credit_line else []
    records += [(_COPYRIGHT, credit.copyright_notice)] if credit.copyright_notice else []
    if not records:
        return b""
    iim = _record(_CHARSET, _UTF8) + b"".join(_record(name, text.encode()) for name, text in records)
    return wrap_iim(iim)


def wrap_iim(iim: bytes) -> bytes:
    """Put IIM records into the content of an APP13 segment."""
    return PHOTOSHOP_HEAD + b"8BIM" + _IIM_RESOURCE.to_bytes(2, "big") + b"\0\0" + _sized(iim)


def _record(dataset: tuple[int, int], data: bytes) -> bytes:
    return bytes((0x1C, *dataset)) + len(data).to_bytes(2, "big") + data


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
