"""
XMP packets: read them in any encoding, and remove what is private.

Private are positions, serial numbers and owners of devices, thumbnails, the history of the file, and pictures inside
the packet (they have metadata of their own). Names of places that an editor wrote (city, country) are not private.
Source: Adobe XMP Specification part 1, 7.3 (packet) and 7.3.1 (encodings).
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from imgproxy.render import packet_repair
from imgproxy.render.markup import MarkupError, TooMuchMarkupError, parse, write
from imgproxy.render.text import decode_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.render.markup import Element

MAX_BYTES: Final = 4_000_000

RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_BLANK: Final = b"\0 \t\r\n"
_DECLARATION: Final = re.compile(r"<\?xml\b[^>]{0,200}\?>")

# The longer ones first: UTF-32 begins like UTF-16. Without a byte order mark, the first "<" tells.
_ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)

# Parts of the names of private properties, in lower case.
_PRIVATE_WORDS: Final = (
    "gps",
    "latitude",
    "longitude",
    "longtitude",  # DJI writes it so
    "altitude",
    "elevation",
    "coordinate",
    "footprintwkt",
    "geotag",
    "geohash",
    "geoloc",
    "geocod",
    "georss",
    "locationid",
    "what3words",
    "serial",
    "cameraowner",
    "makernote",
    "thumbnail",
    "imageuniqueid",
    "orientation",
    "xpauthor",
    "hostcomputer",
    "documentancestors",
    "history",
)
_PRIVATE_NAMES: Final = frozenset({"lat", "long", "lon", "lng", "alt", "ownername"})

# Parts of namespaces of which everything is private: positions (W3C, GeoRSS, GML), what drones write (DJI, Parrot,
# Skydio, Autel, and Pix4D's "Camera"), pictures and sound in the packet (Google).
_PRIVATE_NAMESPACES: Final = (
    "wgs84_pos",
    "parrot.com/",
    "georss",
    "opengis.net/gml",
    "/drone-",
    "/drone/",
    "autel",
    "pix4d.com/camera",
    "ns.google.com/photos/1.0/image",
    "ns.google.com/photos/1.0/audio",
    "ns.google.com/photos/1.0/depthmap",
)

# A position as a keyword ("geo:lat=47.37", Flickr's machine tags) or as a URI (RFC 5870). Bounded, so that it is fast.
_POSITION: Final = re.compile(
    r"\s{0,20}(?:geo:\s?[-+]?\d|(?:geo|gps|exif)\w{0,9}:?\w{0,9}(?:lat|lon|lng|alt)\w{0,9}\s?=)", re.IGNORECASE
)


def read_packet(packet: bytes) -> Element | None:
    """Return the root element of a packet, or None if it is empty or cannot be read."""
    if not packet:
        return None
    data = _as_utf8(packet)
    try:
        return parse(data, max_bytes=MAX_BYTES)
    except TooMuchMarkupError:
        return None
    except MarkupError:
        pass
    try:
        return parse(packet_repair.repair(data), max_bytes=MAX_BYTES)
    except MarkupError:
        return None


def _as_utf8(packet: bytes) -> bytes:
    """Return a packet in UTF-8, or as it is if it says in which other encoding it is."""
    for start, codec in _ENCODINGS:
        if packet.startswith(start):
            text = packet[: 4 * MAX_BYTES].decode(codec, "replace").strip("\ufeff\0 \t\r\n")
            return _DECLARATION.sub("", text, count=1).encode()
    stripped = packet.strip(_BLANK)
    is_declared = stripped.startswith(b"<?xml") and b"encoding" in stripped[:100]
    return stripped if is_declared else decode_text(stripped).encode()


def rewrite(packet: bytes, addition: bytes, prefixes: Mapping[str, str]) -> bytes:
    """
    Return a packet without its private properties, and with those of the packet `addition`.

    A packet that cannot be read, or is no RDF, counts as missing. `prefixes` maps namespaces to prefixes.
    """
    root, added = read_packet(packet), read_packet(addition)
    properties = find_rdf(root)
    if root is None or properties is None:
        return addition
    _drop_private(root)
    more = find_rdf(added)
    if more is not None:
        properties.children += more.children
    return write(root, prefixes)


def find_rdf(root: Element | None) -> Element | None:
    """Return the element that holds all properties: the root of a packet or one of its children."""
    found = () if root is None else (root, *root.elements())
    return next((each for each in found if each.name == f"{RDF} RDF"), None)


def _drop_private(element: Element) -> None:
    element.attributes = {
        name: value
        for name, value in element.attributes.items()
        if not (_is_private_property(name) or is_position(value))
    }
    element.children = [child for child in element.children if isinstance(child, str) or not _is_private(child)]
    for child in element.elements():
        _drop_private(child)


def _is_private(element: Element) -> bool:
    has_text_only = not element.elements()
    return _is_private_property(element.name) or (has_text_only and is_position(element.text()))


def _is_private_property(name: str) -> bool:
    """Whether a property is private, by its name "namespace local"."""
    namespace, _, local = name.lower().rpartition(" ")
    if namespace == RDF:
        return False  # rdf:Alt is a list
    return (
        local in _PRIVATE_NAMES
        or any(word in local for word in _PRIVATE_WORDS)
        or any(part in namespace for part in _PRIVATE_NAMESPACES)
    )


def is_position(text: str) -> bool:
    """Whether a text is a position: a machine tag, or a URI of the scheme geo."""
    return _POSITION.match(text) is not None


def has_position(text: str) -> bool:
    """Whether a text, or a keyword in it, is a position. Windows writes all keywords of EXIF into one text."""
    return any(map(is_position, re.split("[;,]", text)))
