"""
Read `data:` URLs, as browsers do: with any parameters, in base64 or with escapes.

Source: RFC 2397; WHATWG Fetch, section "data: URL processor".
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

_WHITE_SPACE: Final = b"\t\n\f\r "
# Python needs 250 bytes for each escape. A drawing of 1 MB has up to 300,000.
MAX_ESCAPES: Final = 400_000


def decode(url: str) -> tuple[str, bytes] | None:
    """Return the media type, in lower case, and the bytes. None: it is no `data:` URL, damaged, or full of escapes."""
    head, comma, body = url.strip().partition(",")
    scheme, _, kind = head.partition(":")
    if scheme.lower() != "data" or not comma or body.count("%") > MAX_ESCAPES:
        return None
    media_type, *parameters = kind.split(";")
    data = unquote_to_bytes(body)
    if parameters and parameters[-1].strip().lower() == "base64":
        packed = data.translate(None, _WHITE_SPACE).rstrip(b"=")
        try:
            data = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
        except binascii.Error:
            return None
    return media_type.strip().lower(), data


def encode(media_type: str, data: bytes) -> str:
    """Return the bytes as a URL in base64."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
