"""
The address of a client behind proxies, from `X-Forwarded-For` or `Forwarded` (RFC 7239).

Each proxy appends the address that it was called from. Only what a trusted proxy has appended can be believed, so the
list is read from the right: the first address that is no trusted proxy is the client. What is left of it is whatever
the client has sent.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from multidict import CIMultiDictProxy

# Answers that are remembered. A page has many pictures, and each is asked for with the same header.
REMEMBERED_MAX: Final = 1024
# Of a longer header only the end is read: proxies append.
HEADER_MAX_CHARS: Final = 512
# A pair of an element of Forwarded; its value may be quoted (RFC 7239 4).
_PAIR: Final = re.compile(r'\s*([\w!#$%&\'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;\s]*))\s*(?:;|$)', re.ASCII)
_ELEMENT: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
# An address with a port, as some proxies write it.
_WITH_PORT: Final = re.compile(r"\[([^\]]+)\](?::\d+)?|([0-9.]+):\d+")
# RFC 7239 6.3: a proxy may hide the address behind a word of its own.
_OBFUSCATED: Final = re.compile(r"_[A-Za-z0-9._-]{1,63}")


class ClientAddresses:
    """Finds the address of a client. With no trusted network it is the address of the connection."""

    def __init__(
        self,
        trusted: Sequence[IPv4Network | IPv6Network],
        header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For",
    ) -> None:
        self._trusted = tuple(trusted)
        self._header = header
        self._remembered = lru_cache(REMEMBERED_MAX)(self._find)

    def of(self, peer: str | None, headers: CIMultiDictProxy[str]) -> str | None:
        """Return the client of a request that came over a connection from `peer`, an IP address."""
        if not self._trusted or peer is None:
            return peer
        lines = headers.getall(self._header, ())
        if not lines:
            return peer
        # Several lines are one list (RFC 9110 5.3).
        text = lines[0] if len(lines) == 1 else ", ".join(lines)
        return self._remembered(peer, text[-HEADER_MAX_CHARS:])

    def _find(self, peer: str, text: str) -> str:
        client = _address(peer)
        if client is None or not self._is_trusted(client):
            return peer
        listed = _forwarded(text) if self._header == "Forwarded" else text.split(",")
        for part in reversed(listed):
            word = part.strip()
            address = _address(word)
            if address is None:
                return word if _OBFUSCATED.fullmatch(word) else str(client)
            client = address
            if not self._is_trusted(client):
                break
        return str(client)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _forwarded(text: str) -> list[str]:
    """Return the `for` of each element of a Forwarded header; empty for an element without one."""
    elements = _ELEMENT.findall(text)
    found = ({name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(element)} for element in elements)
    return [pairs.get("for", "") for pairs in found]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in a text, without its port. IPv4 in an IPv6 socket's notation is IPv4."""
    with_port = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((with_port[1] or with_port[2]) if with_port is not None else text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
