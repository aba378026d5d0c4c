"""
The credit of a picture: who made it and under what terms.

Each field is read from XMP, else from IPTC-IIM, else from EXIF. It is written as a new XMP packet and, for JPEG, as
IPTC-IIM: agencies read these two. No other metadata of the source is copied, so no position, serial number or thumbnail
gets into a variant. The input is untrusted: lengths are limited, and a block that cannot be read counts as missing.
Sources: IPTC Photo Metadata Standard 2023.1; IIM 4.2; Google "Image license metadata" (the fields it reads);
Adobe XMP Specification part 1 (packet), Photoshop File Formats Specification (8BIM resources).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from imgproxy.render.markup import Element, MarkupError, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

XMP_MAX_BYTES: Final = 4_000_000

# IIM allows 128 bytes of copyright notice, XMP has no limit. A longer text is not a credit.
_TEXT_MAX: Final = 2_000
_ITEMS_MAX: Final = 20

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_PHOTOSHOP: Final = "http://ns.adobe.com/photoshop/1.0/"
_RIGHTS: Final = "http://ns.adobe.com/xap/1.0/rights/"
_PLUS: Final = "http://ns.useplus.org/ldf/xmp/1.0/"
_EXT: Final = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"

# The usual prefixes. Some readers do not parse XML, and search for them as text.
PREFIXES: Final = {
    "adobe:ns:meta/": "x",
    _RDF: "rdf",
    _DC: "dc",
    _PHOTOSHOP: "photoshop",
    _RIGHTS: "xmpRights",
    _PLUS: "plus",
    _EXT: "Iptc4xmpExt",
}

_PHOTOSHOP_HEAD: Final = b"Photoshop 3.0\0"
_IIM_RESOURCE: Final = 0x0404


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


def read(xmp: bytes | None, iptc: bytes | None, artist: str, copyright_notice: str) -> Credit:
    """Return the credit from a source's XMP packet, APP13 or raw IIM block, and EXIF Artist and Copyright."""
    first = _read_xmp(xmp) if xmp else Credit()
    second = _read_iim(find_iim(iptc)) if iptc else Credit()
    return Credit(
        creators=first.creators or second.creators or ((_clean(artist),) if _clean(artist) else ()),
        credit_line=first.credit_line or second.credit_line,
        copyright_notice=first.copyright_notice or second.copyright_notice or _clean(copyright_notice),
        web_statement=first.web_statement,
        licensor_urls=first.licensor_urls,
        digital_source_type=first.digital_source_type,
    )


# --- XMP ----------------------------------------------------------------------------------------------------


def _read_xmp(packet: bytes) -> Credit:
    try:
        root = parse(packet.strip(b"\0 \t\r\n"), max_bytes=XMP_MAX_BYTES)
    except MarkupError:
        return Credit()
    return Credit(
        creators=_values(root, f"{_DC} creator"),
        credit_line=_first(_values(root, f"{_PHOTOSHOP} Credit")),
        copyright_notice=_first(_values(root, f"{_DC} rights")),
        web_statement=_first(_values(root, f"{_RIGHTS} WebStatement")),
        licensor_urls=_values(root, f"{_PLUS} LicensorURL") or _values(root, f"{_PLUS} licensorURL"),
        digital_source_type=_first(_values(root, f"{_EXT} DigitalSourceType")),
    )


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else ""


def _values(root: Element, name: str) -> tuple[str, ...]:
    """Return all values of a property, in order: attributes, plain text, rdf:resource, the items of a list."""
    found: list[str] = []
    for element in _descend(root):
        if name in element.attributes:
            found.append(element.attributes[name])
        if element.name == name:
            items = [item for item in _descend(element) if item.name == f"{_RDF} li"]
            holders = items or [element]
            found += [holder.attributes.get(f"{_RDF} resource") or holder.text() for holder in holders]
    return tuple(text for text in map(_clean, found[:_ITEMS_MAX]) if text)


def _descend(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements():
        yield from _descend(child)


def _clean(text: str) -> str:
    """Make one line of limited length, without control characters (XML forbids them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_TEXT_MAX]


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
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about="" xmlns:dc="{_DC}" xmlns:photoshop="{_PHOTOSHOP}"'
        f' xmlns:xmpRights="{_RIGHTS}" xmlns:plus="{_PLUS}" xmlns:Iptc4xmpExt="{_EXT}">'
        f'{"".join(parts)}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


# --- IPTC-IIM -----------------------------------------------------------------------------------------------

_BY_LINE: Final = (2, 80)
_CREDIT: Final = (2, 110)
_COPYRIGHT: Final = (2, 116)
_CHARSET: Final = (1, 90)
_UTF8: Final = b"\x1b%G"


def find_iim(block: bytes) -> bytes:
    """Return the IIM records in an APP13 block. A block without its header (TIFF) is returned as it is."""
    if not block.startswith(_PHOTOSHOP_HEAD):
        return block
    at = len(_PHOTOSHOP_HEAD)
    while block[at : at + 4] == b"8BIM" and at + 7 <= len(block):
        resource = int.from_bytes(block[at + 4 : at + 6], "big")
        name_bytes = 1 + block[at + 6]
        at += 6 + name_bytes + name_bytes % 2
        size = int.from_bytes(block[at : at + 4], "big")
        at += 4
        if resource == _IIM_RESOURCE:
            return block[at : at + size]
        at += size + size % 2
    return b""


def _records(iim: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    at = 0
    while at + 5 <= len(iim) and iim[at] == 0x1C:
        size = int.from_bytes(iim[at + 3 : at + 5], "big")
        if size & 0x8000:
            return  # an extended length: it is used for embedded pictures, not for text
        yield (iim[at + 1], iim[at + 2]), iim[at + 5 : at + 5 + size]
        at += 5 + size


def _read_iim(iim: bytes) -> Credit:
    records = list(_records(iim))[:1000]
    is_utf8 = (_CHARSET, _UTF8) in records

    def texts(dataset: tuple[int, int]) -> tuple[str, ...]:
        raw = [data for name, data in records if name == dataset][:_ITEMS_MAX]
        return tuple(text for text in (_clean(_decode(data, is_utf8=is_utf8)) for data in raw) if text)

    return Credit(
        creators=texts(_BY_LINE), credit_line=_first(texts(_CREDIT)), copyright_notice=_first(texts(_COPYRIGHT))
    )


def _decode(data: bytes, *, is_utf8: bool) -> str:
    """Decode UTF-8, which many programs write without saying so; else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace") if is_utf8 else data.decode("latin-1")


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
    return _PHOTOSHOP_HEAD + b"8BIM" + _IIM_RESOURCE.to_bytes(2, "big") + b"\0\0" + _sized(iim)


def _record(dataset: tuple[int, int], data: bytes) -> bytes:
    return bytes((0x1C, *dataset)) + len(data).to_bytes(2, "big") + data


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
