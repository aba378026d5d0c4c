"""
Find the XMP packet of a GIF. libvips does not read it.

It is the content of an application extension, without the lengths that other blocks have. Behind it 258 bytes, called
the magic trailer, lead a reader that takes the packet for such blocks to the end.
Source: XMP Specification part 3, 1.1.2.
"""

from __future__ import annotations

from typing import Final

_HEAD: Final = b"\x21\xff\x0bXMP DataXMP"
_TRAILER: Final = b"\x01\xff\xfe"


def find(gif: bytes) -> bytes:
    """Return the packet, or nothing."""
    at = gif.find(_HEAD)
    end = gif.find(_TRAILER, at)
    return gif[at + len(_HEAD) : end] if 0 <= at < end else b""
