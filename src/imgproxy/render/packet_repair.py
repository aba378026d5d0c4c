"""
Repair XMP packets that are not well-formed, as far as programs are known to damage them.

They write control characters and a bare "&" into texts, leave bytes behind the packet, name another encoding than that
of the bytes, and leave prefixes undeclared. Source of what is allowed: XML 1.0, 2.2 (characters), 2.4 (ampersand).
"""

from __future__ import annotations

import re
from typing import Final

from imgproxy.render.text import decode_text

_DECLARATION: Final = re.compile(r"<\?xml\b[^>]{0,200}\?>")
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# References to control characters: 0 to 31, without tab and line ends.
_CONTROL: Final = re.compile(
    r"&#(?:0{0,9}(?:[0-8]|1[1245-9]|2[0-9]|3[01])|x0{0,9}(?:[0-8bcef]|1[0-9a-f]));", re.IGNORECASE
)
_BARE_AMPERSAND: Final = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});)")
_END: Final = re.compile(r"</(?:[\w-]{1,40}:)?(?:xmpmeta|xapmeta|RDF)\s{0,9}>")
_ROOT: Final = re.compile(r"<[A-Za-z][\w:.-]{0,80}")
_PREFIX: Final = re.compile(r"[\s<]([A-Za-z_][\w.-]{0,40}):[A-Za-z_]")
_PREFIXES_MAX: Final = 100

# The usual prefixes of what a packet is made of, and of what says whose the picture is.
_NAMESPACES: Final = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def repair(packet: bytes) -> bytes:
    """Return the packet in UTF-8, without what is known to make it unreadable. Other damage stays."""
    text = _NOT_XML.sub("", _DECLARATION.sub("", decode_text(packet), count=1))
    text = _BARE_AMPERSAND.sub("&amp;", _CONTROL.sub("", text))
    *_, end = 0, *(found.end() for found in _END.finditer(text))
    return _declare(text[: end or None]).encode()


def _declare(text: str) -> str:
    """Declare the prefixes that are nowhere declared, at the root."""
    root = _ROOT.search(text)
    if root is None:
        return text
    used = sorted({*_PREFIX.findall(text)} - {"xml", "xmlns"})[:_PREFIXES_MAX]
    missing = [prefix for prefix in used if f"xmlns:{prefix}" not in text]
    added = "".join(f' xmlns:{prefix}="{_NAMESPACES.get(prefix, f"unknown:{prefix}")}"' for prefix in missing)
    return text[: root.end()] + added + text[root.end() :]
