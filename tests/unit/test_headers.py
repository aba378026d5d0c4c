"""The rules of headers: conditions, ranges, lifetimes, tags, Cache-Status, Server-Timing and file names."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from imgproxy.config.sections import FreshnessSettings
from imgproxy.delivery.request import Timings
from imgproxy.edge.headers import (
    ByteRange,
    RangeNotSatisfiable,
    cache_status,
    caching,
    content_disposition,
    current_tag,
    etag_matches,
    head_bytes,
    http_date,
    is_in_304,
    may_answer,
    requested_range,
    server_timing,
)
from imgproxy.purge.tags import entry_tag, tag_headers, tags

ETAG = '"abc"'


def request_headers(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    """Return the headers of a request, line by line."""
    return CIMultiDictProxy(CIMultiDict(lines))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ("*", True),
        ('"abcd"', False),
        ("abc", False),
        ('"x", W/"y"', False),
        ("", False),
    ],
)
def test_if_none_match(header: str, expected: bool) -> None:
    """A list of tags is compared weakly, and `*` matches everything (RFC 9110 13.1.2)."""
    assert etag_matches(header, ETAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (" * ", True),
        ('"abc"', True),
        ('"x","abc"', True),
        ('W/"abc"', False),
        ('"abc-3000-2"', False),
        ("abc", False),
        ("", False),
    ],
)
def test_if_match(header: str, expected: bool) -> None:
    """A list of tags is compared strongly: a copy from a shared decode has other bytes (RFC 9110 13.1.1)."""
    assert may_answer(header, etag=ETAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"abc"', '"abc"'),
        ('W/"abc"', '"abc"'),
        ('"abc-3000-2"', '"abc-3000-2"'),
        ('"x", W/"abc-750-13"', '"abc-750-13"'),
        ('"abc-"', None),
        ('"abc-3000"', None),
        ('"abc-x-2"', None),
        ('"abd-3000-2"', None),
        ('"x-3000-2"', None),
        ("", None),
    ],
)
def test_a_copy_from_a_shared_decode_is_current_too(header: str, expected: str | None) -> None:
    """Its tag has an ending of its own; a 304 must repeat the tag that the client has (RFC 9111 4.3.4)."""
    assert current_tag(header, etag=ETAG) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", ByteRange(0, 10)),
        ("bytes=90-", ByteRange(90, 10)),
        ("bytes=90-500", ByteRange(90, 10)),
        ("bytes=-5", ByteRange(95, 5)),
        ("bytes=-500", ByteRange(0, 100)),
        ("Bytes=0-9", ByteRange(0, 10)),
        ("bytes=\u0660-\u0669", None),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-99999999999999999999999", None),
    ],
)
def test_ranges(header: str | None, expected: ByteRange | None) -> None:
    """One range is answered in part; several ranges, other units and bad values in full (RFC 9110 14.2)."""
    headers = request_headers() if header is None else request_headers(("Range", header))
    assert requested_range(headers, size_bytes=100, etag=ETAG) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    """RFC 9110 15.5.17."""
    with pytest.raises(RangeNotSatisfiable):
        requested_range(request_headers(("Range", header)), size_bytes=100, etag=ETAG)


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (ETAG, ByteRange(0, 10)),
        (f" {ETAG} ", ByteRange(0, 10)),
        ('"old"', None),
        (f"W/{ETAG}", None),
        ("Fri, 01 Jan 2100 00:00:00 GMT", None),
        ("", None),
    ],
)
def test_if_range_gets_a_part_only_with_this_very_tag(if_range: str, expected: ByteRange | None) -> None:
    """A client must not append a part of the new picture to the old one; a date proves nothing (RFC 9110 13.1.5)."""
    headers = request_headers(("Range", "bytes=0-9"), ("If-Range", if_range))
    assert requested_range(headers, size_bytes=100, etag=ETAG) == expected


def test_stale_extensions_are_sent_only_if_configured() -> None:
    """Both would allow a CDN to show a revoked picture (RFC 5861), so they must be configured."""
    headers = caching(FreshnessSettings(), has_downstream=False)

    assert headers["Cache-Control"] == "public, max-age=300, must-revalidate"
    assert "stale" not in str(headers)
    asked = caching(FreshnessSettings(stale_while_revalidate_s=60), has_downstream=False)
    assert "stale-while-revalidate=60" in asked["Cache-Control"]


def test_a_cdn_keeps_answers_for_a_day_only_if_it_is_purged() -> None:
    """Without a downstream, CDN-Cache-Control has the lifetime of browsers (RFC 9213)."""
    settings = FreshnessSettings(browser_ttl_s=60)

    assert caching(settings, has_downstream=False)["CDN-Cache-Control"].startswith("max-age=60,")
    assert caching(settings, has_downstream=True)["CDN-Cache-Control"].startswith("max-age=86400,")


def test_the_end_of_a_url_bounds_every_lifetime() -> None:
    """A URL that expires in five seconds is cached for five seconds at most."""
    headers = caching(FreshnessSettings(), has_downstream=True, at_most_s=5)

    assert headers["Cache-Control"].startswith("public, max-age=5,")
    assert headers["CDN-Cache-Control"].startswith("max-age=5,")


def test_tags_are_short_and_clean() -> None:
    """A key and an entry have a tag each; characters that separate tags are replaced."""
    assert tags("0123456789abcdef" * 2, "PNIi08x4UdEA") == "k-0123456789ab e-PNIi08x4UdEA"
    assert tags("0123456789abcdef" * 2, None, ["f" * 32]) == "k-0123456789ab k-ffffffffffff"
    assert entry_tag("a b,c\n") == "e-a_b_c_"
    assert tag_headers(("xkey", "Cache-Tag"), "k-1 e-2") == {"xkey": "k-1 e-2", "Cache-Tag": "k-1,e-2"}


def test_cache_status_is_one_member_in_order() -> None:
    """The name comes first, then its parameters (RFC 9211)."""
    assert cache_status(is_hit=True, ttl_s=5, detail="memory") == "imgproxy; hit; ttl=5; detail=memory"
    assert (
        cache_status(is_hit=False, fwd="uri-miss", fwd_status=200, is_stored=True, is_collapsed=True)
        == "imgproxy; fwd=uri-miss; fwd-status=200; stored; collapsed"
    )


def test_server_timing_names_the_stages_that_took_time() -> None:
    """Stages without a duration are left out; times are in milliseconds."""
    assert server_timing(0.1, Timings(fetch_s=0.02, render_s=0.05)) == (
        "fetch;dur=20.0, render;dur=50.0, total;dur=100.0"
    )
    assert server_timing(0.001, None) == "total;dur=1.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", 'attachment; filename="a.jpg"'),
        ('a"b.jpg', 'attachment; filename="a_b.jpg"'),
        ("Zürich.jpg", "attachment; filename=\"Z_rich.jpg\"; filename*=UTF-8''Z%C3%BCrich.jpg"),
        ("a\r\nSet-Cookie: x", 'attachment; filename="a__Set-Cookie: x"'),
    ],
)
def test_a_download_name_cannot_break_out_of_its_header(name: str, expected: str) -> None:
    """Quotes, line ends and slashes are replaced; letters outside ASCII are sent in UTF-8 as well (RFC 6266)."""
    assert content_disposition(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ETag", True),
        ("Cache-Control", True),
        ("CDN-Cache-Control", True),
        ("Vary", True),
        ("Date", True),
        ("Content-Location", True),
        ("Content-Security-Policy", True),
        ("xkey", True),
        ("Content-Type", False),
        ("content-length", False),
        ("Content-Disposition", False),
        ("Accept-Ranges", False),
    ],
)
def test_a_304_has_no_header_about_a_body(name: str, expected: bool) -> None:
    """It repeats what caches need (RFC 9110 15.4.5)."""
    assert is_in_304(name) is expected


def test_a_head_can_be_written_as_bytes() -> None:
    """Status line and headers; more lines may follow, so the empty line is not there yet."""
    head = head_bytes("200 OK", {"ETag": ETAG, "Date": http_date(0)})

    assert head == b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n'
