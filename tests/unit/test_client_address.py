"""The address of a client behind proxies: only what trusted proxies report is believed."""

from ipaddress import ip_network
from typing import Literal

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from imgproxy.edge.client_address import ClientAddresses

TRUSTED = tuple(ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32"))


def address(
    peer: str | None, *lines: str, header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
) -> str | None:
    headers = CIMultiDictProxy(CIMultiDict([(header, line) for line in lines]))
    return ClientAddresses(TRUSTED, header).of(peer, headers)


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),  # the left one is what the client has sent
        ("10.0.0.1", ["192.0.2.7, 10.1.1.1", "10.2.2.2"], "192.0.2.7"),
        ("10.0.0.1", ["10.3.3.3,10.4.4.4"], "10.3.3.3"),  # all are trusted: the farthest
        ("192.0.2.9", ["192.0.2.7"], "192.0.2.9"),  # a stranger reports nothing
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),  # IPv4 over an IPv6 socket
        ("10.0.0.1", ["192.0.2.7, <script>"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7,"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, " * 5000 + "192.0.2.7"], "192.0.2.7"),
        (None, ["192.0.2.7"], None),
    ],
)
def test_the_client_is_the_first_untrusted_address_from_the_right(
    peer: str | None, lines: list[str], expected: str | None
) -> None:
    """What is no address ends the list."""
    assert address(peer, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["for=192.0.2.7"], "192.0.2.7"),
        (['For="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        (["for=198.51.100.1, for=192.0.2.7;proto=http;by=10.0.0.1"], "192.0.2.7"),
        (["for=192.0.2.7;host=example.com", "proto=https;for=10.9.9.9"], "192.0.2.7"),
        (['for="198.51.100.1, for=203.0.113.1", for=192.0.2.7'], "192.0.2.7"),
        (['host="a, for=203.0.113.1";for=192.0.2.7'], "192.0.2.7"),
        (["for=192.0.2.7, for=_proxy-1"], "_proxy-1"),  # RFC 7239 6.3: a word instead of the address
        (["for=192.0.2.7, for=unknown"], "10.0.0.1"),
        (["for=192.0.2.7, proto=https"], "10.0.0.1"),
    ],
)
def test_forwarded_is_read_in_the_same_way(lines: list[str], expected: str) -> None:
    """By the grammar of RFC 7239: elements, pairs, quoted values."""
    assert address("10.0.0.1", *lines, header="Forwarded") == expected


def test_the_header_that_the_proxies_do_not_write_is_not_read() -> None:
    """A client may send it as it likes."""
    headers = CIMultiDictProxy(CIMultiDict([("Forwarded", "for=203.0.113.1"), ("X-Forwarded-For", "192.0.2.7")]))

    assert ClientAddresses(TRUSTED, "X-Forwarded-For").of("10.0.0.1", headers) == "192.0.2.7"
    assert ClientAddresses(TRUSTED, "Forwarded").of("10.0.0.1", headers) == "203.0.113.1"


def test_without_trusted_networks_the_connection_counts() -> None:
    """That is the default."""
    headers = CIMultiDictProxy(CIMultiDict([("X-Forwarded-For", "192.0.2.7")]))

    assert ClientAddresses(()).of("10.0.0.1", headers) == "10.0.0.1"
